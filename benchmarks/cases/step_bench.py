"""The training step: the published one beside ours, on batches that lie there and from files."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastdeit.augment import augment, normalise
from fastdeit.batch import Batch, BatchSource
from fastdeit.benchmarks.cases.ceiling_rates import Ceiling
from fastdeit.benchmarks.cases.step import Files, StepJob
from fastdeit.benchmarks.cases.step_phases import Memory, count_flops, step_phases
from fastdeit.benchmarks.harness.rounds import Case
from fastdeit.benchmarks.peers.deit_loop import (
    BASELINE,
    published_compute,
    published_loop,
    published_note,
)
from fastdeit.benchmarks.peers.loaders import deit_loader
from fastdeit.machine.device import Compute, choose_compile_mode
from fastdeit.machine.threads import num_usable_cores
from fastdeit.measured.rows import Row, compared_with, with_bound
from fastdeit.models import make_model
from fastdeit.models.flops import precision_of
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.pipelines.open import open_pipeline, pipeline_options, train_plan
from fastdeit.training.session import assemble
from fastdeit.training.steps import (
    NUM_CLASSES,
    TrainingSteps,
    endless,
    is_taught,
    random_weights,
    stand_in_teacher,
    usual_teacher,
    work_of,
)

AUGMENTATION = "fastdeit augmentation alone"
PUBLISHED_FILES = f"{BASELINE} from files (its own loader)"
STEPS = {"cpu": 8, "cuda": 30}
"""Steps of a round."""
READ_AHEAD = 4
"""Steps before each round of what reads files: more than an engine has ready when it starts."""


class StepBench:
    """What `measure_step` sets up, measures and works out."""

    def __init__(self, job: StepJob, compute: Compute, stack: ExitStack) -> None:
        """Open the data, which `stack` closes, and build the models."""
        config, has_peers, stand_in = job.config, job.has_peers, usual_teacher(job.recipe)
        self.config, self.compute, self.files = config, compute, job.files
        self.name, self.has_peers = job.name, has_peers
        self.flops: float | None = None
        """Of a step; None if they could not be counted."""
        self.num_steps = STEPS[compute.device.type]
        self.batch_size, size = config.data.batch_size, config.data.image_size
        self.opened: dict[str, BatchSource] = {}
        self.num_classes = NUM_CLASSES
        if job.files is not None:
            self._open(job.files, stack)
        index = synthetic_index(max(256, self.batch_size * 8), self.num_classes)
        plan = train_plan(config.data, index, config.run)
        options = pipeline_options(config.data, compute.device)
        synthetic = stack.enter_context(open_pipeline(index, plan, "synthetic", options))
        self.batch: Batch = next(iter(synthetic)).to(compute.device)

        def teacher() -> torch.nn.Module | None:
            return stand_in_teacher(config, self.num_classes, stand_in) if taught else None

        taught = is_taught(config)
        teaches = f", taught by {random_weights(stand_in)}" if taught else ""
        self.label = f"{config.model.model}, {size} px, batch {self.batch_size}{teaches}"
        self.memory = {name: Memory(compute) for name in (BASELINE, self.name)}
        # ---- the published loop, as timm makes its models ----
        if has_peers:
            with self.memory[BASELINE].building():
                self.images = normalise(self.batch.images_nhwc_u8).contiguous()
                self.published = published_loop(config, teacher(), compute.device, self.num_classes)
        # ---- ours ----
        with self.memory[self.name].building():
            model = make_model(config.model, self.num_classes, size, config.run.seed)
            ours = teacher()
            self.work = work_of(model, ours, size)
            placed = None if ours is None else compute.place(ours)
            self.session = assemble(config, model, placed, compute)
        self.synthetic = synthetic
        self.steps = TrainingSteps(config, self.session, synthetic)
        self.wait_fracs: dict[str, list[float]] = {name: [] for name in self.opened}

    def _open(self, files: Files, stack: ExitStack) -> None:
        """Open the dataset through each engine."""
        data = self.config.data
        index = open_dataset(files.data)
        self.num_classes = len(index.class_names)
        plan = train_plan(data, index, self.config.run)
        for asked in files.engines:
            options = pipeline_options(data, self.compute.device)
            batches = stack.enter_context(open_pipeline(index, plan, asked, options))
            self.opened[f"{self.name} from files ({batches.name})"] = batches

    @property
    def baselines(self) -> list[str]:
        """What rows are compared with."""
        published = [BASELINE] if self.has_peers else []
        own_loader = [PUBLISHED_FILES] if self._has_own_loader else []
        return [*published, *own_loader, self.name]

    @property
    def _has_own_loader(self) -> bool:
        """Whether the published loop is measured with DeiT's own loader too."""
        return self.has_peers and self.files is not None and self.files.source is not None

    # ---- what is measured ----------------------------------------------------------------------
    def cases(self) -> list[Case]:
        """What is measured, in turn."""
        images, memory = self.num_steps * self.batch_size, self.memory

        def published() -> int:
            with memory[BASELINE].working():
                return self.published(self._lying_there())

        def step() -> int:
            with memory[self.name].working():
                self.steps.take(self.num_steps)
            return images

        def augmentation() -> int:
            for _ in range(self.num_steps):
                augment(self.batch, self.config.augment, self.config.run.seed)
            self.compute.synchronize()
            return images

        cases = []
        if self.has_peers:
            note = f"{self.label}; {published_note(self.config, self.compute)}"
            cases.append(Case(name=BASELINE, run=published, note=note, may_fail=True))
        cases.append(
            Case(
                name=self.name,
                run=step,
                note=f"{self.label}; noise that lies on the device; augmentation, optimiser and "
                f"average included; {self.compute.reason}, {self.how()}",
            )
        )
        if self._has_own_loader:
            cases.append(self._published_from_files())
        cases += [self._from_files(name, files) for name, files in self.opened.items()]
        cases.append(Case(name=AUGMENTATION, run=augmentation, note="flip, policy, erase, mix"))
        cases += [self._loader_alone(files) for files in self.opened.values()]
        return cases

    def how(self) -> str:
        """How the model is compiled, and which attention it has."""
        run = self.config.run
        mode = choose_compile_mode(run.compile, self.compute) or "off"
        attention = "torch's choice" if run.attention == "auto" else run.attention
        return f"compile {mode}, attention {attention}"

    def _lying_there(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One batch again and again; a copy, for timm's Mixup writes into its images."""
        for _ in range(self.num_steps):
            yield self.images.clone(), self.batch.labels

    def _published_from_files(self) -> Case:
        """The published loop with DeiT's own loader, end to end."""
        assert self.files is not None and self.files.source is not None
        data = self.config.data
        workers = data.threads or num_usable_cores()
        loader = deit_loader(
            self.files.source,
            None,
            data.image_size,
            self.batch_size,
            workers,
            with_augmentation=True,
            pin_memory=self.compute.device.type == "cuda",
        )
        stream: Any = endless(loader)

        def take(num_steps: int) -> int:
            return self.published(next(stream) for _ in range(num_steps))

        def before() -> None:
            take(2 * workers)  # what they read ahead in others' turns

        return Case(
            name=PUBLISHED_FILES,
            run=lambda: take(self.num_steps),
            before=before,
            note=f"{self.label}; {self.files.source}; RandAugment and erasing by its workers, "
            "whatever the recipe's",
            may_fail=True,
        )

    def _from_files(self, name: str, files: BatchSource) -> Case:
        """Our step, end to end."""
        steps = TrainingSteps(self.config, self.session, files)

        def run() -> int:
            seconds, wait_s = steps.take(self.num_steps)
            self.wait_fracs[name].append(wait_s / seconds)
            return self.num_steps * self.batch_size

        def before() -> None:
            steps.take(READ_AHEAD)

        assert self.files is not None
        return Case(
            name=name,
            run=run,
            before=before,
            after=steps.rest,
            note=f"{self.label}; {self.files.data}, {len(files)} steps an epoch, whose start "
            "counts; a wait for the loader that a busy GPU hides counts as one",
        )

    def _loader_alone(self, files: Any) -> Case:
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
            name=f"fastdeit loader alone ({files.name})",
            run=run,
            before=before,
            after=lambda: stream.close(),
            note="crops as uint8 on the device",
        )

    # ---- what is made of it --------------------------------------------------------------------
    def ceilings(self) -> dict[str, Ceiling]:
        """What the device can do, by the names of the rows that it bounds."""
        own = Ceiling.of(self.compute)
        bounds = dict.fromkeys((self.name, *self.opened), own)
        if not self.has_peers:
            return bounds
        theirs = published_compute(self.compute)
        is_alike = precision_of(theirs) == precision_of(self.compute)
        published = own if is_alike else Ceiling.of(theirs)
        return {**bounds, BASELINE: published, PUBLISHED_FILES: published}

    def completed(self, row: Row, ceilings: dict[str, Ceiling]) -> Row:
        """A row with its bound, MFU, and what else is known of it."""
        row = replace(
            row,
            step_ms=1000 * self.batch_size / row.median,
            model=self.config.model.model,
            image_size=self.config.data.image_size,
            batch_size=self.batch_size,
            settings={"precision": precision_of(self.compute)},
        )
        # Rates from files are compared like with like: with the other one from files.
        published = PUBLISHED_FILES if self._has_own_loader else BASELINE
        wanted = {BASELINE: (), AUGMENTATION: (), self.name: (BASELINE,)}
        wanted |= {PUBLISHED_FILES: (BASELINE,)} | dict.fromkeys(
            self.opened, (published, self.name)
        )
        of_loader_alone = (self.name,)
        names = [name for name in wanted.get(row.name, of_loader_alone) if name in row.ratios]
        row = compared_with(row, {name: row.ratios[name] for name in names})
        ceiling, memory = ceilings.get(row.name), self.memory.get(row.name)
        if ceiling is None:  # a part of a step
            return row
        waits = self.wait_fracs.get(row.name)
        row = replace(
            row,
            mfu=row.median * self.work.train_flops / ceiling.peak.flops_per_s,
            peak_what=f"{ceiling.peak.flops_per_s / 1e12:.4g} TFLOP/s, {ceiling.peak.source}",
            # The first round is the warm-up.
            data_wait_frac=None if waits is None else statistics.median(waits[1:]),
            gpu_memory_gib=None if memory is None else memory.peak_gib,
        )
        if self.flops is None:
            return row
        return with_bound(row, ceiling.matrix_flops * self.batch_size / self.flops, ceiling.what)

    def phases(self) -> dict[str, float]:
        """The parts of our step, with batches from files if there are any."""
        source = next(iter(self.opened.values()), self.synthetic)
        return step_phases(self.config, self.session, source)

    def step_flops(self) -> float:
        """Floating-point operations of one of our steps, counted by torch on two of its images."""
        shown = augment(self.batch, self.config.augment, self.config.run.seed)
        few = next(shown.parts(max(1, self.batch_size // 2)))
        session = replace(self.session, forward=self.session.model)  # compiled code is not seen
        return count_flops(self.config, session, few) * self.batch_size / len(few.images)
