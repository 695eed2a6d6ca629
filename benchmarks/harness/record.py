"""What a part of a benchmark says while it works, wherever that is heard."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from fastdeit import UserError
from fastdeit.benchmarks.harness.rounds import Effort
from fastdeit.measured.rows import Row

if TYPE_CHECKING:
    import torch


class Event(NamedTuple):
    """Something that is said; it must go through a pipe."""

    kind: str
    """The name of the method of `BenchRun` that hears it, without `hear_`."""
    values: tuple[Any, ...] = ()


class DeviceLost(Exception):
    """A device failed in a way that this process does not get over."""


class Record:
    """Takes what a part measures, and says what it cannot."""

    def __init__(
        self,
        send: Callable[[Event], None],
        seconds: float | None = None,
        known: Sequence[Row] = (),
    ) -> None:
        """Begin; `known` are rows of an earlier run, `seconds` how long to measure from now."""
        self._send = send
        self._end = None if seconds is None else time.monotonic() + seconds
        self._known = known

    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows, at once; one that was there already is replaced."""
        self._send(Event("rows", (list(rows),)))

    def leave_out(self, what: str, why: str) -> None:
        """Say that something is not measured, which is no failure."""
        self._send(Event("left_out", (what, why)))

    def fail(self, what: str, why: str) -> None:
        """Say that something could not be measured."""
        self._send(Event("failed", (what, why)))

    def say(self, text: str) -> None:
        """Tell the user something."""
        self._send(Event("said", (text,)))

    def begin(self, item: str) -> None:
        """Say which of a part's items comes now: if the process is lost, the others go on."""
        self._send(Event("begun", (item,)))

    def on_round(self) -> None:
        """Move the progress bar."""
        self._send(Event("round"))

    def hand_over_code(self, device: torch.device) -> None:
        """Hand over the compiled code of this process."""
        from fastdeit.machine.torch_compile import code_fits, compiled_artifacts

        artifacts = compiled_artifacts()
        if artifacts is not None:
            self._send(Event("compiled", (artifacts, code_fits(device))))

    @property
    def left_s(self) -> float | None:
        """Seconds that are left of the part's; None without a limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def effort(self, rounds: int, frac: float = 1.0) -> Effort:
        """How long to measure: so many rounds, in a part of what is left of the time."""
        seconds = None if self.left_s is None else frac * self.left_s
        return Effort(
            rounds,
            seconds,
            self.on_round,
            on_failed=self.not_measured,
            on_warm=lambda: self._send(Event("warm")),
        )

    def known(self, case: str, name: str, **settings: Any) -> Row | None:
        """The row of an earlier run in the same folder, in the same environment."""
        for row in self._known:
            if (row.case, row.name, row.settings) == (case, name, settings):
                self._send(Event("known"))
                return row
        return None

    @contextmanager
    def part(self, what: str) -> Iterator[None]:
        """Measure something; if it cannot be, say so as `not_measured` does, and go on."""
        try:
            yield
        except Exception as error:
            self.not_measured(what, error)

    def not_measured(self, what: str, error: Exception) -> None:
        """Say in one line why not; the traceback goes to stderr unless the error is a user's.

        Raises:
            DeviceLost: after the line, if nothing can be measured in this process any more.
        """
        self.fail(what, reason_of(error))
        if not isinstance(error, UserError):
            traceback.print_exception(error)
            if _is_lost(error):
                raise DeviceLost from error


def reason_of(error: BaseException) -> str:
    """An error in one line; a user's in its own words."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    name = type(error).__name__
    return f"{name}: {text[:300]}" if text else name


def _is_lost(error: BaseException) -> bool:
    """Whether a GPU's context is gone with an error: each further call would fail with it."""
    import torch

    if isinstance(error, torch.OutOfMemoryError) or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return isinstance(error, torch.AcceleratorError)
