"""A part of a conversion on its way to the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.files import replacing
from fastdeit.pipelines.datasets.container import ContainerWriter
from fastdeit.pipelines.datasets.sidecar import read_sidecar, write_sidecar

PART_INDEX = "index.safetensors"


class PartWriter(ContainerWriter):
    """Images one after another in one file, for `fastdeit merge`."""

    _end = 0

    def path_of(self, file_id: int) -> Path:
        """See `ContainerWriter`."""
        del file_id
        (self.folder / "part").mkdir(exist_ok=True)
        return self.folder / "part" / "data"

    def place(self, size: int, label: int) -> tuple[int, int, int]:
        """See `ContainerWriter`."""
        del label
        offset, self._end = self._end, self._end + size
        return 0, offset, self._end

    def finish(self, meta: dict[str, Any], columns: dict[str, Any]) -> Path:
        """See `ContainerWriter`."""
        self.close()
        self.path_of(0).touch()  # all of its images may be bad
        folder = self.path_of(0).parent
        with replacing(folder / PART_INDEX) as file:
            write_sidecar(file, meta, {**self.written(), **columns})
        return folder


def read_part(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a finished part says of itself, and its columns; UserError if it is damaged."""
    try:
        return read_sidecar(folder / PART_INDEX)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} must be a whole part. Found: {error}. Remove it and convert it again."
        ) from error
