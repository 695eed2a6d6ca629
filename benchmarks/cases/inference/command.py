"""`fastdeit bench table5` and `resolutions`: inference, beside what the paper measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from fastdeit import UserError
from fastdeit.benchmarks.cases.inference.architectures import (
    Architecture,
    at_resolution,
    find_architecture,
    table5_architectures,
)
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import Device, Numbers, Out, require_at_least
from fastdeit.benchmarks.harness.run import BenchRun
from fastdeit.errors import require
from fastdeit.paper import resolutions as paper_resolutions

Protocol = Literal["fp32", "tf32", "bf16", "bf16-compiled"]
PAPERS: Protocol = "fp32"
"""The paper's own protocol, which the others are compared with."""
PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "cpu": ("fp32",),
    "cuda": ("fp32", "tf32", "bf16", "bf16-compiled"),
}
"""What is measured unless told otherwise."""
MAX_BATCH = {"cpu": 64, "cuda": 1024}
"""Images of the largest batch that is tried unless told otherwise. timm's own benchmark takes 1,024
too; a CPU is busy with far fewer, and its memory is no limit worth finding."""
QUICK_BATCH = {"cpu": 8, "cuda": 128}
QUICK_BATCH_S = 0.1
"""In a hurry no batch may take longer, beside one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options(Numbers):
    """What both commands may be asked for."""

    protocols: tuple[Protocol, ...] = ()
    """unless given fp32 on a CPU; on a GPU all, with --quick all but bf16-compiled."""
    batch_size: int | None = None
    """images of a batch; unless given the largest that fits is searched."""
    max_batch_size: int | None = None
    """no larger one is tried; unless given 1,024 on a GPU and 64 on a CPU, with --quick 128 and
    8."""
    rounds: int | None = None
    """timed batches; unless given 30, with --quick 5."""
    quick: bool = False
    """smaller batches and fewer of them, to see the whole table soon."""
    device: Device = "auto"
    out: Out = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        Numbers.__post_init__(self)
        require(
            self.batch_size is None or self.max_batch_size is None,
            "max_batch_size",
            self.max_batch_size,
            "has no effect beside --batch-size",
            "Leave one of the two out.",
        )

    def part(
        self,
        case: str,
        architectures: list[Architecture],
        kind: str,
        has_limit: bool = False,
        hands_over_code: bool = False,
    ) -> Part:
        """What is measured on a kind of device; compiling takes long and is not quick."""
        usual = [each for each in PROTOCOLS[kind] if not (self.quick and each == "bf16-compiled")]
        sizes = Sizes(
            rounds=self.rounds or (5 if self.quick else 30),
            batch_size=self.batch_size,
            max_batch_size=self.max_batch_size or (QUICK_BATCH if self.quick else MAX_BATCH)[kind],
            batch_s=QUICK_BATCH_S if self.quick else None,
        )
        protocols = self.protocols or tuple(usual)
        job = InferenceJob(case, architectures, protocols, self.device, sizes, hands_over_code)
        return job.part(has_limit)


AnyOptions = Annotated[Options, tyro.conf.arg(name="")]


def table5(
    models: Annotated[
        tuple[str, ...],
        tyro.conf.arg(help="names of Table 5 or of timm; unless given all of Table 5."),
    ] = (),
    options: AnyOptions = Options(),
) -> int:
    """Measure the models of the paper's Table 5 as the paper did, and as they are run today.

    fp32 is the paper's protocol: without TF32, the largest batch that fits, the mean over 30 runs.
    Each other protocol has rows of its own, beside those of fp32: TF32; bf16, by weights or
    autocast, whichever is faster; the same compiled and channels-last. Models that differ in their
    training only are measured once. The same command with the same --out goes on where it stopped.
    """
    with BenchRun(options.out, options.device) as run:
        found = [] if models else table5_architectures()
        for name in models:
            try:
                found.append(find_architecture(name))
            except UserError as error:
                run.hear_failed(f"table5: {name}", str(error))
        found = list(dict.fromkeys(found))
        if found:
            run.measure(options.part("table5", found, run.machine.kind))
        return run.end()


def resolutions(
    image_size: Annotated[
        tuple[int, ...],
        tyro.conf.arg(help="sides of the images in pixels; unless given 160, 224, 320 and 384."),
    ] = (),
    options: AnyOptions = Options(),
) -> int:
    """Measure DeiT-B at the resolutions of the paper's Table 10, as `table5` does."""
    for side in image_size:
        require_at_least(16, image_size=side)
    sides = image_size or tuple(row.image_size for row in paper_resolutions())
    found = [at_resolution(side) for side in dict.fromkeys(sides)]
    with BenchRun(options.out, options.device) as run:
        run.measure(options.part("resolutions", found, run.machine.kind))
        return run.end()


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How large batches are, and how many of them."""

    rounds: int = 30
    batch_size: int | None = None
    """Images of a batch; None finds the largest that fits."""
    max_batch_size: int
    batch_s: float | None = None
    """No batch is tried that would take longer, in seconds, beside one image."""

    def words(self, has_limit: bool) -> str:
        """What rows must agree on to be compared."""
        if self.batch_size is not None:
            return str(self.batch_size)
        brief = ", brief" if has_limit or self.batch_s is not None else ""
        return f"at most {self.max_batch_size}{brief}"


@dataclass(frozen=True, slots=True)
class InferenceJob:
    """What `measure_inference` does, an architecture after another."""

    case: str
    architectures: list[Architecture]
    protocols: tuple[Protocol, ...]
    device: str
    sizes: Sizes
    hands_over_code: bool = False

    def part(self, has_limit: bool = False) -> Part:
        """With a limit of time the paper's own models come first, then from fast to slow.

        None is begun then that would probably end too late.
        """
        order = self.architectures
        if has_limit:
            order = sorted(order, key=lambda each: (not each.is_deit, -(each.paper or 0)))
        return Part(
            name=self.case,
            work="fastdeit.benchmarks.cases.inference.measure:measure_inference",
            options={"job": replace(self, architectures=order)},
            items=tuple(each.label for each in order),
        )
