"""What a command tells while it works, on a terminal and in a log."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from fastdeit.text import progress as module
from fastdeit.text.progress import progress, say


class Stream(io.StringIO):
    """A text stream that is a terminal, or is none."""

    def __init__(self, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Whether it is one."""
        return self._is_terminal


def written(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, *args: Any, **options: Any
) -> list[str]:
    """The lines of three units, 40 s after one another, with a word in between."""
    stream, now = Stream(is_terminal), [1000.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with progress(*args, **options) as bar:
        for number in range(3):
            now[0] += 40
            bar.set_postfix_str(f"loss {number}", refresh=False)
            bar.update()
            if number == 1:
                say("in between")
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what moves a cursor; the first after a minute, none at the end."""
    found = written(monkeypatch, False, None, "teaching", 4, "step")
    assert found == [
        "teaching: 50%, 2 of 4 step, 01:20 so far, 01:20 left, loss 1",
        "in between",
    ]
    found = written(monkeypatch, False, None, "measuring", unit="rounds")
    assert found == ["measuring: 2 rounds, 01:20 so far, loss 1", "in between"]
    assert written(monkeypatch, False, None, "teaching", 4, is_shown=False) == ["in between"]


def test_a_short_command_has_a_quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing within the first minute; on a terminal a bar after 2 s."""
    monkeypatch.setattr(module, "LOG_S", 1000.0)
    assert written(monkeypatch, False, None, "teaching", 4) == ["in between"]
    shown = "\n".join(written(monkeypatch, True, None, "teaching", 4))
    assert "teaching:  50%" in shown and "in between" in shown
