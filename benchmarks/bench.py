"""`fastdeit bench WHAT`: how fast, compared with what, and what holds it back."""

from __future__ import annotations

from fastdeit.benchmarks.cases.augment import augment
from fastdeit.benchmarks.cases.ceilings import ceilings
from fastdeit.benchmarks.cases.convert import convert
from fastdeit.benchmarks.cases.footprint import footprint
from fastdeit.benchmarks.cases.inference.command import resolutions, table5
from fastdeit.benchmarks.cases.loaders import loaders
from fastdeit.benchmarks.cases.scale import scale
from fastdeit.benchmarks.cases.step import end_to_end, step
from fastdeit.benchmarks.cases.suite import everything
from fastdeit.benchmarks.reporting.compare import compare
from fastdeit.benchmarks.reporting.keep import keep
from fastdeit.benchmarks.reporting.report import report


def bench() -> int:
    """Measure conversion, loaders, augmentation, training and inference beside baseline and bound.

    Compared things take turns in one run, so read the ratios: they hold on a noisy machine, where
    single rates do not. A table goes to stderr; the last line on stdout is one JSON object. With
    --out DIR the rows are kept as they come. `fastdeit bench WHAT --help` shows the options.
    """
    raise AssertionError("one of its subcommands is called")


bench.subcommands = {  # type: ignore[attr-defined]
    "all": everything,
    "step": step,
    "end-to-end": end_to_end,
    "table5": table5,
    "resolutions": resolutions,
    "loaders": loaders,
    "footprint": footprint,
    "augment": augment,
    "convert": convert,
    "scale": scale,
    "ceilings": ceilings,
    "compare": compare,
    "keep": keep,
    "report": report,
}
