"""What is measured in a run of everything, in order: on a GPU the most telling first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastdeit.benchmarks.cases.augment import AugmentOptions
from fastdeit.benchmarks.cases.ceilings import ceilings_part
from fastdeit.benchmarks.cases.convert import ConvertOptions
from fastdeit.benchmarks.cases.inference.architectures import table5_architectures
from fastdeit.benchmarks.cases.inference.command import Options, Protocol
from fastdeit.benchmarks.cases.loaders import LoaderOptions
from fastdeit.benchmarks.cases.step import StepJob, Wanted
from fastdeit.benchmarks.harness.clock import Planned
from fastdeit.benchmarks.harness.isolated import Part
from fastdeit.benchmarks.harness.options import BATCH_SIZE

if TYPE_CHECKING:
    from fastdeit.benchmarks.cases.suite import Suite

TOPICS = tuple(
    "ceilings augment step end-to-end variants table5 distilled loaders peers convert".split()
)
"""What --only and --skip may name; variants, distilled and peers are parts of their own on a GPU
only."""
ALL_ROUNDS = 5
FIRST_STEP = ("deit-b", 512)
"""Recipe and batch that variants on a GPU stand beside."""


def planned(suite: Suite) -> Iterator[Planned]:
    """What is measured on the suite's kind of device, in order."""
    yield from _on_gpu(suite) if suite.kind == "cuda" else _on_cpu(suite)


def _on_gpu(suite: Suite) -> Iterator[Planned]:
    """On a GPU: the most telling first, ours before others'."""
    asked = suite.asked
    yield _ceilings(suite, setup_s=6, least_s=6, most_s=20)
    for size in (256, 1024):
        name = f"augment, batch {size}"
        yield _augment(suite, name, size, False, True, setup_s=6, least_s=4, most_s=20)
    for recipe, setup_s in (("deit-b", 80), ("deit-s", 70), ("deit-ti", 70)):
        yield _step(suite, "step", recipe, 512, (setup_s, 15, 120))
    # Their code is compiled already.
    for recipe in ("deit-b", "deit-ti"):
        yield _step(suite, "end-to-end", recipe, 512, (35, 20, 90), has_files=True)
    ways: list[tuple[int, dict[str, str]]] = [
        (512, {"attention": "cudnn"}),
        (256, {}),
        (1024, {}),
        (512, {"compile": "reduce-overhead"}),
    ]
    for size, way in ways:
        yield _step(suite, "variants", "deit-b", size, (70, 12, 100), way=way)
    yield _table5(suite, suite.clock.limit_s is not None, setup_s=10, least_s=30, most_s=150)
    yield _step(suite, "distilled", "deit-b-distilled", 256, (110, 15, 150))
    yield _loaders(suite, setup_s=15, least_s=25, most_s=90)
    if asked.peers:
        name = "augment, beside timm's"
        yield _augment(
            suite, name, 256, True, False, topic="peers", setup_s=8, least_s=30, most_s=120
        )
        for recipe in ("deit-b", "deit-ti"):
            yield _step(suite, "peers", recipe, 256, (60, 60, 200), True, True)
    if asked.data is None or asked.source is not None:
        yield _convert(suite, setup_s=10, least_s=30, most_s=120)


def _on_cpu(suite: Suite) -> Iterator[Planned]:
    """On a CPU: everything, each in its share of the time."""
    asked = suite.asked
    yield _ceilings(suite, weight=0.05)
    yield _augment(suite, "augment", BATCH_SIZE, asked.peers, False, weight=0.10)
    wants_files = asked.wants("end-to-end")
    yield Planned(
        "step, and from files" if wants_files else "step",
        "end-to-end" if wants_files and not asked.wants("step") else "step",
        lambda _: [_step_part(suite, "demo", None, asked.peers, wants_files)],
        weight=0.38,
        needs_data=wants_files,
    )
    yield _table5(suite, False, weight=0.17)
    yield _loaders(suite, weight=0.17)
    yield _convert(suite, weight=0.07)


# ---- each of them --------------------------------------------------------------------------------
def _ceilings(suite: Suite, **times: Any) -> Planned:
    part = ceilings_part(suite.asked.device, suite.asked.precision, ALL_ROUNDS)
    return Planned("ceilings", "ceilings", lambda _: [part], **times)


def _augment(
    suite: Suite,
    name: str,
    size: int,
    has_peers: bool,
    is_brief: bool,
    topic: str = "augment",
    **times: Any,
) -> Planned:
    beside = ", beside timm's" if has_peers else ""
    options = AugmentOptions(batch_size=size, device=suite.asked.device, peers=has_peers)
    part = options.part(f"augment, batch {size}{beside}", is_brief)
    return Planned(name, topic, lambda _: [part], **times)


def _step(
    suite: Suite,
    topic: str,
    recipe: str,
    batch_size: int,
    times: tuple[float, float, float],
    has_peers: bool = False,
    has_files: bool = False,
    way: dict[str, str] | None = None,
) -> Planned:
    """The step of a recipe on a GPU."""
    way = way or {}
    words = [f", {what} {name}" for what, name in way.items()]
    words += [", from files"] * has_files + [", beside the published loop"] * has_peers
    setup_s, least_s, most_s = times
    return Planned(
        f"step: {recipe}, batch {batch_size}{''.join(words)}",
        topic,
        lambda _: [_step_part(suite, recipe, batch_size, has_peers, has_files, **way)],
        setup_s=setup_s,
        least_s=least_s,
        most_s=most_s,
        compiles=True,
        needs_data=has_files,
    )


def _step_part(
    suite: Suite,
    recipe: str,
    batch_size: int | None,
    has_peers: bool,
    has_files: bool,
    **way: str,
) -> Part:
    """The step of a recipe, and from files."""
    asked = suite.asked
    wanted = Wanted(threads=asked.cores, device=asked.device, precision=asked.precision)
    first = StepJob(recipe=FIRST_STEP[0], config=wanted.resolve(*FIRST_STEP), rounds=ALL_ROUNDS)
    is_first = (recipe, batch_size) == FIRST_STEP and not has_files and not way
    job = StepJob(
        recipe=recipe,
        config=wanted.resolve(recipe, batch_size, **way),
        rounds=ALL_ROUNDS,
        files=suite.files(has_peers) if has_files else None,
        has_peers=has_peers,
        # On a GPU the step by itself is a part of its own, but for others' loop.
        has_step_case=suite.kind == "cpu" or has_peers or not has_files,
        # From files it is the same code.
        hands_over_code=asked.save_compiled and not has_files,
    )
    if is_first and asked.trace:
        trace = suite.run.out / "trace_{}-{}.json.gz".format(*FIRST_STEP)
        job = replace(job, trace=trace)
    if not is_first and recipe == FIRST_STEP[0]:
        job = replace(job, beside=first.row_in(suite.run.rows))
    return job.part


def _table5(suite: Suite, is_brief: bool, **times: Any) -> Planned:
    """Inference; with a limit of time the paper's own models first, on a GPU no others."""
    asked = suite.asked
    found = [each for each in table5_architectures() if each.is_deit or not is_brief]
    protocols: tuple[Protocol, ...] = ("fp32", "bf16-compiled") if is_brief else ()

    def parts(seconds: float | None) -> list[Part]:
        has_limit = seconds is not None
        options = Options(protocols=protocols, quick=has_limit, device=asked.device)
        return [options.part("table5", found, suite.kind, has_limit, asked.save_compiled)]

    return Planned("table5", "table5", parts, **times)


def _loaders(suite: Suite, **times: Any) -> Planned:
    """Every loader, on one core and on all."""

    def parts(_: float | None) -> list[Part]:
        asked, data = suite.asked, suite.data
        assert data is not None
        options = LoaderOptions(
            data=data.beton, source=data.source, threads=asked.cores, peers=asked.peers
        )
        return options.parts

    return Planned("loaders", "loaders", parts, needs_data=True, **times)


def _convert(suite: Suite, **times: Any) -> Planned:
    """Conversion, of fewer images if time is short."""

    def parts(_: float | None) -> list[Part]:
        assert suite.data is not None and suite.data.source is not None
        source, asked = suite.data.source, suite.asked
        return [ConvertOptions(source=source, threads=asked.cores, peers=asked.peers).part]

    return Planned("convert", "convert", parts, needs_data=True, **times)
