"""`fastdeit bench WHAT`: how fast, compared with what, and what holds it back."""

from __future__ import annotations

from fastdeit.benchmarks.commands.data import augment, ceilings, convert, footprint, loaders, scale
from fastdeit.benchmarks.commands.inference import resolutions, table5
from fastdeit.benchmarks.commands.models import end_to_end, step
from fastdeit.benchmarks.commands.results import compare, keep, report
from fastdeit.benchmarks.commands.suite import everything


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
