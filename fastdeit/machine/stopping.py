"""Being asked to stop: a flag that signals set, and the loop reads between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fastdeit.errors import Stopped
from fastdeit.machine.launch import is_first_process

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
REQUEUE = "requeue"
"""A file in the folder of a run that a signal stopped: it says where, and goes when it goes on."""
IMPORTER = "<frozen importlib._bootstrap>"
"""The file that all imports run through, by name."""
AGAIN_S = 1.0
"""A second Ctrl-C ends at once, unless it comes this soon: launchers send it twice."""


class StopRequest:
    """Whether, and by which signal, this process was asked to stop."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._asked_at = 0.0

    def __call__(self) -> bool:
        """Whether it was asked."""
        return self.signal_number != 0

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; the second Ctrl-C raises KeyboardInterrupt."""
        del frame
        now = time.monotonic()
        if not self.signal_number:
            self.signal_number, self._asked_at = number, now
            if not is_first_process():
                return
            more = "; once more ends at once" if number == signal.SIGINT else ""
            sys.stderr.write(f"\nfastdeit: saving after this step{more}\n")
        elif number == signal.SIGINT and now - self._asked_at > AGAIN_S:
            raise KeyboardInterrupt


def comes_again(number: int, frame: FrameType | None) -> bool:
    """Whether a signal came in the middle of an import; if so, it is sent again in a moment.

    What a handler raises there may have to pass C++ code that knows no exceptions, which aborts the
    process: PyTorch has such code.
    """
    while frame is not None and frame.f_code.co_filename != IMPORTER:
        frame = frame.f_back
    if frame is None:
        return False
    again = threading.Timer(0.05, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True


@contextmanager
def stop_at_once() -> Iterator[None]:
    """Until there is something to save: end on SIGTERM and SIGUSR1 with a code to requeue on.

    They raise Stopped in the block.
    """

    def end(number: int, frame: FrameType | None) -> None:
        if not comes_again(number, frame):
            raise Stopped(number, "its start")

    with _handled_by(end, (signal.SIGTERM, signal.SIGUSR1)):
        yield


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM and SIGUSR1 into a request until the end of the block.

    Outside the main thread, where Python takes no signals, and where a signal is ignored, such as
    SIGINT in a background job, nothing is changed.
    """
    request = StopRequest()
    heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    with _handled_by(request.on_signal, heeded):
        yield request


@contextmanager
def _handled_by(
    handler: Callable[[int, FrameType | None], None], numbers: Iterable[signal.Signals]
) -> Iterator[None]:
    before = {}
    with suppress(ValueError):  # not the main thread
        for number in numbers:
            before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)
