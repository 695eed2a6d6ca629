"""Fixtures of the unit tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from report_runs import ENVIRONMENT, HEADS, PNG, MakeRun

OUT_NAMES = ("out.beton", "out")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run folder and returns it."""

    def make(
        name: str = "student",
        heads: dict[str, Any] | None = HEADS,
        environment: dict[str, Any] = ENVIRONMENT,
        recipe: str = "demo-student",
        tail: str = "",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows: list[dict[str, Any]] = [
            {
                "kind": "train",
                "epoch": (step - 1) // 20,
                "step": step,
                "loss": 3 - step / 50,
                "lr": 1e-4,
                "img_per_s": 310.0,
                "data_wait_frac": 0.02,
                "elapsed_s": float(step),
            }
            for step in range(10, 50, 10)
        ]
        if heads is not None:
            rows.append({"kind": "eval", "step": 40, "num_images": 600, "heads": heads})
        text = "".join(json.dumps(row) + "\n" for row in rows) + tail
        (folder / "metrics.jsonl").write_text(text)
        config = {
            "name": recipe,
            "data": {"image_size": 64, "val": "/data/val.beton"},
            "model": {"model": "deit_tiny", "depth": 4},
            "optim": {"epochs": 2},
            "command": ["fastdeit", "train", "a b"],
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "environment.json").write_text(json.dumps(environment))
        (folder / "augmented.png").write_bytes(PNG)
        return folder

    return make


@pytest.fixture(scope="session")
def whole(sample_source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The validation images converted without a stop."""
    from fastdeit.tools.data.convert.command import convert

    root = tmp_path_factory.mktemp("whole")
    for name in OUT_NAMES:
        assert convert(sample_source / "val", root / name) == 0
    return {name: root / name for name in OUT_NAMES}
