"""What a number was measured on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastdeit.measured.environment import describe_environment


@pytest.mark.parametrize(
    ("says", "watts", "driver"),
    [
        ("700.00 W, 580.95.05\n350.00 W, 580.95.05", 700.0, "580.95.05"),
        ("[N/A], 535.1", None, "535.1"),
        ("", None, None),
    ],
)
def test_a_capped_gpu_is_another_machine(
    says: str,
    watts: float | None,
    driver: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Power limit and driver of the first GPU, as nvidia-smi says them."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    found = describe_environment()
    assert (found["gpu"], found["gpu_power_limit_w"], found["driver"]) == ("a GPU", watts, driver)


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made up; nobody is asked."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("PATH", "/nowhere")
    found = describe_environment()
    assert [found[name] for name in ("gpu", "gpu_power_limit_w", "driver", "commit")] == [None] * 4
    assert found["num_cores"] >= 1 and found["memory_gib"] > 0
