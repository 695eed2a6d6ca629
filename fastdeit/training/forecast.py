"""How long a run still takes, from the steps that it took.

A pure function of the steps and times it is told; it reads no clock.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Window:
    """What passed between two updates."""

    num_steps: int
    num_pauses: int
    """Ends of epochs within, with their evaluation and saving."""
    time_s: float


class Forecast:
    """Predicts the end of a run.

    The time is that of the steps left and that of the ends of epochs left: at each of them the run
    evaluates, saves and starts the loaders anew. Both are means over the last two epochs, so a run
    that becomes slower or faster is followed. The first window of a process is left out: it holds
    compilation and the start of the loaders.

    Until a process has gone past the end of an epoch, nothing is known of evaluation, and the
    forecast is a lower bound; `is_lower_bound` says so.
    """

    def __init__(
        self,
        total_steps: int,
        steps_per_epoch: int,
        first_step: int = 0,
        elapsed_before_s: float = 0.0,
        budget_s: float | None = None,
    ) -> None:
        """Begin where the process begins; after each epoch the run evaluates.

        `first_step` and `elapsed_before_s` are what the processes took that this one goes on from.
        `budget_s` is what the whole run may take.
        """
        self._total_steps = total_steps
        self._steps_per_epoch = steps_per_epoch
        self._budget_s = budget_s
        self._step = first_step
        self._step_s = elapsed_before_s
        """When the last step was taken."""
        self._now_s = elapsed_before_s
        self._is_first = True
        self._windows: deque[_Window] = deque()
        self._num_recent = 0
        """Steps in the windows."""

    def update(self, step: int, now_s: float) -> None:
        """Tell how many steps of the whole run are done, and its clock in seconds.

        The processes before are included. An update without a new step (after an evaluation) only
        sets the clock.
        """
        self._now_s = now_s
        num_steps = step - self._step
        if num_steps <= 0:
            return
        # The evaluation after step m comes before step m + 1.
        num_pauses = (step - 1) // self._steps_per_epoch - (self._step - 1) // self._steps_per_epoch
        if not self._is_first:
            window = _Window(num_steps, num_pauses, now_s - self._step_s)
            # Short windows are joined: their number stays small however often this is called.
            last = self._windows[-1] if self._windows else None
            is_short = last is not None and last.num_steps * 50 < self._steps_per_epoch
            if last is not None and is_short and last.num_pauses == num_pauses == 0:
                self._windows.pop()
                joined_s = last.time_s + window.time_s
                window = _Window(last.num_steps + num_steps, 0, joined_s)
            self._windows.append(window)
            self._num_recent += num_steps
            while self._num_recent - self._windows[0].num_steps >= 2 * self._steps_per_epoch:
                self._num_recent -= self._windows.popleft().num_steps
        self._is_first = False
        self._step, self._step_s = step, now_s

    @property
    def left_s(self) -> float | None:
        """Seconds until the end of the run; None before the second window is done."""
        if not self._windows:
            return 0.0 if self._step >= self._total_steps else None
        # Windows without the end of an epoch tell how long a step takes, the others the rest. If
        # every window has one, an epoch being one window, its end is spread over its steps.
        plain = [window for window in self._windows if window.num_pauses == 0] or self._windows
        step_s = sum(window.time_s for window in plain) / sum(window.num_steps for window in plain)
        num_pauses = sum(window.num_pauses for window in self._windows)
        pause_s = 0.0
        if num_pauses:
            rest_s = sum(window.time_s for window in self._windows) - self._num_recent * step_s
            pause_s = max(0.0, rest_s / num_pauses)
        total = (self._total_steps - self._step) * step_s + self._pauses_left * pause_s
        # What has passed since the last step is part of it.
        return max(0.0, total - (self._now_s - self._step_s))

    @property
    def _pauses_left(self) -> int:
        """Ends of epochs to come; that of the last step taken is one of them."""
        epochs = -(-self._total_steps // self._steps_per_epoch)
        return epochs - max(0, self._step - 1) // self._steps_per_epoch

    @property
    def is_lower_bound(self) -> bool:
        """Whether nothing is known of evaluation yet."""
        return not any(window.num_pauses for window in self._windows)

    @property
    def ends_at_s(self) -> float | None:
        """Where the run's clock will stand at its end: what the whole run takes."""
        left_s = self.left_s
        return None if left_s is None else self._now_s + left_s

    @property
    def in_budget(self) -> bool | None:
        """Whether the run ends within its budget; None without one, or while it is not known."""
        ends_at_s = self.ends_at_s
        if self._budget_s is None or ends_at_s is None:
            return None
        if ends_at_s > self._budget_s:
            return False
        return None if self.is_lower_bound else True

    def to_row(self) -> dict[str, Any]:
        """What a row of the metrics file says of it: left_s, left_is_lower_bound, in_budget."""
        left_s = self.left_s
        return {
            "left_s": None if left_s is None else round(left_s, 1),
            "left_is_lower_bound": self.is_lower_bound,
            "in_budget": self.in_budget,
        }
