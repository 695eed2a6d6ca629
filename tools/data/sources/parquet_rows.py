"""Images in the rows of Parquet files, each row group read once where rows come in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError

# Few, so that memory does not grow with the row group: some files are one group of 500 MB.
BATCH_ROWS = 32
BUFFER_BYTES = 1 << 20


def load_pyarrow() -> Any:
    """The module pyarrow.parquet; UserError if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files are read with pyarrow. Found: it is not installed. "
            "Run pip install 'fastdeit[convert]'."
        ) from error
    return pyarrow.parquet


def open_parquet(path: str) -> Any:
    """The pyarrow.parquet.ParquetFile of a path; UserError if it is none, or pyarrow is missing."""
    parquet = load_pyarrow()
    try:
        # pre_buffer would read whole row groups at once, whatever the buffer's size.
        return parquet.ParquetFile(
            path, buffer_size=BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        )
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error


def damaged(path: str, error: Exception) -> UserError:
    """The error for a file that pyarrow cannot read."""
    return UserError(
        f"source must be whole Parquet files. Found: {path} ({' '.join(str(error).split())}). "
        f"Download {Path(path).name} again."
    )


@lru_cache(maxsize=2)
def _keep_open(path: str, *_version: int) -> Any:
    """The same, kept open for the row groups that come next; another version is another file."""
    return open_parquet(path)


@dataclass(frozen=True, slots=True)
class ParquetRow:
    """One row that holds an encoded image."""

    path: str
    column: str
    """A binary column, or a struct column with a binary field `bytes`."""
    leaf: str
    """The path of the bytes: `image` or `image.bytes`."""
    row_group: int
    row: int
    """Counted from 0 in its row group."""

    def read(self) -> bytes:
        """See `Request`."""
        return _reader.read(self)


class RowReader:
    """Reads row groups forward in small batches and keeps the last: one for each process."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        """Forget what is open."""
        self.place: tuple[str, str, int] | None = None
        self.batches: Iterator[Any] = iter(())
        self.batch: Any = None
        self.start = 0

    def read(self, request: ParquetRow) -> bytes:
        """The image of a row.

        Raises ValueError if the row is null, or not there, and UserError if the file is damaged:
        what comes behind a bad page would be read from a wrong place.
        """
        place = (request.path, request.leaf, request.row_group)
        try:
            if place != self.place or request.row < self.start:
                self.open(place)
            while self.batch is None or request.row >= self.start + self.batch.num_rows:
                self.start += 0 if self.batch is None else self.batch.num_rows
                self.batch = next(self.batches)
        except StopIteration:
            self.close()
            raise ValueError(f"row group {request.row_group} has no row {request.row}") from None
        except FileNotFoundError:
            self.close()
            raise
        except (OSError, ValueError, RuntimeError, EOFError) as error:
            self.close()
            raise damaged(request.path, error) from error
        value = self.batch.column(request.column)[request.row - self.start].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is None:
            raise ValueError("the row holds no image: null")
        return bytes(data)

    def open(self, place: tuple[str, str, int]) -> None:
        """Begin a row group."""
        self.close()
        path, leaf, group = place
        stat = Path(path).stat()
        self.batches = _keep_open(path, stat.st_mtime_ns, stat.st_size).iter_batches(
            BATCH_ROWS, row_groups=[group], columns=[leaf], use_threads=False
        )
        self.place = place


_reader = RowReader()


class ParquetRows:
    """A request for each row of some files, in order."""

    def __init__(
        self,
        files: Sequence[str],
        column: str,
        leaf: str,
        file_ids: NDArray[np.int64],
        groups: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> None:
        """Remember where the rows are; column and leaf as in `ParquetRow`.

        For each row group, (G,), `file_ids` and `groups` tell its file and its number in it, `ends`
        how many rows there are up to its end.
        """
        self.files, self.column, self.leaf = files, column, leaf
        self.file_ids, self.groups, self.ends = file_ids, groups, ends

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> ParquetRow:
        number = range(len(self))[number]
        place = int(np.searchsorted(self.ends, number, side="right"))
        row = number - (int(self.ends[place - 1]) if place else 0)
        file = self.files[int(self.file_ids[place])]
        return ParquetRow(file, self.column, self.leaf, int(self.groups[place]), row)
