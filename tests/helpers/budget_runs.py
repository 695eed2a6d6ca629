"""What the tests of `fastdeit budget` ask it, and how they read its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastdeit.config import TrainConfig
from fastdeit.tools.cli import main
from fastdeit.tools.train.budget.command import Changes

TINY = "demo-teacher --device cpu --batch-size 8"


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    """Run the command: exit code, the JSON object of the last line, what it said."""
    code = main(["budget", *line.split()])
    captured = capsys.readouterr()
    return code, json.loads(captured.out.splitlines()[-1]), captured.err


def config_of(recipe: str) -> TrainConfig:
    """A recipe, on the CPU."""
    return Changes(device="cpu", precision="fp32").resolve(recipe)
