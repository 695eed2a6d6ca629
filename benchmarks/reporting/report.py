"""`fastdeit bench report`: all kept rows as one Markdown text, the same for the same rows.

It holds nothing but what the rows say: no clock, no date of today, no order of a file system.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro

from fastdeit import UserError
from fastdeit.benchmarks.reporting.table import case_lines, escaped
from fastdeit.files import replace_file
from fastdeit.measured.rows import Kept, Row, read_all
from fastdeit.text.tables import markdown_lines

RESULTS = Path("benchmarks/results")
REPORT = Path("benchmarks/REPORT.md")
HEAD = "<!-- Made by `fastdeit bench report` from kept rows: measure, keep, make it again. -->"
"""First line of each report."""

BENCHMARKS = {
    "table5": (
        ("table5", "table 5"),
        "inference as in Table 5 of the paper",
        "the paper's V100; bound: a large matrix product",
    ),
    "resolutions": (
        ("resolutions", "table10", "table 10"),
        "inference at each image size, as in Table 10 of the paper",
        "the paper's V100; bound: a large matrix product",
    ),
    "loaders": (
        ("loaders",),
        "files on disk to crops in memory, without a model",
        "FFCV's, DALI's and DeiT's own loaders; bound: bare decoding on as many cores",
    ),
    "footprint": (
        ("footprint", "memory of a rank", "overhead"),
        "memory of a rank and the host's work for a batch",
        "nothing yet",
    ),
    "augment": (
        ("augment",),
        "augmentation on one core, or on a GPU: operations, policies, the whole stage",
        "timm on PIL; bound of the stage: reading uint8 and writing float32",
    ),
    "step": (
        ("step",),
        "training steps on images that lie on the device",
        "the published DeiT loop; bound: a large matrix product",
    ),
    "end-to-end": (
        ("end-to-end", "end to end"),
        "files on disk to updated weights",
        "the published DeiT loop with its own loader, and our step on images that lie there; "
        "bound: a large matrix product",
    ),
    "convert": (
        ("convert",),
        "conversion of a folder of JPEGs, the whole program",
        "FFCV's writer; bound: a bare copy of the files",
    ),
    "ceilings": (
        ("ceilings",),
        "what the machine can do at most: the bounds of the others",
        "nothing: they are the bounds",
    ),
    "budget": (("budget",), "how long a whole training takes, from real steps", "nothing yet"),
    "scale": (
        ("scale",),
        "conversion of as many tiny images as ImageNet has",
        "the aims for memory and time",
    ),
}
"""For each benchmark: the families of its cases, what it measures, against whom."""
PLANNED = tuple(name for name in BENCHMARKS if name != "scale")
"""Those that are to be measured on a GPU and without one."""
ON_HOST = ("loaders", "footprint", "convert", "scale")
"""Those that work on the CPU of whatever machine they are on."""
NOT_VERSIONS = (
    "date cpu num_cores memory_gib gpu num_gpus gpu_power_limit_w commit dirty source device"
).split()


def report(
    results: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RESULTS")] = RESULTS,
    out: Path = REPORT,
    readme: Path | None = None,
) -> int:
    """Write the report of kept results; the same rows give the same bytes.

    Args:
        results: folder of kept results, an --out folder, or a file of rows.
        out: the report, in Markdown; an older report there is replaced.
        readme: a README.md whose table of the main rows is replaced too; it stands between
            `<!-- bench:begin -->` and `<!-- bench:end -->`.

    Returns:
        0.
    """
    kept = read_all(results)
    from fastdeit.benchmarks.reporting.readme_table import readme_table, with_table

    if out.exists() and not out.read_text("utf-8", "replace").startswith(HEAD):
        raise UserError(
            f"out must be a new file or an older report. Found: {out}, which is something else. "
            "Give another --out."
        )
    new_readme = None if readme is None else with_table(readme.read_text(), readme_table(kept))
    replace_file(out, report_text(kept).encode())
    if readme is not None and new_readme is not None:
        replace_file(readme, new_readme.encode())
    facts = {
        "report": str(out),
        "readme": None if readme is None else str(readme),
        "files": sorted(kept),
        "num_rows": sum(map(len, kept.values())),
    }
    print(json.dumps(facts))
    return 0


def report_text(kept: dict[str, list[Kept]]) -> str:
    """The report, in Markdown, of rows by the names of their files, whose order does not matter."""
    files = {name: kept[name] for name in sorted(kept)}
    everything = [each for rows in files.values() for each in rows]
    lines = [HEAD, "", "# Measured so far", "", *_how_to_read(everything)]
    lines += ["## On what", "", *_machine_lines(files)]
    for name in _order_of(everything):
        lines += [f"## {escaped(name)}", ""]
        if name in BENCHMARKS:
            _, what, baseline = BENCHMARKS[name]
            lines += [f"Measured: {what}. Compared with {baseline}.", ""]
        for case, file, group in _cases_of(files, name):
            where = hardware(group[0].environment)
            lines += [f"### {escaped(case)}", "", f"On {escaped(where)} (`{file}`)", ""]
            lines += case_lines([each.row for each in group])
    lines += ["## Not measured yet", "", *_missing_lines(files)]
    return "\n".join(lines).rstrip() + "\n"


def _how_to_read(kept: list[Kept]) -> list[str]:
    """What the figures mean."""
    if not kept:
        return ["Nothing.", ""]
    return [
        "Figures are medians of n timed rounds after one of warm-up, with their 20th and 80th",
        "percentiles. Rows of one table took turns in one run, so read the ratios: they hold on a",
        "noisy machine, where single rates do not. A ratio is the median over the rounds, with its",
        "spread in brackets where the row has it. `of the bound` says which part was reached of a",
        "rate that something else sets; noise can put a median above it. n/a: not known, and not",
        "guessed. Of MB, ms and s less is better. A dirty checkout is marked in the first table.",
        "",
    ]


def _machine_lines(files: dict[str, list[Kept]]) -> list[str]:
    """A line for each environment of each file."""
    environments = [each.environment for kept in files.values() for each in kept]
    versions_of = [set(_versions(environment)) for environment in environments]
    common = set.intersection(*versions_of) if versions_of else set()
    lines = []
    for name, kept in files.items():
        for environment, rows in _by_environment(kept):
            own = [text for text in _versions(environment) if text not in common]
            commit = environment.get("commit") or "n/a"
            dirty = ", dirty" if environment.get("dirty") else ""
            cells = [_gpu_text(environment), environment.get("cpu")]
            cells += [environment.get(key) for key in ("num_cores", "memory_gib", "device")]
            cells += [environment.get("date"), f"{commit}{dirty}", ", ".join(own) or "as below"]
            text = ["n/a" if cell is None else escaped(str(cell)) for cell in cells]
            lines.append([f"`{name}`", str(len(rows)), *text])
    header = "file,rows,GPU,CPU,cores,memory GiB,device,date,commit,versions".split(",")
    if not lines:
        return ["n/a", ""]
    first = [text for text in _versions(environments[0]) if text in common]
    return [
        *markdown_lines([header, *lines]),
        f"Everywhere: {escaped(', '.join(first)) or 'n/a'}.",
        "",
    ]


def _versions(environment: dict[str, Any]) -> list[str]:
    """What of an environment has no column of its own, such as `torch 2.11.0`."""
    return [
        f"{key} {value}"
        for key, value in environment.items()
        if key not in NOT_VERSIONS and value is not None
    ]


def _by_environment(kept: list[Kept]) -> list[tuple[dict[str, Any], list[Kept]]]:
    """Rows of each environment, in the order of the first."""
    groups: dict[str, list[Kept]] = {}
    for each in kept:
        groups.setdefault(json.dumps(each.environment, sort_keys=True), []).append(each)
    return [(group[0].environment, group) for group in groups.values()]


def benchmark_of(row: Row) -> str:
    """The benchmark that a row comes from: one of `BENCHMARKS`, or its family."""
    return next((name for name, of in BENCHMARKS.items() if row.family in of[0]), row.family)


def _order_of(kept: list[Kept]) -> list[str]:
    """The benchmarks that have rows: known ones in their order, then others by name."""
    there = {benchmark_of(each.row) for each in kept}
    return [*(name for name in BENCHMARKS if name in there), *sorted(there - set(BENCHMARKS))]


def _cases_of(
    files: dict[str, list[Kept]], benchmark: str
) -> Iterator[tuple[str, str, list[Kept]]]:
    """Yield each case of a benchmark, its file and its rows, which have one environment."""
    for file, kept in files.items():
        for _, rows in _by_environment(kept):
            own = [each for each in rows if benchmark_of(each.row) == benchmark]
            for case in dict.fromkeys(each.row.case for each in own):
                yield case, file, [each for each in own if each.row.case == case]


def hardware(environment: dict[str, Any]) -> str:
    """A machine in a few words."""
    gpu = f"{environment['gpu']}, " if environment.get("gpu") else ""
    cpu = f"{gpu}{environment.get('cpu') or 'unknown CPU'}"
    return f"{cpu}, {environment.get('num_cores') or 'n/a'} cores"


def _gpu_text(environment: dict[str, Any]) -> str:
    """A GPU with its power limit, where that is known: a capped one is another machine."""
    watts = environment.get("gpu_power_limit_w")
    limit = "" if watts is None else f", {watts:g} W"
    return f"{environment['gpu']}{limit}" if environment.get("gpu") else "none"


def is_on_gpu(kept: Kept) -> bool:
    """Whether a row speaks for a machine with a GPU: measured on it, or on its host where due."""
    environment = kept.environment
    if benchmark_of(kept.row) in ON_HOST or "device" not in environment:
        return bool(environment.get("gpu"))
    return str(environment["device"]).startswith("cuda")


def _missing_lines(files: dict[str, list[Kept]]) -> list[str]:
    """For each benchmark whether there are rows with a GPU and without one."""
    there = {(benchmark_of(each.row), is_on_gpu(each)) for kept in files.values() for each in kept}
    missing = [name for name in PLANNED if not {(name, True), (name, False)} <= there]
    if not missing:
        return ["Every benchmark has rows with a GPU and without one.", ""]
    lines = []
    for name in missing:
        places = [(name, is_gpu) in there for is_gpu in (True, False)]
        marks = ["measured" if is_there else "**not measured**" for is_there in places]
        lines.append([escaped(name), BENCHMARKS[name][1], *marks])
    host = ", ".join(ON_HOST)
    return [
        *markdown_lines([["benchmark", "what", "on a GPU", "on a CPU"], *lines]),
        f"For {host}, which work on the host, `on a GPU` means on a machine that has one. Accuracy",
        "on ImageNet is no matter of this report.",
        "",
    ]
