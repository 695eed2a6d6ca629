"""Importing this makes a process deaf to requests to stop; only the fork server preloads it.

A scheduler sends SIGTERM or SIGUSR1 to every process of a job. The trainer saves and ends; until
then it needs its workers, and these need the server that forked them.
"""

import pickle
import signal
import sys
from types import TracebackType

from fastdeit.machine.stopping import SIGNALS

for _number in SIGNALS:
    signal.signal(_number, signal.SIG_IGN)


def _say_unless_orphaned(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an error, but not that of a worker whose parent ended while it sent the work."""
    if not issubclass(kind, (EOFError, pickle.UnpicklingError, BrokenPipeError)):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_unless_orphaned
