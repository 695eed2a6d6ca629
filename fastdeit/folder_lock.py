"""One run at a time in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from fastdeit.errors import UserError

LOCK = ".lock"


class FolderLock:
    """Holds the folder of a run for this process; a killed process lets it go."""

    def __init__(self, folder: Path) -> None:
        """Nothing is held yet.

        Args:
            folder: may not exist yet.
        """
        self._folder = folder
        self._file: TextIO | None = None

    def take(self) -> None:
        """Take the folder, if it exists and is not held yet.

        File systems without locks are taken as they are.

        Raises:
            UserError: another run holds it.
        """
        if self._file is not None or not self._folder.is_dir():
            return
        file = (self._folder / LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"one run at a time can write to a folder. Found: {holder} writes to "
                f"{self._folder}. Wait for its end, or give another --out."
            ) from error
        except OSError:
            file.close()
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file

    def let_go(self) -> None:
        """Give the folder back; more than once is as good as once."""
        if self._file is not None:
            self._file.close()
            self._file = None
