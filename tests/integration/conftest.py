"""Runs that several modules compare with, and a way to disturb one in the middle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import checkpoints, run_here
from made_once import made_once

from fastdeit.checkpoints.file import load_checkpoint
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.training import loop as train_module
from fastdeit.training.session import Session


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Session], None]], None]:
    """A function that lets something happen right after a step, counted from 1."""

    def set_hook(step: int, hook: Callable[[Session], None]) -> None:
        real, calls = train_module.train_step, 0

        def hooked(config: Any, session: Session, *args: Any) -> torch.Tensor:
            nonlocal calls
            loss = real(config, session, *args)
            calls += 1
            if calls == step:
                hook(session)
            return loss

        monkeypatch.setattr(train_module, "train_step", hooked)

    return set_hook


@pytest.fixture(scope="session")
def containers(sample_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """As those of all tests, of small pictures: most of a small run is decoding large ones."""
    names = {"beton": "train.beton", "webdataset": "train", "val": "val.beton"}

    def make(root: Path) -> None:
        for split in ("train", "val"):
            scaled = root / f"{split}-scaled.beton"
            assert convert(sample_source / split, scaled, max_side=160) == 0
            index = open_dataset(scaled)
            assert index.names is not None
            for number, name in enumerate(index.names):
                file = root / "pictures" / split / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(bytes(index.read(number)))
        for what, name in names.items():
            source = root / "pictures" / ("val" if what == "val" else "train")
            assert convert(source, root / name) == 0

    root = made_once(tmp_path_factory, "small", make)
    made = {what: root / name for what, name in names.items()}
    return {**made, "imagefolder": root / "pictures" / "train"}


@pytest.fixture(scope="session")
def whole_run(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `run_here` that nothing happened to."""

    def make(root: Path) -> None:
        assert run_here(containers, root / "run") == 0

    return made_once(tmp_path_factory, "whole-run", make) / "run"


@pytest.fixture(scope="session")
def half_run(containers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `run_here` that ended in step 10, with checkpoints of steps 4, 6 and 8."""
    out = tmp_path_factory.mktemp("half") / "run"
    real, calls = train_module.train_step, 0

    def step(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "train_step", step)
        assert run_here(containers, out) == 130
    assert [load_checkpoint(path)["step"] for path in checkpoints(out)] == [8, 6, 4]
    return out
