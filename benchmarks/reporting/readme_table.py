"""The short table of the main rows for README.md, made from kept rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from fastdeit import UserError
from fastdeit.benchmarks.cases.inference.architectures import DEIT_B
from fastdeit.benchmarks.cases.loaders import COPIES
from fastdeit.benchmarks.cases.step import STEP
from fastdeit.benchmarks.reporting.report import benchmark_of, hardware, is_on_gpu
from fastdeit.benchmarks.reporting.table import bound, escaped, spread, times
from fastdeit.measured.rows import Kept, Row
from fastdeit.text.figures import rounded
from fastdeit.text.tables import markdown_lines

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
"""What the table stands between."""


@dataclass(frozen=True, slots=True)
class Topic:
    """Something that the table says."""

    what: str
    """It, for a line that says that it was not measured."""
    has: Callable[[Row], bool]
    is_best_of_case: bool = False
    """Whether only the fastest row of a case is shown: engines stand beside each other."""


TOPICS = (
    Topic(
        "loaders, each decode shown three times",
        lambda row: (
            benchmark_of(row) == "loaders"
            and row.name.startswith("fastdeit")
            and COPIES[3] in row.name
        ),
        is_best_of_case=True,
    ),
    Topic("augmentation", lambda row: row.name == "fastdeit: the whole stage"),
    Topic("training step", lambda row: benchmark_of(row) == "step" and row.name == STEP),
    Topic(
        "training end to end, from files",
        lambda row: benchmark_of(row) == "end-to-end" and row.name.startswith(f"{STEP} from files"),
        is_best_of_case=True,
    ),
    Topic(
        "inference of DeiT-B, as in Table 5",
        lambda row: benchmark_of(row) == "table5" and row.model == DEIT_B,
    ),
    Topic(
        "conversion",
        lambda row: benchmark_of(row) == "convert" and row.name.startswith("fastdeit convert"),
    ),
)
"""The lines of the table, in order."""


def readme_table(kept: dict[str, list[Kept]]) -> str:
    """The main rows, by the names of their files, as a Markdown table.

    Of each topic those of one machine, best with a GPU, and of the newest file; one without rows
    says so.
    """
    lines = [line for topic in TOPICS for line in _topic_lines(topic, kept)]
    header = ["what", "rate (p20 to p80)", "hardware", "ratio", "part of the bound"]
    return "\n".join(markdown_lines([header, *lines])).rstrip()


def _topic_lines(topic: Topic, kept: dict[str, list[Kept]]) -> list[list[str]]:
    """The cells of a topic."""
    groups: dict[tuple[bool, str, str, str], list[Kept]] = {}
    for file, rows in kept.items():
        for each in rows:
            if topic.has(each.row):
                environment = json.dumps(each.environment, sort_keys=True)
                date = str(each.environment.get("date"))
                key = (is_on_gpu(each), date, file, environment)
                groups.setdefault(key, []).append(each)
    if not groups:
        return [[escaped(topic.what), "not measured", "n/a", "n/a", "n/a"]]
    chosen = groups[max(groups)]
    if topic.is_best_of_case:
        cases: dict[str, list[Kept]] = {}
        for each in chosen:
            cases.setdefault(each.row.case, []).append(each)
        chosen = [max(rows, key=lambda each: each.row.median) for rows in cases.values()]
    return [_row_cells(each) for each in chosen]


def _row_cells(kept: Kept) -> list[str]:
    """A row's cells."""
    row = kept.row
    ratios = [
        f"{times(ratio)} x {escaped(name.split(' (')[0])}" for name, ratio in row.all_ratios.items()
    ]
    between = spread(row)
    return [
        escaped(f"{row.case}: {row.name}"),
        f"{rounded(row.median)} {escaped(row.unit)} ({between or 'one round'})",
        escaped(hardware(kept.environment)),
        "; ".join(ratios) or "n/a",
        bound(row) or "n/a",
    ]


def with_table(readme: str, new: str) -> str:
    """README's text with another table between its two comments.

    Raises:
        UserError: they are not there once each, one behind the other.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in before + after:
        raise UserError(
            f"the README must hold {BEGIN} and behind it {END}, once each. Found: other text. Put "
            "them where the table belongs."
        )
    return f"{before}{BEGIN}\n{new}\n{END}{after}"
