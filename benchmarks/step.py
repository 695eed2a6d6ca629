"""The training step: the published one beside ours, on batches that lie there and from files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdeit.augment import AugmentedBatch, augment, normalise
from fastdeit.batch import Batch, BatchSource
from fastdeit.benchmarks.harness import Case, Row, measure, with_bound
from fastdeit.benchmarks.published import (
    BASELINE,
    published_compute,
    published_loop,
    published_note,
)
from fastdeit.config import ModelConfig, TrainConfig
from fastdeit.device import Compute
from fastdeit.flops import MATRIX_SIDE, Peak, matrix_flops, peak_flops, precision_of
from fastdeit.models import make_model
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.open import choose_engine, open_pipeline, pipeline_options, train_plan
from fastdeit.pipelines.pace import (
    NUM_CLASSES,
    TrainingSteps,
    endless,
    in_memory,
    is_taught,
    random_weights,
    stand_in_teacher,
    work_of,
)
from fastdeit.pipelines.synthetic import synthetic_index
from fastdeit.session import Session, assemble
from fastdeit.train import train_step

STEP = "fastdeit step"
AUGMENTATION = "fastdeit augmentation alone"
STEPS = {"cpu": 8, "cuda": 30}
"""Steps of a round."""
READ_AHEAD = 4
"""Steps before each round of what reads files: more than an engine has ready when it starts."""


def bench_step(
    config: TrainConfig,
    stand_in: ModelConfig,
    compute: Compute,
    data: Path | None,
    rounds: int,
    on_round: Callable[[], None],
) -> list[Row]:
    """Measure the step of one recipe.

    Args:
        config: the recipe, with the engine and its threads.
        stand_in: what teaches it, with random weights, if it is distilled.
        compute: device and precision.
        data: what the step from files decodes; None leaves the rows of files out.
        rounds: timed rounds of `STEPS` steps each.
        on_round: for a progress bar.

    Returns:
        Rows for the published loop, our step on batches that lie on the device, our step from
        files, our augmentation alone, the loader alone. Ratios are to the published loop, and to
        our step on batches that lie there. The bound of a step is the rate of a large matrix
        product over the step's floating-point operations.

    Raises:
        UserError: the dataset cannot be read, or the step does not fit into the memory.
    """
    with ExitStack() as stack:
        stack.enter_context(in_memory(config.data.batch_size, compute))
        bench = StepBench(config, stand_in, compute, data, stack)
        rows = measure("step", "img/s", bench.cases(), rounds, [BASELINE, STEP], on_round)
        return bench.completed(rows)


class StepBench:
    """What `bench_step` sets up, measures and works out."""

    def __init__(
        self,
        config: TrainConfig,
        stand_in: ModelConfig,
        compute: Compute,
        data: Path | None,
        stack: ExitStack,
    ) -> None:
        """Open the data and build the models; see `bench_step`.

        Args:
            config: see there.
            stand_in: see there.
            compute: see there.
            data: see there.
            stack: closes what is opened.
        """
        self.config, self.compute, self.data = config, compute, data
        self.num_steps = STEPS[compute.device.type]
        self.batch_size, size = config.data.batch_size, config.data.image_size
        options = pipeline_options(config.data, compute.device)
        self.files: BatchSource | None = None
        self.num_classes = NUM_CLASSES
        if data is not None:
            index = open_dataset(data)
            self.num_classes = len(index.class_names)
            plan = train_plan(config.data, index, config.run)
            engine = config.data.engine
            self.engine = choose_engine(index, engine).name
            self.files = stack.enter_context(open_pipeline(index, plan, engine, options))
        index = synthetic_index(max(256, self.batch_size * 8), self.num_classes)
        plan = train_plan(config.data, index, config.run)
        synthetic = stack.enter_context(open_pipeline(index, plan, "synthetic", options))
        self.batch: Batch = next(iter(synthetic)).to(compute.device)

        def teacher() -> torch.nn.Module | None:
            return stand_in_teacher(config, self.num_classes, stand_in) if taught else None

        taught = is_taught(config)
        teaches = f", taught by {random_weights(stand_in)}" if taught else ""
        self.label = f"{config.model.model}, {size} px, batch {self.batch_size}{teaches}"
        # ---- the published loop, as timm makes its models ----
        self.memory = {name: Memory(compute) for name in (BASELINE, STEP)}
        with self.memory[BASELINE].building():
            images = normalise(self.batch.images_nhwc_u8).contiguous()
            self.published = published_loop(
                config, teacher(), images, self.batch.labels, self.num_classes, self.num_steps
            )
        # ---- ours ----
        with self.memory[STEP].building():
            model = make_model(config.model, self.num_classes, size, config.run.seed)
            ours = teacher()
            self.work = work_of(config, model, ours, "")
            placed = None if ours is None else compute.place(ours)
            self.session = assemble(config, model, placed, compute)
        self.steps = TrainingSteps(config, self.session, synthetic)
        self.wait_fracs: list[float] = []

    def cases(self) -> list[Case]:
        """What is measured, in turn."""
        images, memory = self.num_steps * self.batch_size, self.memory

        def published() -> int:
            with memory[BASELINE].working():
                return self.published()

        def step() -> int:
            with memory[STEP].working():
                self.steps.take(self.num_steps)
            return images

        def augmentation() -> int:
            for _ in range(self.num_steps):
                augment(self.batch, self.config.augment, self.config.run.seed)
            self.compute.synchronize()
            return images

        cases = [
            Case(
                name=BASELINE,
                run=published,
                note=f"{self.label}; {published_note(self.config, self.compute)}",
            ),
            Case(
                name=STEP,
                run=step,
                note=f"{self.label}; noise that lies on the device; augmentation, optimiser and "
                f"average included; {self.compute.reason}",
            ),
        ]
        if self.files is not None:
            cases.append(self.from_files(self.files))
        cases.append(Case(name=AUGMENTATION, run=augmentation, note="flip, policy, erase, mix"))
        if self.files is not None:
            cases.append(self.loader_alone(self.files))
        return cases

    def from_files(self, files: BatchSource) -> Case:
        """Our step, end to end."""
        steps = TrainingSteps(self.config, self.session, files)

        def run() -> int:
            seconds, wait_s = steps.take(self.num_steps)
            self.wait_fracs.append(wait_s / seconds)
            return self.num_steps * self.batch_size

        def before() -> None:
            steps.take(READ_AHEAD)

        return Case(
            name=self.files_name,
            run=run,
            before=before,
            after=steps.rest,
            note=f"{self.label}; {self.data}, {len(files)} steps an epoch, whose start counts; a "
            "wait for the loader that a busy GPU hides counts as one",
        )

    def loader_alone(self, files: BatchSource) -> Case:
        """The loader without a step, to the device."""
        stream = endless(files)

        def before() -> None:
            nonlocal stream
            stream = endless(files)
            for _ in range(READ_AHEAD):
                next(stream)

        def run() -> int:
            for _ in range(self.num_steps):
                next(stream)
            self.compute.synchronize()
            return self.num_steps * self.batch_size

        return Case(
            name=f"fastdeit loader alone ({self.engine})",
            run=run,
            before=before,
            after=lambda: stream.close(),
            note="crops as uint8 on the device",
        )

    @property
    def files_name(self) -> str:
        """What the step from files is called."""
        return f"{STEP} from files ({self.engine})"

    def completed(self, rows: list[Row]) -> list[Row]:
        """The rows with bounds, MFU and what else is known of them."""
        flops = self.step_flops()
        own = Ceiling.of(self.compute)
        theirs = published_compute(self.compute)
        ceilings = {STEP: own, BASELINE: own}
        if precision_of(theirs) != precision_of(self.compute):
            ceilings[BASELINE] = Ceiling.of(theirs)
        if self.files is not None:
            ceilings[self.files_name] = own
        done = []
        for row in rows:
            step_ms = 1000 * self.batch_size / row.median
            if row.name not in ceilings:  # a part of a step
                ratios = {} if row.name == AUGMENTATION else {STEP: row.ratios[STEP]}
                baseline, ratio = next(iter(ratios.items()), (None, None))
                row = replace(row, baseline=baseline, ratio=ratio, ratios=ratios)
                done.append(replace(row, step_ms=step_ms))
                continue
            ceiling, is_files = ceilings[row.name], row.name.startswith(f"{STEP} from files")
            memory = self.memory.get(row.name)
            row = replace(
                row,
                ratios={} if row.name == BASELINE else row.ratios,
                step_ms=step_ms,
                mfu=row.median * self.work.train_flops / ceiling.peak.flops_per_s,
                peak_what=f"{ceiling.peak.flops_per_s / 1e12:.4g} TFLOP/s, {ceiling.peak.source}",
                # The first round is the warm-up.
                data_wait_frac=statistics.median(self.wait_fracs[1:]) if is_files else None,
                gpu_memory_gib=None if memory is None else memory.peak_gib,
            )
            done.append(
                with_bound(row, ceiling.matrix_flops * self.batch_size / flops, ceiling.what)
            )
        return done

    def step_flops(self) -> float:
        """Floating-point operations of one of our steps, counted by torch on two of its images."""
        shown = augment(self.batch, self.config.augment, self.config.run.seed)
        few = next(shown.parts(max(1, self.batch_size // 2)))
        session = replace(self.session, forward=self.session.model)  # compiled code is not seen
        return count_flops(self.config, session, few) * self.batch_size / len(few.images)


def count_flops(config: TrainConfig, session: Session, batch: AugmentedBatch) -> int:
    """Floating-point operations of one step, counted by torch while it is taken."""
    with FlopCounterMode(display=False) as counter:
        train_step(config, session, batch, config.optim.warmup_lr)
    return int(counter.get_total_flops())


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a device can do in a precision."""

    peak: Peak
    """Of the datasheet, if it has one."""
    matrix_flops: float
    """Floating-point operations a second of a large matrix product."""
    what: str
    """The same in words."""

    @classmethod
    def of(cls, compute: Compute) -> Ceiling:
        """Look up and measure; waits for the device."""
        side, peak = MATRIX_SIDE[compute.device.type], peak_flops(compute)
        # On a CPU the peak is that product already.
        is_cpu = compute.device.type == "cpu"
        rate = peak.flops_per_s if is_cpu else matrix_flops(compute, side)
        what = f"a {side}^3 matrix product in {precision_of(compute)}, {rate / 1e9:.0f} GFLOP/s"
        return cls(peak, rate, what)


@dataclass(slots=True)
class Memory:
    """How much GPU memory a case takes at most, without that of the others."""

    compute: Compute
    """Where."""
    peak_gib: float | None = None
    """In the first round, its models included; None on a CPU."""
    _built: int = field(default=0)

    @contextmanager
    def building(self) -> Iterator[None]:
        """What is allocated here belongs to the case."""
        before = self._allocated()
        yield
        self._built += self._allocated() - before

    @contextmanager
    def working(self) -> Iterator[None]:
        """A round."""
        if self.compute.device.type != "cuda" or self.peak_gib is not None:
            yield
            return
        before = self._allocated()
        torch.cuda.reset_peak_memory_stats(self.compute.device)
        yield
        peak = torch.cuda.max_memory_allocated(self.compute.device)
        self.peak_gib = (self._built + peak - before) / 2**30

    def _allocated(self) -> int:
        is_gpu = self.compute.device.type == "cuda"
        return torch.cuda.memory_allocated(self.compute.device) if is_gpu else 0
