"""Measuring in a fresh process that is bound to some of the cores."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.harness import Effort
from fastdeit.benchmarks.rows import Row

ROUND, ROWS = "round", "rows "
GRACE_S = 3.0
"""For a process that is asked to end, before it is killed."""


def run_pinned(function: str, options: dict[str, Any], cores: int, effort: Effort) -> list[Row]:
    """Call a function in a process of its own, bound to `cores` of our cores from its beginning.

    Libraries count the cores when they are imported, so binding this process would not do.

    Args:
        function: "module:name"; it takes `options` and `effort`, and returns rows.
        options: of plain types.
        cores: how many.
        effort: how long it measures there; its bar is moved here.

    Raises:
        UserError: it failed; its own message was shown.
    """
    ours = os.sched_getaffinity(0)
    # A pipe of its own: workers that outlive the process by a moment would hold its output open.
    reader, writer = os.pipe()
    asked = json.dumps([options, effort.rounds, effort.seconds])
    command = [sys.executable, "-m", __name__, function, asked, str(writer)]
    os.sched_setaffinity(0, sorted(ours)[:cores])  # inherited
    try:
        # A session of its own: a Ctrl-C is for this process, which hands it on once.
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, pass_fds=[writer], start_new_session=True
        )
    finally:
        os.sched_setaffinity(0, ours)
        os.close(writer)
    rows: list[Row] | None = None
    with process, os.fdopen(reader) as lines:
        try:
            for line in lines:
                if line.startswith(ROWS):
                    rows = [Row(**row) for row in json.loads(line.removeprefix(ROWS))]
                elif line.strip() == ROUND:
                    effort.on_round()
        except BaseException:  # Ctrl-C, above all
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            process.kill()
            raise
    if process.returncode != 0 or rows is None:
        raise UserError(
            f"measuring on {cores} core{'s' * (cores > 1)} failed. Found: exit code "
            f"{process.returncode} of {function}. See above."
        )
    return rows


def main(function: str, options: str, writer: str) -> None:
    """What the process does."""
    module, name = function.split(":")
    with os.fdopen(int(writer), "w", buffering=1) as lines:
        try:
            given, rounds, seconds = json.loads(options)

            def on_round() -> None:
                lines.write(f"{ROUND}\n")

            effort = Effort(rounds, seconds, on_round)
            rows = getattr(importlib.import_module(module), name)(**given, effort=effort)
        except UserError as error:
            raise SystemExit(f"fastdeit bench: {error}") from None
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        lines.write(ROWS + json.dumps([asdict(row) for row in rows]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
