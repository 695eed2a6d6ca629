"""`fastdeit bench all` under a pretended GPU: what comes first, and what a limit of time leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdeit.benchmarks.cases import suite as suite_module
from fastdeit.benchmarks.cases.suite import Data
from fastdeit.benchmarks.harness import clock as clock_module
from fastdeit.benchmarks.harness import isolated
from fastdeit.benchmarks.harness import run as run_module
from fastdeit.benchmarks.harness.clock import RESERVE, Clock, Planned
from fastdeit.benchmarks.harness.isolated import Part, PartFailed
from fastdeit.benchmarks.harness.machine import Machine
from fastdeit.benchmarks.harness.record import Event
from fastdeit.measured.rows import Row
from fastdeit.tools.cli import main

pytestmark = pytest.mark.slow  # as a whole

H100 = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "num_gpus": 1,
    "num_cores": 16,
    "cpu": "a CPU",
    "device": "cuda:0",
    "commit": "0123456789ab",
    "dirty": False,
    "date": "2026-11-27",
}
FIRST = [
    "ceilings",
    "augment, batch 256",
    "augment, batch 1024",
    "step: deit-b, batch 512",
    "step: deit-s, batch 512",
    "step: deit-ti, batch 512",
    "photographs",
    "step: deit-b, batch 512, from files",
    "step: deit-ti, batch 512, from files",
]
"""The most telling, in order."""


class PretendedGpu:
    """Parts take a time of the test's own, on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, beton: Path) -> None:
        """Pretend."""
        self.now = 1000.0
        self.done: list[tuple[Part, dict[str, Any]]] = []
        self.took_s: Callable[[Part], tuple[float, float]] = lambda _: (1.0, 1.0)
        """Seconds of a part before its first timed round, and from there on."""
        self.beton = beton
        for name in ("perf_counter", "monotonic"):
            monkeypatch.setattr(time, name, lambda: self.now)
        machine = Machine(H100, "cuda")
        monkeypatch.setattr(run_module, "look_at", lambda *_: machine)
        monkeypatch.setattr(isolated, "run_isolated", self.run)
        monkeypatch.setattr(suite_module, "engines_for", lambda _: ["ffcv", "pil"])
        monkeypatch.setattr(suite_module, "open_dataset", lambda _: None)
        monkeypatch.setattr(clock_module, "process_age_s", lambda: 0.0)

    def run(self, part: Part, hear: Callable[[Event], None], **given: Any) -> Any:
        """What stands for `run_isolated`."""
        self.done.append((part, given))
        setup_s, rest_s = self.took_s(part)
        limit_s = given["limit_s"]
        if limit_s is not None and setup_s + rest_s > limit_s:
            self.now += limit_s
            raise PartFailed(f"it was not done after {limit_s:.0f} s, its limit", is_late=True)
        self.now += setup_s
        hear(Event("warm"))
        self.now += rest_s
        if part.name == "photographs":
            return Data(self.beton, self.beton)
        case = part.name.split(", from")[0]
        if "from files" in part.name and not part.options["job"].has_step_case:
            case = case.replace("step: ", "end-to-end: ")
        name = "fastdeit step" if case.startswith("step: deit-b, batch") else part.name
        rate = 3000.0 + len(self.done)
        row = Row(case=case, name=name, unit="img/s", n=5, median=rate, p20=rate, p80=rate)
        hear(Event("rows", ([row],)))
        return None

    @property
    def names(self) -> list[str]:
        """The parts that were begun."""
        return [part.name for part, _ in self.done]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PretendedGpu:
    """A pretended H100."""
    monkeypatch.chdir(tmp_path)
    return PretendedGpu(monkeypatch, tmp_path / "x.beton")


def bench_all(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The closing JSON."""
    code = main(["bench", "all", *line.split()])
    facts: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == (1 if facts["failed"] else 0)
    return facts


def test_the_most_telling_comes_first(
    gpu: PretendedGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours before others', each step with the options that its name says."""
    facts = bench_all("--trace --save-compiled", capsys)
    assert gpu.names[: len(FIRST)] == FIRST
    assert gpu.names[len(FIRST) :] == [
        "step: deit-b, batch 512, attention cudnn",
        "step: deit-b, batch 256",
        "step: deit-b, batch 1024",
        "step: deit-b, batch 512, compile reduce-overhead",
        "table5",
        "step: deit-b-distilled, batch 256",
        "loaders, 1 core",
        f"loaders, {suite_module_cores()} cores",
        "augment, batch 256, beside timm's",
        "step: deit-b, batch 256, from files",
        "step: deit-ti, batch 256, from files",
        "convert",
    ]
    by_name = {part.name: part.options.get("job") for part, _ in gpu.done}
    first = by_name["step: deit-b, batch 512"]
    assert first.beside is None and not first.has_peers and first.files is None
    assert first.trace.name == "trace_deit-b-512.json.gz" and first.hands_over_code
    assert (first.config.run.compile, first.config.run.attention) == ("auto", "auto")
    assert first.config.data.batch_size == 512
    cudnn = by_name["step: deit-b, batch 512, attention cudnn"]
    assert cudnn.config.run.attention == "cudnn" and cudnn.trace is None
    name, row = cudnn.beside
    assert (name, row.case) == ("fastdeit step, batch 512", "step: deit-b, batch 512")
    files = by_name["step: deit-ti, batch 512, from files"].files
    assert files.engines == ("ffcv",) and files.source is None
    peers = by_name["step: deit-b, batch 256, from files"]
    assert peers.has_peers and peers.files.source is not None
    assert all(given["limit_s"] is given["seconds"] is None for _, given in gpu.done)
    assert not facts["failed"]


def suite_module_cores() -> int:
    """The cores of this machine, whose loaders are measured."""
    from fastdeit.machine.threads import num_usable_cores

    return num_usable_cores()


def compiling(part: Part) -> tuple[float, float]:
    """Times as they are thought of an H100: seconds to set up, and measuring in the part's time."""
    if part.name.startswith("step"):
        return (25.0 if "files" in part.name else 70.0), 15.0
    return 5.0, 8.0


@pytest.mark.parametrize("minutes", [1, 3, 8, 15])
@pytest.mark.parametrize("speed", [0.4, 1.0, 3.0])
def test_a_limit_is_kept(
    minutes: int, speed: float, gpu: PretendedGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    """The end comes in time, however slow compiling is; what would not fit is left out by name."""

    def took_s(part: Part) -> tuple[float, float]:
        setup_s, rest_s = compiling(part)
        return speed * setup_s, rest_s

    gpu.took_s = took_s
    facts = bench_all(f"--within {minutes}m", capsys)
    assert gpu.now - 1000 <= 60 * minutes * (1 - RESERVE) + 1e-6
    left_out = facts["left_out"]
    for name, why in left_out.items():
        if name not in ("FFCV", "DALI") and "photographs" not in why:
            assert " s were left" in why, name
    planned = {name.split(", from")[0] for name in FIRST}
    done = {name.split(", from")[0] for name in gpu.names}
    assert planned <= done | {name.split(", from")[0] for name in left_out}
    # In order: nothing that is more telling was left out for something that takes as long.
    begun = [name for name in gpu.names if name in FIRST]
    assert begun == [name for name in FIRST if name in begun]
    if minutes == 8 and speed <= 1:
        assert gpu.names[: len(FIRST)] == FIRST
        assert not facts["failed"]


def test_estimates_are_corrected() -> None:
    """By the first step that is compiled anew; what compiles nothing keeps its own."""
    parts: Any = lambda _: []  # noqa: E731
    step = Planned(
        name="a", topic="step", setup_s=80, least_s=10, most_s=120, compiles=True, parts=parts
    )
    other = Planned(name="b", topic="augment", setup_s=80, least_s=10, most_s=120, parts=parts)
    clock = Clock(100, "cuda", time.perf_counter())
    assert clock.why_not(step) is None
    clock.learn(step, 160)
    assert clock.why_not(step) == "it takes about 170 s, and 95 s were left"
    assert clock.why_not(other) is None
    clock.learn(other, 800)
    clock.learn(step, None)
    assert clock.why_not(other) is None and clock.slowness == 2
    assert Clock(None, "cuda").why_not(step) is None
    assert Clock(1, "cpu").why_not(step) is None


def test_a_hang_takes_its_own_time(gpu: PretendedGpu, capsys: pytest.CaptureFixture[str]) -> None:
    """A part that hangs is ended at its own limit, and the others have theirs."""

    def took_s(part: Part) -> tuple[float, float]:
        return (1e9, 0) if part.name == "step: deit-b, batch 512" else (2.0, 2.0)

    gpu.took_s = took_s
    facts = bench_all("--within 8m", capsys)
    assert list(facts["failed"]) == ["step: deit-b, batch 512"]
    assert "it was not done after 240 s, its limit" in facts["failed"]["step: deit-b, batch 512"]
    assert gpu.names[:9] == FIRST
    cudnn = next(part for part, _ in gpu.done if part.name.endswith("attention cudnn"))
    assert cudnn.options["job"].beside is None  # there is nothing to stand beside


def test_without_photographs(gpu: PretendedGpu, capsys: pytest.CaptureFixture[str]) -> None:
    """What needs them is left out by name; the rest is measured."""

    def run(part: Part, hear: Callable[[Event], None], **given: Any) -> Any:
        if part.name == "photographs":
            raise PartFailed("OSError: no space")
        return gpu.run(part, hear, **given)

    isolated.run_isolated = run  # type: ignore[assignment]  # put back by the fixture
    facts = bench_all("", capsys)
    assert list(facts["failed"]) == ["photographs"]
    without = [name for name, why in facts["left_out"].items() if why == "there are no photographs"]
    assert without == [
        "step: deit-b, batch 512, from files",
        "step: deit-ti, batch 512, from files",
        "loaders",
        "step: deit-b, batch 256, from files, beside the published loop",
        "step: deit-ti, batch 256, from files, beside the published loop",
        "convert",
    ]
    assert "step: deit-b-distilled, batch 256" in gpu.names


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("--only step,augment", [*FIRST[1:6]]),
        ("--only variants", ["step: deit-b, batch 512, attention cudnn"]),
        ("--only peers", ["augment, batch 256, beside timm's", "photographs"]),
        ("--only peers,ceilings --no-peers", ["ceilings"]),
        ("--skip step,augment --only ceilings step end-to-end", ["ceilings", *FIRST[6:]]),
    ],
)
def test_only_and_skip(
    line: str, names: list[str], gpu: PretendedGpu, capsys: pytest.CaptureFixture[str]
) -> None:
    """Topics with commas or spaces between; photographs are made where they are needed."""
    bench_all(line, capsys)
    assert gpu.names[: len(names)] == names


def test_shares_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its share of what is left: what one does not use is the others'."""
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    parts: Any = lambda _: []  # noqa: E731
    plan = [Planned(name=n, topic=n, weight=w, parts=parts) for n, w in (("a", 1.0), ("b", 3.0))]
    clock = Clock(60, "cpu", begun=100)
    whole = 60 * (1 - RESERVE)
    assert clock.share_s(plan[0], plan[1:]) == pytest.approx(whole / 4)
    now += 30
    assert clock.share_s(plan[1], []) == pytest.approx(whole - 30)
    assert clock.limit_of(1) == 120 and clock.limit_of(100) == 400
    assert Clock(None).share_s(plan[0], []) is None and Clock(None).limit_of(None) is None
