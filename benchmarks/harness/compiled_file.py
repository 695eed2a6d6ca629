"""The compiled code of a run's parts, in one file, and that of an earlier run."""

from __future__ import annotations

from pathlib import Path

from fastdeit.benchmarks.harness.record import Record

COMPILED = "compiled.zip"
"""In an --out folder."""


class CompiledFile:
    """Grows by the code of each part, so that an end loses only the last."""

    def __init__(self, path: Path) -> None:
        """Begin; an older file stays until the first part is done."""
        self.path, self._is_begun = path, False

    def add(self, artifacts: bytes, fits: dict[str, str]) -> None:
        """Add a part's code: what `compiled_artifacts` and, the same for all, `code_fits` give."""
        from fastdeit.machine.torch_compile import write_compiled

        write_compiled(self.path, artifacts, fits, is_added=self._is_begun)
        self._is_begun = True


def load(record: Record, path: Path, device: str) -> None:
    """Put a file's code into torch's caches, where the processes of the parts find it."""
    import torch

    from fastdeit.machine.torch_compile import load_compiled

    num = load_compiled(path, torch.device(device))
    record.say(f"compiled code of {num} parts: {path}")
