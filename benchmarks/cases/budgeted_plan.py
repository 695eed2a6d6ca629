"""What is measured in a run of everything, in order: on a GPU the most telling first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastdeit.benchmarks.cases.inference.architectures import table5_architectures
from fastdeit.benchmarks.cases.inference.measure import Protocol
from fastdeit.benchmarks.commands.shared import BATCH_SIZE
from fastdeit.benchmarks.harness.clock import Planned
from fastdeit.errors import UserError

if TYPE_CHECKING:
    from fastdeit.benchmarks.cases.suite import Suite

TOPICS = (
    "ceilings",
    "augment",
    "step",
    "end-to-end",
    "variants",
    "table5",
    "distilled",
    "loaders",
    "peers",
    "convert",
)
"""What --only and --skip may name; variants, distilled and peers are parts of their own on a GPU
only."""


def planned(kind: str, suite: Suite) -> Iterator[Planned]:
    """What is measured on a kind of device, in order."""
    yield from on_gpu(suite) if kind == "cuda" else on_cpu(suite)


def on_gpu(suite: Suite) -> Iterator[Planned]:
    """On a GPU: the most telling first, ours before others'."""
    yield Planned(
        name="ceilings", topic="ceilings", setup_s=6, least_s=6, most_s=20, parts=suite.ceilings
    )
    for size in (256, 1024):
        yield Planned(
            name=f"augment, batch {size}",
            topic="augment",
            setup_s=6,
            least_s=4,
            most_s=20,
            parts=lambda _, size=size: suite.augment(size, False, True),  # type: ignore[misc]
        )
    for recipe, setup_s in (("deit-b", 80), ("deit-s", 70), ("deit-ti", 70)):
        yield step_planned(suite, "step", recipe, 512, setup_s, 15, 120)
    # Their code is compiled already.
    for recipe in ("deit-b", "deit-ti"):
        yield step_planned(suite, "end-to-end", recipe, 512, 35, 20, 90, has_files=True)
    variants: list[tuple[int, dict[str, str]]] = [
        (512, {"attention": "cudnn"}),
        (256, {}),
        (1024, {}),
        (512, {"compile": "reduce-overhead"}),
    ]
    for size, changed in variants:
        yield step_planned(suite, "variants", "deit-b", size, 70, 12, 100, changed=changed)
    has_limit = suite.clock.limit_s is not None
    ours = [each for each in table5_architectures() if each.is_deit]
    protocols: tuple[Protocol, ...] = ("fp32", "bf16-compiled")
    yield Planned(
        name="table5",
        topic="table5",
        setup_s=10,
        least_s=30,
        most_s=150,
        parts=suite.table5(protocols, ours) if has_limit else suite.table5(()),
    )
    yield step_planned(suite, "distilled", "deit-b-distilled", 256, 110, 15, 150)
    yield Planned(
        name="loaders",
        topic="loaders",
        setup_s=15,
        least_s=25,
        most_s=90,
        needs_data=True,
        parts=suite.loaders,
    )
    if suite.asked.has_peers:
        yield Planned(
            name="augment, beside timm's",
            topic="peers",
            setup_s=8,
            least_s=30,
            most_s=120,
            parts=lambda _: suite.augment(256, True, False),
        )
        yield step_planned(suite, "peers", "deit-b", 256, 60, 60, 200, True, True)
        yield step_planned(suite, "peers", "deit-ti", 256, 60, 60, 200, True, True)
    if suite.asked.data is None or suite.asked.source is not None:
        yield Planned(
            name="convert",
            topic="convert",
            setup_s=10,
            least_s=30,
            most_s=120,
            needs_data=True,
            parts=suite.convert,
        )


def step_planned(
    suite: Suite,
    topic: str,
    recipe: str,
    batch_size: int,
    setup_s: float,
    least_s: float,
    most_s: float,
    has_peers: bool = False,
    has_files: bool = False,
    changed: dict[str, str] | None = None,
) -> Planned:
    """The step of a recipe on a GPU."""
    changed = changed or {}
    words = [f", {what} {name}" for what, name in changed.items()]
    words += [", from files"] * has_files + [", beside the published loop"] * has_peers
    return Planned(
        name=f"step: {recipe}, batch {batch_size}{''.join(words)}",
        topic=topic,
        setup_s=setup_s,
        least_s=least_s,
        most_s=most_s,
        compiles=True,
        needs_data=has_files,
        parts=lambda _: suite.step(recipe, batch_size, has_peers, has_files, **changed),
    )


def on_cpu(suite: Suite) -> Iterator[Planned]:
    """On a CPU: everything, each in its share of the time."""
    has_peers = suite.asked.has_peers
    yield Planned(name="ceilings", topic="ceilings", weight=0.05, parts=suite.ceilings)
    yield Planned(
        name="augment",
        topic="augment",
        weight=0.10,
        parts=lambda _: suite.augment(BATCH_SIZE, has_peers, False),
    )
    wants_files = suite.asked.wants("end-to-end")
    yield Planned(
        name="step, and from files" if wants_files else "step",
        topic="end-to-end" if wants_files and not suite.asked.wants("step") else "step",
        weight=0.38,
        needs_data=wants_files,
        parts=lambda _: suite.step("demo", None, has_peers, wants_files),
    )
    yield Planned(name="table5", topic="table5", weight=0.17, parts=suite.table5(()))
    yield Planned(
        name="loaders", topic="loaders", weight=0.17, needs_data=True, parts=suite.loaders
    )
    yield Planned(
        name="convert", topic="convert", weight=0.07, needs_data=True, parts=suite.convert
    )


def check_topics(only: tuple[str, ...], skip: tuple[str, ...]) -> None:
    """Refuse topics that there are not.

    Raises:
        UserError: one is not known, or nothing is left.
    """
    for option, names in (("only", only), ("skip", skip)):
        for name in names:
            if name not in TOPICS:
                raise UserError(
                    f"{option} must name what is measured. Found: {name}. Known: "
                    f"{', '.join(TOPICS)}."
                )
    if not set(only or TOPICS) - set(skip):
        raise UserError(
            f"something must be left to measure. Found: --skip {','.join(skip)}. Skip less."
        )
