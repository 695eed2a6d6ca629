"""Inference: images a second of a forward pass, by the paper's protocol and by modern ones.

The paper's (`fp32`): float32 without TF32, contiguous (NCHW), eager, the largest batch that fits,
the mean over 30 runs of a batch. Modern ones are rows of their own and never mixed with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fastdeit import UserError
from fastdeit.benchmarks.cases.ceiling_rates import Ceiling
from fastdeit.benchmarks.cases.inference.architectures import Architecture
from fastdeit.benchmarks.cases.inference.command import PAPERS, InferenceJob, Protocol, Sizes
from fastdeit.benchmarks.cases.inference.forward import (
    Fit,
    Forward,
    Network,
    fastest_way,
    free_memory,
    largest_batch,
    require_fit,
    saying,
    timed_at,
)
from fastdeit.benchmarks.harness.record import Record
from fastdeit.benchmarks.harness.rounds import MIN_ROUNDS
from fastdeit.machine.device import Compute, choose_compute
from fastdeit.measured.rows import Row, with_bound, with_ratio
from fastdeit.models.flops import precision_of

LEAST_PASSES = 2 + 1 + MIN_ROUNDS
"""Forward passes that a row takes at least: two to find the batch, a warm-up, the rounds."""
PASSES = 2 * LEAST_PASSES
"""So many fit into a row's share of a limit of time."""
COMPILE_S = 45.0
"""What compiling a model is thought to take until one was compiled."""
LEAST_ROW_S = 2.0
"""Share of a row in a limit of time, at least."""


def measure_inference(record: Record, job: InferenceJob, items: tuple[str, ...]) -> None:
    """Measure architectures; what cannot be measured is said, and the others go on."""
    case = job.case
    with _fixed_switches():
        at = choose_compute(job.device).device
        bench = InferenceBench(record, case, at, job.sizes)
        asked = list(dict.fromkeys(job.protocols))
        if at.type == "cpu" and "tf32" in asked:
            asked.remove("tf32")
            with record.part(f"{case}: tf32"):
                raise UserError(
                    "protocol tf32 needs a GPU. Found: device cpu. Leave it out of --protocols."
                )
        turns = [each for each in job.architectures if each.label in items]
        bench.num_left = len(turns) * len(asked)
        for architecture in turns:
            record.begin(architecture.label)
            bench.measure(architecture, asked)
        if bench.left_out:
            names = "; ".join(bench.left_out)
            record.leave_out(f"{len(bench.left_out)} rows of {case}", f"no time was left: {names}")
        if job.hands_over_code:
            with record.part(f"{case}: compiled code"):
                record.hand_over_code(at)


@contextmanager
def _fixed_switches() -> Iterator[None]:
    """Torch's global switches of precision and of choosing kernels are afterwards as before."""
    matmul = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn
    tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark


@dataclass(slots=True)
class InferenceBench:
    """What `measure_inference` knows while it goes from model to model."""

    record: Record
    case: str
    device: torch.device
    sizes: Sizes
    left_out: list[str] = field(default_factory=list)
    num_left: int = 0
    ceilings: dict[str, Ceiling] = field(default_factory=dict)
    """By precision, the best that was measured so far."""
    slowness: float = 0.0
    """The paper's rate over ours, the most of all rows."""
    overhead_s: dict[str, float] = field(default_factory=dict)
    """Seconds of a row beside its batches, by protocol; the most of all rows."""

    def measure(self, architecture: Architecture, protocols: list[Protocol]) -> None:
        """Measure one architecture in every protocol; its rows go to the run."""
        network: Network | None = None
        papers: Row | None = None
        for protocol in protocols:
            name = f"{architecture.label}, {protocol}"
            row = self.known(name, protocol)
            self.num_left -= 1
            if row is None and not self._has_time(architecture, protocol):
                self.left_out.append(name)
                continue
            begun = time.monotonic()
            if row is None and network is None:
                network = self._network_of(architecture)
                if network is None:
                    self.num_left -= len(protocols) - protocols.index(protocol) - 1
                    return
            with self.record.part(f"{self.case}: {name}"):
                if row is None:
                    assert network is not None
                    row = self._row_of(name, protocol, network)
                    if papers is not None:  # they were not timed in turns
                        row = with_ratio(row, papers.name, papers)
                    self.learn(row, architecture, protocol, time.monotonic() - begun)
                papers = row if protocol == PAPERS else papers
                self.record.add([row])
            free_memory(self.device)

    def _network_of(self, architecture: Architecture) -> Network | None:
        """Build a model; None if that failed, which is said."""
        network: Network | None = None
        what = f"{self.case}: {architecture.label}"
        with self.record.part(what), saying(architecture, self.device):
            network = Network.of(architecture, self.device)
        return network

    def known(self, name: str, protocol: Protocol) -> Row | None:
        """The row of an earlier run of the same command."""
        row = self.record.known(self.case, name, **self.settings(protocol))
        if row is None or (not self._has_limit and row.n != self.sizes.rounds):
            return None
        return row

    def settings(self, protocol: Protocol) -> dict[str, Any]:
        """As in `Row.settings`."""
        return {"protocol": protocol, "batch": self.sizes.words(self._has_limit)}

    # ---- the limit of time ---------------------------------------------------------------------
    def _has_time(self, architecture: Architecture, protocol: Protocol) -> bool:
        """Whether a row would probably end before the limit; the first one is always measured."""
        if not self._has_limit or not self.overhead_s:
            return True
        others_s = [s for known, s in self.overhead_s.items() if known != "bf16-compiled"]
        guess_s = COMPILE_S if protocol == "bf16-compiled" else max(others_s, default=0.0)
        overhead_s = self.overhead_s.get(protocol, guess_s)
        image_s = self.slowness / architecture.paper if architecture.paper else 0.0
        return self._remaining_s() > overhead_s + LEAST_PASSES * image_s

    @property
    def _has_limit(self) -> bool:
        """Whether the time is limited."""
        return self.record.left_s is not None

    def _remaining_s(self) -> float:
        """Seconds until the limit."""
        assert self.record.left_s is not None
        return self.record.left_s

    def share_s(self) -> float | None:
        """Seconds that a row may take."""
        if not self._has_limit:
            return None
        fair = self._remaining_s() / (self.num_left + 1)
        return min(max(fair, LEAST_ROW_S), self._remaining_s())

    def learn(
        self, row: Row, architecture: Architecture, protocol: Protocol, took_s: float
    ) -> None:
        """Remember how long a row took."""
        if architecture.paper is not None:
            self.slowness = max(self.slowness, architecture.paper / row.median)
        assert row.batch_size is not None
        rest_s = took_s - row.n * row.batch_size / row.median
        self.overhead_s[protocol] = max(self.overhead_s.get(protocol, 0.0), rest_s)

    # ---- a row ---------------------------------------------------------------------------------
    def _row_of(self, name: str, protocol: Protocol, network: Network) -> Row:
        """Measure a row; a UserError says that not even one image fits, or that it cannot run."""
        architecture, share_s = network.architecture, self.share_s()
        # Sets torch's switches for TF32.
        compute = choose_compute(str(self.device), protocol.removesuffix("-compiled"))
        try:
            with saying(architecture, self.device):
                batch, why = self._batch_of(network, protocol, compute, share_s)
                torch.backends.cudnn.benchmark = True  # usual where the size of images is fixed
                way, tried = fastest_way(network, protocol, compute, batch)
                row = self._timed(name, Forward(network, way, compute), batch, share_s)
        finally:
            torch.backends.cudnn.benchmark = False
            if protocol == "bf16-compiled":
                torch.compiler.reset()  # what it keeps of this model is not needed again
        assert row.batch_size is not None and row.mean is not None
        if row.batch_size < batch:
            why = f"{why}, less what the kernels' work space takes"
        notes = [f"{way}{tried}", why, f"mean of {row.n} runs {row.mean:.5g} img/s"]
        if architecture.also:
            notes.append(f"stands for {' and for '.join(architecture.also)} too")
        ceiling = self._ceiling_of(compute)
        row = replace(
            row,
            model=architecture.model,
            image_size=architecture.image_size,
            params_m=network.num_parameters / 1e6,
            gmacs=network.flops / 2e9,
            paper=architecture.paper,
            paper_what=architecture.paper_what,
            settings=self.settings(protocol),
            note="; ".join(notes),
        )
        return with_bound(row, ceiling.matrix_flops / network.flops, ceiling.what)

    def _ceiling_of(self, compute: Compute) -> Ceiling:
        """The best of what was measured beside each row: one on a busy machine would be too low."""
        precision, now = precision_of(compute), Ceiling.of(compute)
        before = self.ceilings.get(precision, now)
        self.ceilings[precision] = max(before, now, key=lambda each: each.matrix_flops)
        return self.ceilings[precision]

    def _batch_of(
        self, network: Network, protocol: Protocol, compute: Compute, share_s: float | None
    ) -> tuple[int, str]:
        """The batch of a row, and why it is that."""
        if self.sizes.batch_size is not None:
            return self.sizes.batch_size, "batch as asked"
        # Compiled code is not tried: it would be compiled anew for every size.
        forward = Forward(network, replace(network.ways(protocol)[0], is_compiled=False), compute)
        limits = [
            self.sizes.batch_s,
            None if share_s is None else share_s / PASSES,
        ]
        given = [limit for limit in limits if limit is not None]
        fit = largest_batch(forward.seconds_of, self.sizes.max_batch_size, min(given, default=None))
        require_fit(fit.batch_size, network.architecture, self.device)
        return fit.batch_size, _words_of(fit, forward.refused)

    def _timed(self, name: str, forward: Forward, batch: int, share_s: float | None) -> Row:
        """Time batches; a batch that fitted before and does not now is made smaller."""
        seconds = None if share_s is None else share_s / 2
        effort = replace(self.record.effort(self.sizes.rounds), seconds=seconds)
        while True:
            row = timed_at(self.case, name, forward, batch, effort)
            if row is not None:
                return row
            free_memory(self.device)
            asked = self.sizes.batch_size is not None
            batch = 0 if asked else batch - max(1, batch // 8)
            require_fit(
                batch, forward.network.architecture, self.device, self.sizes.batch_size or 1
            )


def _words_of(fit: Fit, refused: str | None) -> str:
    """Why a batch is as large as it is."""
    if fit.stopped_by == "cap":
        return f"no batch above {fit.batch_size} was tried"
    if fit.stopped_by == "time":
        return "a larger batch would take too long"
    return "the largest batch that fits" if refused is None else f"a larger batch fails: {refused}"
