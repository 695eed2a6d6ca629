"""The runs of an ablation: what each trains, how it is started, and what is known of it.

Nothing here imports torch; each run is a process of its own.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from fastdeit import UserError
from fastdeit.config import TrainConfig
from fastdeit.config.whole import jsonable
from fastdeit.files import replace_file
from fastdeit.machine.threads import users_environment
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.table8 import BASE, ROWS, RowName, flat, kept_in_finetuning, own_fields

STATE, TABLE = "ablation.json", "ablation.md"
FINETUNED = "-finetuned"
OF_EACH_RUN = frozenset(
    ("data.train", "data.val", "dry_run", "init_from", "init_weights", "run.out", "run.overwrite",
     "run.resume")
)  # fmt: skip
"""Fields that are not handed to every run as they are."""
STOPPED = (75, 130, 143)
"""Exit codes of a run that saved where it was."""


@dataclass(frozen=True, slots=True)
class Run:
    """A training run of an ablation."""

    name: str
    """Of its folder."""
    recipe: str
    """What it begins with."""
    options: dict[str, Any]
    """Fields that differ from the recipe's, by dotted names."""
    begins_with: str | None = None
    """The run whose last checkpoint it fine-tunes."""

    def line(self, config: TrainConfig) -> list[str]:
        """The arguments of the program `fastdeit`; data and folder are the ablation's."""
        out = config.run.out
        paths = {"data.train": config.data.train, "data.val": config.data.val}
        paths["run.out"] = out / self.name
        if self.begins_with is not None:
            paths["init_from"] = out / self.begins_with / "checkpoint.pt"
        fields = {**paths, "run.resume": "auto", **self.options}
        return ["train", self.recipe, *(word for f in fields.items() for word in option(*f))]


def option(field: str, value: Any, prefix: str = "") -> list[str]:
    """A field and its value as words of the command line."""
    name = prefix + field.rsplit(".", 1)[-1].replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name}", *map(str, values)]


def changed_fields(config: TrainConfig) -> dict[str, Any]:
    """What an ablation changes in all of its runs, by dotted names."""
    base = flat(fill_recipe(BASE, Path()))
    return {
        name: value
        for name, value in flat(config).items()
        if value != base[name] and name not in OF_EACH_RUN
    }


def pretraining(name: RowName) -> RowName:
    """The run that trains a row at 224 pixels: rows that differ later only share one."""
    own = own_fields(ROWS[name].recipe)
    return next(other for other, row in ROWS.items() if own_fields(row.recipe) == own)


def make_runs(
    config: TrainConfig, rows: Sequence[RowName], finetuning: dict[str, Any] | None
) -> list[Run]:
    """The runs of some rows, each after the one that it begins with.

    What a row is about stays as in the row, whatever is changed for all.

    Args:
        config: `deit-b`, with what is changed.
        rows: which.
        finetuning: what of it is not as in its recipe, by dotted names; None leaves it out.
    """
    everywhere = changed_fields(config)
    runs: dict[str, Run] = {}
    for name in rows:
        row, first = ROWS[name], pretraining(name)
        own = own_fields(row.recipe)
        options = {field: v for field, v in everywhere.items() if field not in own}
        runs.setdefault(first, Run(first, ROWS[first].recipe, options))
        if finetuning is None:
            continue
        own = own_fields(row.finetune)
        # The architecture is that of the weights; what else the recipe says is about fine-tuning.
        options = {f: v for f, v in everywhere.items() if f not in own or f == "model.model"}
        options |= kept_in_finetuning(row) | finetuning
        options |= {"init_weights": "ema"} if row.weights == "ema" else {}
        runs[name + FINETUNED] = Run(name + FINETUNED, row.finetune, options, first)
    return list(runs.values())


class State:
    """What is known of the runs in a folder: DIR/ablation.json."""

    def __init__(self, out: Path) -> None:
        """Read it; nothing is known where there is none."""
        self._path = out / STATE
        self.changed: list[str] = []
        """What all runs change, as options."""
        self.finished: dict[str, dict[str, Any]] = {}
        """By run: its `options` and what its last line said, `result`."""
        self.failed: dict[str, int] = {}
        """By run: its exit code."""
        if self._path.exists():
            try:
                content = json.loads(self._path.read_text("utf-8"))
                self.changed, self.finished = content["changed"], content["finished"]
                self.failed = content["failed"]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"the state of an ablation must be what `fastdeit ablate` wrote. Found: "
                    f"{self._path}. Remove it, or give another --out."
                ) from error

    def begin(self, changed: list[str]) -> None:
        """Note what all runs change; refused if runs have ended that changed something else."""
        if self.finished and changed != self.changed:
            before, now = (" ".join(words) or "nothing" for words in (self.changed, changed))
            raise UserError(
                "an ablation goes on with the options that it began with. Found: "
                f"{now}, after {before}. Give the same, or another --out."
            )
        self.changed = changed

    def save(self) -> None:
        """Write it, whole or not at all."""
        content = {"changed": self.changed, "finished": self.finished, "failed": self.failed}
        replace_file(self._path, (json.dumps(content, indent=1) + "\n").encode())

    def is_finished(self, run: Run, may_differ: frozenset[str]) -> bool:
        """Whether a run has ended; refused if it has with other options."""
        if run.name not in self.finished:
            return False
        before = self.finished[run.name]["options"]
        now = jsonable(run.options)
        for name in sorted(before.keys() | now.keys()):
            if name not in may_differ and before.get(name) != now.get(name):
                raise UserError(
                    f"an ablation goes on with the options that it began with. Found: {name} "
                    f"{now.get(name, 'as in the recipe')}, but the finished run {run.name} had "
                    f"{before.get(name, 'that of the recipe')}. Give the same, or another --out."
                )
        return True


@dataclass(slots=True)
class Child:
    """The process of a run, and whether somebody asked it to stop."""

    process: subprocess.Popen[str] | None = None
    """None between two runs."""
    signal_number: int = 0
    """By which signal; 0 for none."""

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Hand a signal on; the run saves itself."""
        del frame
        self.signal_number = number
        if self.process is not None:
            # A run that lost its terminal saves as if it were asked to.
            self.process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)


@contextmanager
def handing_signals_on() -> Iterator[Child]:
    """Until the end of the block a signal to this process is one to its run."""
    child = Child()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    heeded = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, child.on_signal) for number in heeded}
    try:
        yield child
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(line: list[str], processes: int, child: Child) -> tuple[int, dict[str, Any]]:
    """Run the program to its end, by torchrun if several processes train together.

    Returns:
        (exit code, its last line on stdout; empty if there was none).
    """
    program = ["-m", "fastdeit.tools.cli"]
    if processes > 1:
        program = ["-m", "fastdeit.tools.train.together", str(processes)]
    # In a session of its own, so that a Ctrl-C reaches it once.
    with subprocess.Popen(
        [sys.executable, *program, *line],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=users_environment(),
    ) as process:
        child.process = process
        if child.signal_number:  # it came while the process was started
            child.on_signal(child.signal_number, None)
        said = process.communicate()[0].splitlines()
    child.process = None
    try:
        result = json.loads(said[-1]) if said else {}
    except ValueError:
        result = {}
    return process.returncode, result
