"""`fastdeit bench table5` and `resolutions`: inference, beside what the paper measured."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fastdeit import UserError
from fastdeit.benchmarks.commands.shared import require_at_least
from fastdeit.errors import require
from fastdeit.paper import resolutions as paper_resolutions

Protocol = Literal["fp32", "tf32", "bf16", "bf16-compiled"]


def table5(
    models: tuple[str, ...] = (),
    protocols: tuple[Protocol, ...] = (),
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    device: str = "auto",
    out: Path | None = None,
) -> int:
    """Measure the models of the paper's Table 5 as the paper did, and as they are run today.

    fp32 is the paper's protocol: without TF32, the largest batch that fits, the mean over 30 runs.
    Each other protocol has rows of its own, beside those of fp32: TF32; bf16, by weights or
    autocast, whichever is faster; the same compiled and channels-last. Models that differ in their
    training only are measured once. The same command with the same --out goes on where it stopped.

    Args:
        models: names of Table 5 or of timm; unless given all of Table 5.
        protocols: unless given fp32 on a CPU; on a GPU all, with --quick all but bf16-compiled.
        batch_size: images of a batch; unless given the largest that fits is searched.
        max_batch_size: no larger one is tried; unless given 1,024 on a GPU and 64 on a CPU, with
            --quick 128 and 8.
        rounds: timed batches; unless given 30, with --quick 5.
        quick: smaller batches and fewer of them, to see the whole table soon.
        device: where; auto, cpu, cuda or cuda:N.
        out: folder for the rows, a chart and Figure 1, bench-DATE unless given; rows of other
            benchmarks there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    check(batch_size, max_batch_size, rounds)
    from fastdeit.benchmarks.cases.inference.architectures import (
        find_architecture,
        table5_architectures,
    )
    from fastdeit.benchmarks.cases.inference.measure import Sizes, inference_part
    from fastdeit.benchmarks.harness.run import BenchRun

    with BenchRun(out, device) as run:
        kind = run.machine.kind
        found = [] if models else table5_architectures()
        for name in models:
            try:
                found.append(find_architecture(name))
            except UserError as error:
                run.hear_failed(f"table5: {name}", str(error))
        found = list(dict.fromkeys(found))
        sizes = Sizes.of(kind, rounds, batch_size, max_batch_size, quick)
        if found:
            asked = chosen(protocols, kind, quick)
            run.measure(inference_part("table5", found, asked, device, sizes))
        return run.end()


def resolutions(
    image_size: tuple[int, ...] = (),
    protocols: tuple[Protocol, ...] = (),
    batch_size: int | None = None,
    max_batch_size: int | None = None,
    rounds: int | None = None,
    quick: bool = False,
    device: str = "auto",
    out: Path | None = None,
) -> int:
    """Measure DeiT-B at the resolutions of the paper's Table 10, as `table5` does.

    Args:
        image_size: sides of the images in pixels; unless given 160, 224, 320 and 384.
        protocols: as in `bench table5`.
        batch_size: as in `bench table5`.
        max_batch_size: as in `bench table5`.
        rounds: as in `bench table5`.
        quick: as in `bench table5`.
        device: where; auto, cpu, cuda or cuda:N.
        out: folder for the rows and a chart, bench-DATE unless given; rows of other benchmarks
            there stay.

    Returns:
        0, or 1 if something could not be measured.
    """
    check(batch_size, max_batch_size, rounds)
    for side in image_size:
        require_at_least(16, image_size=side)
    from fastdeit.benchmarks.cases.inference.architectures import at_resolution
    from fastdeit.benchmarks.cases.inference.measure import Sizes, inference_part
    from fastdeit.benchmarks.harness.run import BenchRun

    sides = image_size or tuple(row.image_size for row in paper_resolutions())
    found = [at_resolution(side) for side in dict.fromkeys(sides)]
    with BenchRun(out, device) as run:
        kind = run.machine.kind
        sizes = Sizes.of(kind, rounds, batch_size, max_batch_size, quick)
        asked = chosen(protocols, kind, quick)
        run.measure(inference_part("resolutions", found, asked, device, sizes))
        return run.end()


def check(batch_size: int | None, max_batch_size: int | None, rounds: int | None) -> None:
    """Refuse what cannot be measured.

    Raises:
        UserError: a number is too small, or two options contradict each other.
    """
    require_at_least(1, batch_size=batch_size, max_batch_size=max_batch_size, rounds=rounds)
    require(
        batch_size is None or max_batch_size is None,
        "max_batch_size",
        max_batch_size,
        "has no effect beside --batch-size",
        "Leave one of the two out.",
    )


def chosen(protocols: tuple[Protocol, ...], kind: str, quick: bool) -> tuple[Protocol, ...]:
    """The protocols that are asked for, or the device's; compiling takes long and is not quick."""
    from fastdeit.benchmarks.cases.inference.measure import PROTOCOLS

    usual = PROTOCOLS[kind]
    return protocols or tuple(each for each in usual if not (quick and each == "bf16-compiled"))
