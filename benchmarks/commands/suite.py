"""`fastdeit bench all`: everything, in a given time."""

from __future__ import annotations

from pathlib import Path

from fastdeit.benchmarks.commands.shared import Precision, require_at_least
from fastdeit.durations import parse_hours
from fastdeit.errors import require
from fastdeit.progress import say


def everything(
    within: str | None = None,
    data: Path | None = None,
    source: Path | None = None,
    threads: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    out: Path | None = None,
) -> int:
    """Measure everything: ceilings, loaders, augmentation, training, conversion, inference.

    Needs no dataset and no network: it draws photographs of its own, which are removed again. A
    short table comes last; --out DIR gets all rows, a report and charts.

    Args:
        within: end within this time, such as 8m; sizes and rounds are chosen so. Unless given
            everything is measured in full, which takes from half an hour to hours.
        data: dataset in place of photographs of our own, best a .beton.
        source: ImageFolder of the same images, for DALI's and DeiT's own pipelines and for
            conversion; they are left out without it.
        threads: threads or workers of each loader; 0 takes every usable core.
        device: where models run: auto, cpu, cuda or cuda:N.
        precision: of our step, as in `fastdeit train`: auto is bf16 on a GPU and fp32 on a CPU.
        out: folder for rows.jsonl, report.md and the charts; rows of other benchmarks there stay.

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
    from fastdeit.benchmarks.run import BenchRun
    from fastdeit.benchmarks.suite import Clock, Suite, is_main
    from fastdeit.cores import num_usable_cores
    from fastdeit.device import choose_compute

    clock = Clock(limit_s)
    compute = choose_compute(device, precision)
    with BenchRun(out, compute.device) as run:
        Suite(run, compute, threads or num_usable_cores(), clock).measure(data, source)
        code = run.end([row for row in run.rows if is_main(row)])
        if limit_s is not None and clock.elapsed_s > limit_s:
            took = f"took {clock.elapsed_s:.0f} s, not {limit_s:.0f} s"
            say(f"{took}: the least that is measured takes so long here as it is now")
        return code
