"""A run of `fastdeit bench`: rows are kept as they come, so that an end loses only the last."""

from __future__ import annotations

import datetime
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any

from fastdeit import UserError
from fastdeit.benchmarks.harness import isolated
from fastdeit.benchmarks.harness.clock import process_age_s
from fastdeit.benchmarks.harness.isolated import Part, PartFailed
from fastdeit.benchmarks.harness.machine import in_words, look_at
from fastdeit.benchmarks.harness.record import Event, Record, reason_of
from fastdeit.benchmarks.reporting.bars import plot_bars
from fastdeit.benchmarks.reporting.report import report_text
from fastdeit.benchmarks.reporting.table import parts_line, row_line, tables_of
from fastdeit.files import LOCK, FolderLock, replace_file
from fastdeit.machine.stopping import comes_again
from fastdeit.measured.rows import ROWS, Kept, Row, read_rows, write_rows
from fastdeit.text.progress import progress, say

REPORT = "report.md"
COMPILED = "compiled.zip"
"""The compiled code of the parts; it grows by each, so that an end loses only the last."""
LOG = "bench-log.txt"
"""What the processes of the parts printed: warnings, tracebacks."""


class BenchRun:
    """Rows of one call, their environment, their files and the progress bar."""

    def __init__(
        self,
        out: Path | None,
        device: str = "cpu",
        precision: str = "auto",
        is_shown: Callable[[Row], bool] = lambda _: True,
    ) -> None:
        """Look at the machine and the folder, before anything is measured.

        Args:
            out: folder of all that is written; rows of other measurements there stay, older ones of
                the same are replaced. None is bench-DATE in the working folder.
            device: where models run, as it was asked for.
            precision: likewise.
            is_shown: which rows the closing table has.

        Raises:
            UserError: the device is not there, the folder holds anything but what a benchmark
                wrote, or another run writes to it.
            RunError: the machine cannot be looked at.
        """
        self.began = time.monotonic() - process_age_s()
        self.out = out or Path(f"bench-{datetime.date.today().isoformat()}")
        _check_folder(self.out)  # before anything takes time
        self.machine = look_at(device, precision, isolated.run_isolated)
        self.environment = self.machine.environment
        self.rows: list[Row] = []
        self.failed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        """What was not to be measured here, and why."""
        self.ended_by: str | None = None
        """The signal, or the error, that ended the run early."""
        self._lock = FolderLock(self.out)
        self._is_made = not self.out.exists()
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock.take()
        self._before = _check_folder(self.out)
        self._known = [each.row for each in self._before if self._is_here(each)]
        self._num_known = 0
        self._is_shown = is_shown
        self._item: str | None = None
        self._on_hangup: Any = None
        self.setup_s: float | None = None
        """How long the last part took until everything had had its untimed round."""
        self._part_began = 0.0
        self._has_code = False
        self._bar = progress(None, "measuring", unit="rounds")

    def __enter__(self) -> BenchRun:
        """Say what is measured on; a terminal that is closed ends the run as SIGTERM does."""
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            with suppress(ValueError):  # not the main thread
                self._on_hangup = signal.signal(signal.SIGHUP, _hang_up)
        for line in (*in_words(self.environment), f"rows go to {self.out / ROWS}"):
            say(line)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """After an early end: the table, the report and the JSON of what there is."""
        self._bar.close()
        if isinstance(error, UserError) and not self.rows:
            if self._is_made:
                for name in (LOCK, LOG):
                    (self.out / name).unlink(missing_ok=True)
                with suppress(OSError):
                    self.out.rmdir()
        elif error is not None:
            self.ended_by = self.ended_by or _how_ended(error)
            self.end()
        self._lock.let_go()
        if self._on_hangup is not None:
            signal.signal(signal.SIGHUP, self._on_hangup)

    # ---- parts -----------------------------------------------------------------------------------
    def measure(
        self, part: Part, limit_s: float | None = None, seconds: float | None = None
    ) -> Any:
        """Measure a part; if it cannot be, say so in one line and return None.

        Args:
            part: what; what its function returned is returned.
            limit_s: it is ended after so many seconds; None sets no limit.
            seconds: how long it measures.
        """
        began, result = time.monotonic(), None
        self.setup_s, self._part_began = None, began
        say(f"[{began - self.began:4.0f} s] {part.name}")
        left = part.items
        while True:
            self._item = None
            passed_s = time.monotonic() - began
            try:
                result = isolated.run_isolated(
                    replace(part, items=left),
                    self.hear,
                    limit_s=None if limit_s is None else limit_s - passed_s,
                    seconds=None if seconds is None else max(0.0, seconds - passed_s),
                    known=self._known,
                    log=self.out / LOG,
                    start=self.machine.start,
                )
            except PartFailed as error:
                left = self._after(part.name, left, error)
                if left and (limit_s is None or time.monotonic() - began < limit_s):
                    continue
                if left:
                    self.hear_left_out(f"{part.name}: {', '.join(left)}", "no time was left")
            except Exception as error:  # the process could not be started, say
                self._after(part.name, (), PartFailed(reason_of(error)))
            except BaseException as error:
                self.ended_by = _how_ended(error)
                self.hear_failed(self._item or part.name, f"{self.ended_by} came")
                raise
            return result

    def load_compiled(self, path: Path | None) -> None:
        """Put the compiled code of an earlier run where the parts find it.

        Raises:
            UserError: it is of no use here.
        """
        if path is None:
            return
        part = Part(
            name="loading compiled code",
            work=f"{__name__}:load_code",
            options={"path": path, "device": self.environment["device"]},
        )
        self.measure(part)
        if part.name in self.failed:
            raise UserError(self.failed.pop(part.name))

    def _after(self, name: str, items: tuple[str, ...], error: PartFailed) -> tuple[str, ...]:
        """Say that a part failed; the items that another process goes on with."""
        item = self._item
        if not error.is_told:
            where = "" if error.is_user else f" ({self.out / LOG})"
            self.hear_failed(item or name, f"{error}{where}")
        if error.is_late or item not in items:
            return ()
        return items[items.index(item) + 1 :]

    def hear(self, event: Event) -> None:
        """Take what a part says."""
        getattr(self, f"hear_{event.kind}")(*event.values)

    def hear_rows(self, rows: list[Row]) -> None:
        """Rows that were measured."""
        self.add(rows)

    def hear_failed(self, what: str, why: str) -> None:
        """Something that could not be measured."""
        self.failed[what] = why
        say(f"not measured: {what}: {why}")
        with suppress(OSError), (self.out / LOG).open("a") as log:
            log.write(f"== not measured: {what}: {why}\n")

    def hear_left_out(self, what: str, why: str) -> None:
        """Something that is not measured here, which is no failure."""
        self.left_out[what] = why

    def hear_said(self, text: str) -> None:
        """A word for the user."""
        say(text)

    def hear_begun(self, item: str) -> None:
        """The item that comes now."""
        self._item = item

    def hear_known(self) -> None:
        """A row that was there already."""
        self._num_known += 1

    def hear_round(self) -> None:
        """A round is done."""
        self._bar.update()

    def hear_warm(self) -> None:
        """Everything has had its untimed round."""
        if self.setup_s is None:
            self.setup_s = time.monotonic() - self._part_began

    def hear_compiled(self, artifacts: bytes, fits: dict[str, str]) -> None:
        """The compiled code of a part; an older file stays until the first comes."""
        from fastdeit.machine.torch_compile import write_compiled

        write_compiled(self.out / COMPILED, artifacts, fits, is_added=self._has_code)
        self._has_code = True

    # ---- rows ------------------------------------------------------------------------------------
    def add(self, rows: Iterable[Row]) -> None:
        """Keep rows and show them, at once; what is measured again takes the place of the older."""
        for row in rows:
            here = [each.key for each in self.rows]
            older = self.rows[here.index(row.key)] if row.key in here else None
            if older is None:
                self.rows.append(row)
            else:
                self.rows[here.index(row.key)] = row
            if older is None or older.median != row.median:  # else more is known of it
                say(row_line(row))
            if row.phases_ms:
                say(parts_line(row))
        own = {row.key for row in self.rows}
        others = [kept for kept in self._before if kept.row.key not in own]
        mine = [Kept(row, self.environment) for row in self.rows]
        try:
            write_rows(self.out / ROWS, [*others, *mine])
        except OSError as error:  # they are printed, now and at the end
            what = "keeping the rows"
            if what not in self.failed:
                self.hear_failed(what, reason_of(error))

    def _is_here(self, kept: Kept) -> bool:
        then = {**kept.environment, "date": None}
        return then == {**self.environment, "date": None}

    # ---- the end ---------------------------------------------------------------------------------
    def end(self) -> int:
        """Write report and charts, a table on stderr, JSON on stdout; 1 if something failed."""
        self._bar.close()
        rows = [row for row in self.rows if self._is_shown(row)]
        if rows:
            print(tables_of(rows), file=sys.stderr)
        if self.failed:
            print(f"{len(self.failed)} not measured, see above", file=sys.stderr)
        for what, why in self.left_out.items():
            print(f"left out: {what}: {why}", file=sys.stderr)
        if self._num_known:
            there = f"{self._num_known} rows were there already"
            print(f"{there}; another --out than {self.out} measures again", file=sys.stderr)
        try:
            self._draw()
        # What was measured is told whatever becomes of the pictures.
        except Exception as error:
            self.failed["report and charts"] = f"{type(error).__name__}: {error}"
            print(f"not drawn: {self.failed['report and charts']}", file=sys.stderr)
        finally:
            facts = {
                "rows": [asdict(row) for row in self.rows],
                "failed": self.failed,
                "left_out": self.left_out,
                "ended_by": self.ended_by,
                "environment": self.environment,
                "out": str(self.out),
            }
            print(json.dumps(facts), flush=True)
        return 1 if self.failed else 0

    def _draw(self) -> None:
        """The report of all rows in the folder, and a chart of each benchmark of this run."""
        log = self.out / LOG
        with suppress(OSError):
            if log.stat().st_size == 0:
                log.unlink()
        if not (self.out / ROWS).exists():
            return
        text = report_text({ROWS: read_rows(self.out / ROWS)})
        replace_file(self.out / REPORT, text.encode())
        for stem in dict.fromkeys(row.file_stem for row in self.rows):
            rows = [row for row in self.rows if row.file_stem == stem]
            plot_bars(rows, self.out / f"{stem}.png")
        if any(row.family == "table5" for row in self.rows):
            from fastdeit.paper.figure1 import plot_figure1

            plot_figure1(self.rows, self.out / "figure1.png")


def load_code(record: Record, path: Path, device: str) -> None:
    """Put a file's code into torch's caches, where the processes of the parts find it."""
    import torch

    from fastdeit.machine.torch_compile import load_compiled

    num = load_compiled(path, torch.device(device))
    record.say(f"compiled code of {num} parts: {path}")


def measure_parts(parts: Iterable[Part], out: Path | None, device: str = "cpu") -> int:
    """Measure parts, one after another, and end; returns the exit code."""
    with BenchRun(out, device) as run:
        for part in parts:
            run.measure(part)
        return run.end()


def _how_ended(error: BaseException) -> str:
    """What ended a run, in a word or a line."""
    if isinstance(error, KeyboardInterrupt):
        return "SIGINT"
    if isinstance(error, SystemExit):  # the program's way with SIGTERM
        return "SIGHUP" if error.code == HUNG_UP else "SIGTERM"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


HUNG_UP = 128 + signal.SIGHUP


def _hang_up(number: int, frame: FrameType | None) -> None:
    """End the program through every block that cleans up."""
    if not comes_again(number, frame):
        sys.exit(HUNG_UP)


def _check_folder(out: Path) -> list[Kept]:
    """The rows that an --out folder holds, if there is one.

    Raises:
        UserError: it holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"out must be a folder. Found: the file {out}. Give another --out.")
    if not out.exists():
        return []
    if (out / ROWS).exists():
        return read_rows(out / ROWS)
    own = (LOG, COMPILED, LOCK)
    foreign = next((file for file in out.iterdir() if file.name not in own), None)
    if foreign is not None:
        raise UserError(
            "out must be a new or empty folder, or that of earlier measurements. Found: "
            f"{foreign}. Give another --out."
        )
    return []
