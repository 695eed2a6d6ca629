"""`fastdeit bench all`: everything, in a given time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastdeit.benchmarks.commands.models import load_compiled
from fastdeit.benchmarks.commands.shared import Precision, require_at_least
from fastdeit.errors import require
from fastdeit.text.figures import parse_hours
from fastdeit.text.progress import say

if TYPE_CHECKING:
    from fastdeit.benchmarks.harness.run import BenchRun


def everything(
    within: str | None = None,
    only: tuple[str, ...] = (),
    skip: tuple[str, ...] = (),
    peers: bool = True,
    data: Path | None = None,
    source: Path | None = None,
    threads: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    trace: bool = False,
    save_compiled: bool = False,
    compiled: Path | None = None,
    out: Path | None = None,
) -> int:
    """Measure everything: ceilings, augmentation, training, inference, loaders, conversion.

    Needs no dataset and no network: it draws photographs of its own, which are removed again. Each
    part runs in a process of its own: what fails is a line, and the others go on. A row is on disk
    when it is measured; table, report and the closing JSON come whatever happens. On a GPU the most
    telling comes first.

    Args:
        within: end within this time, such as 8m, compiling and warm-up counted; sizes and rounds
            are chosen so. On a GPU a part that would not fit is left out by name; on a CPU each
            does the least that tells something. Unless given everything is measured in full, which
            takes from half an hour to hours.
        only: what is measured: ceilings, augment, step, end-to-end, variants, table5, distilled,
            loaders, peers, convert, with commas or spaces between; all unless given. Variants,
            distilled and peers are parts of their own on a GPU only.
        skip: what is not, likewise.
        peers: whether others (PIL, the published loop, FFCV's and DALI's own) are measured too.
        data: dataset in place of photographs of our own, best a .beton.
        source: ImageFolder of the same images, for DALI's and DeiT's own pipelines and for
            conversion; they are left out without it.
        threads: threads or workers of each loader; 0 takes every usable core.
        device: where models run: auto, cpu, cuda or cuda:N.
        precision: of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU.
        trace: on a GPU, write torch's profile of one step of DeiT-B into the folder.
        save_compiled: write the compiled code of all parts into the folder, as compiled.zip.
        compiled: compiled code of an earlier run on the same kind of GPU: a part starts in seconds.
        out: folder for rows.jsonl, report.md and the charts, bench-DATE unless given; rows of other
            benchmarks there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    require_at_least(0, threads=threads)
    require(
        source is None or data is not None,
        "source",
        source,
        "has no effect without the dataset of its images",
        "Pass --data X.beton too.",
    )
    limit_s = None if within is None else 3600 * parse_hours(within)
    only, skip = listed(only), listed(skip)
    from fastdeit.benchmarks.cases.budgeted_plan import check_topics
    from fastdeit.benchmarks.cases.suite import Asked, Suite, check_data, is_main
    from fastdeit.benchmarks.harness.clock import Clock
    from fastdeit.benchmarks.harness.run import BenchRun
    from fastdeit.machine.threads import num_usable_cores

    check_topics(only, skip)
    if data is not None:
        check_data(data, source)
    clock = Clock(limit_s)
    with BenchRun(out, device, precision, is_main) as run:
        clock.kind = run.machine.kind
        check_code_options(run, save_compiled, compiled, trace)
        load_compiled(run, compiled)
        asked = Asked(
            device=device,
            precision=precision,
            threads=threads or num_usable_cores(),
            only=only,
            skip=skip,
            has_peers=peers,
            data=data,
            source=source,
            hands_over_code=save_compiled,
            has_trace=trace,
        )
        Suite(run, asked, clock).measure()
        code = run.end()
        if limit_s is not None and clock.elapsed_s > limit_s:
            took = f"took {clock.elapsed_s:.0f} s, not {limit_s:.0f} s"
            say(f"{took}: the least that is measured takes so long here as it is now")
        return code


def listed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names with commas or spaces between."""
    return tuple(name for text in names for name in text.split(",") if name)


def check_code_options(
    run: BenchRun, save_compiled: bool, compiled: Path | None, trace: bool
) -> None:
    """Refuse what has no effect on a CPU, where nothing of all is compiled."""
    for name, value in (
        ("save_compiled", save_compiled), ("compiled", compiled or False), ("trace", trace),
    ):  # fmt: skip
        require(
            not value or run.machine.kind == "cuda",
            name,
            value,
            "has no effect in `bench all` on a CPU",
            "Leave it out, or take `bench step --compile default`.",
        )
