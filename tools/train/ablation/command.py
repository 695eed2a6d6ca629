"""`fastdeit ablate`: Table 8, one run after another."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from fastdeit.config import TrainConfig
from fastdeit.config.whole import jsonable
from fastdeit.errors import UserError, require
from fastdeit.files import LOCK, FolderLock
from fastdeit.machine.stopping import REQUEUE
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.table8 import BASE, ROWS, RowName
from fastdeit.tools.train.ablation.runs import (
    FINETUNED,
    STATE,
    STOPPED,
    TABLE,
    Child,
    Run,
    State,
    changed_fields,
    execute,
    handing_signals_on,
    make_runs,
    option,
)
from fastdeit.tools.train.ablation.table import facts_of, table_of, write_table

if TYPE_CHECKING:
    BASE_CONFIG: TrainConfig
else:
    BASE_CONFIG = fill_recipe(BASE, tyro.MISSING)


def ablate(
    config: TrainConfig = BASE_CONFIG,
    rows: tuple[RowName, ...] = tuple(ROWS),
    finetune: bool = True,
    finetune_epochs: int | None = None,
    finetune_image_size: int | None = None,
    finetune_batch_size: int | None = None,
    processes: int = 1,
    table_only: bool = False,
) -> int:
    """Run the rows of Table 8 and print them beside the paper's.

    Each row is trained by its recipe at 224 pixels and fine-tuned at 384; rows that differ in their
    fine-tuning only share the training. Every run is a process of its own in a folder of --out, and
    --out gets ablation.md and ablation.json. The same command goes on: finished runs are skipped,
    a stopped one goes on from its last checkpoint. A run that fails is one line, and the others are
    run. Ctrl-C saves and stops. The last line on stdout is one JSON object.

    Any option of `deit-b` can be changed for all runs, such as --model or --epochs; what a row is
    about stays as the row has it. Batch, learning rate, decay and epochs of the fine-tuning are
    those of `deit-b-384`.

    Args:
        config: what is changed in `deit-b`; --out is the folder of the ablation.
        rows: which rows.
        finetune: fill the table's second column too.
        finetune_epochs: epochs of the fine-tuning; unless given its recipe's 30.
        finetune_image_size: side of its images in pixels; unless given 384.
        finetune_batch_size: images a step of it; unless given 512.
        processes: how many train together, by torchrun: one for each GPU.
        table_only: print the table as it is now, and run nothing; needs --out alone.

    Returns:
        0, 1 if a run failed, 75 or 130 if it was stopped.
    """
    out = config.run.out
    if table_only:
        return _show(out, State(out))
    given = {
        "optim.epochs": finetune_epochs,
        "data.image_size": finetune_image_size,
        "data.batch_size": finetune_batch_size,
    }
    finetuning = {name: value for name, value in given.items() if value is not None}
    _check(config, rows, finetune, finetuning, processes)
    runs = make_runs(config, rows, finetuning if finetune else None)
    if config.dry_run:
        for run in runs:
            print(shlex.join(["fastdeit", *run.line(config)]))
        return 0

    _check_folder(out)
    # Imports torch, which a wrong option need not wait for.
    from fastdeit.training.resume import MAY_DIFFER

    out.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(out)
    lock.take()
    try:
        state = State(out)
        missing = [run for run in runs if not state.is_finished(run, MAY_DIFFER)]
        fields = changed_fields(config)
        changed = [option(*field) for field in fields.items() if field[0] not in MAY_DIFFER]
        changed += [option(*field, prefix="finetune-") for field in finetuning.items()]
        state.begin([" ".join(words) for words in changed])
        with handing_signals_on() as child:
            _run_all(config, missing, state, processes, child)
        _show(out, state)
        if child.signal_number:
            _say("stopped; what was done is saved, and the same command goes on")
            return 130 if child.signal_number == signal.SIGINT else 75
        return 1 if any(run.name in state.failed for run in runs) else 0
    finally:
        lock.let_go()


def _show_table_only(args: list[str]) -> None:
    """Answer --table-only, for which the data need not be named."""
    if "--table-only" not in args:
        return
    words = [word for arg in args for word in arg.split("=", 1)]
    place = words.index("--out") + 1 if "--out" in words else len(words)
    require(place < len(words), "out", None, "is needed for --table-only", "Pass --out DIR.")
    out = Path(words[place])
    require(out.is_dir(), "out", out, "must be the folder of an ablation", "Give its --out.")
    raise SystemExit(_show(out, State(out)))


ablate.check_args = _show_table_only  # type: ignore[attr-defined]


def _check(
    config: TrainConfig,
    rows: tuple[RowName, ...],
    finetune: bool,
    finetuning: dict[str, Any],
    processes: int,
) -> None:
    """Refuse options that cannot act."""
    known, tuned = f"Known: {', '.join(ROWS)}.", finetune or not finetuning
    no_effect = "has no effect: "
    for ok, what, found, rule, way_out in (
        (bool(rows), "rows", "none", "must name a row", known),
        (tuned, "finetune", "--no-finetune", "must be on for options of the fine-tuning",
         "Leave out --no-finetune or them."),
        (processes >= 1, "processes", processes, "must be at least 1", "Pass --processes 8."),
        (not config.run.overwrite, "overwrite", True, no_effect + "finished runs are kept",
         "Give another --out."),
        (config.init_from is None, "init_from", config.init_from,
         no_effect + "rows are trained from the beginning", "Leave it out."),
    ):  # fmt: skip
        require(ok, what, found, rule, way_out)


def _check_folder(out: Path) -> None:
    """Refuse a folder that holds something else."""
    if not out.exists():
        return
    require(out.is_dir(), "out", out, "must be a folder", "Give another --out.")
    known = {STATE, TABLE, LOCK, *ROWS, *(name + FINETUNED for name in ROWS)}
    foreign = [file for file in sorted(out.iterdir()) if file.name not in known]
    if foreign:
        raise UserError(
            f"the folder of an ablation must be new or one's own. Found: {foreign[0]}. "
            "Give another --out."
        )


def _run_all(
    config: TrainConfig, runs: list[Run], state: State, processes: int, child: Child
) -> None:
    """Run what is missing, until somebody asks to stop."""
    out = config.run.out
    # What failed before is tried again.
    state.failed = {n: c for n, c in state.failed.items() if n not in {run.name for run in runs}}
    state.save()
    for number, run in enumerate(runs, 1):
        if child.signal_number:
            return
        if run.begins_with is not None and run.begins_with not in state.finished:
            state.failed[run.name] = state.failed.get(run.begins_with, 1)
            _say(f"{run.name} is left out, for {run.begins_with} failed")
            state.save()
            write_table(out, facts_of(out, state))
            continue
        line = run.line(config)
        _say(f"{run.name} ({number} of {len(runs)}): {shlex.join(['fastdeit', *line])}")
        code, result = execute(line, processes, child)
        if code == 0:
            state.finished[run.name] = {"options": jsonable(run.options), "result": result}
        elif child.signal_number or code in STOPPED or (out / run.name / REQUEUE).exists():
            child.signal_number = child.signal_number or signal.SIGTERM
        else:
            state.failed[run.name] = code
            _say(f"{run.name} failed with exit code {code}; its own message says why")
        state.save()
        write_table(out, facts_of(out, state))


def _show(out: Path, state: State) -> int:
    """Print the table on stderr and everything in it as JSON; return 0."""
    facts = facts_of(out, state)
    print(table_of(facts), file=sys.stderr)
    print(json.dumps(facts))
    return 0


def _say(text: str) -> None:
    """One line on stderr."""
    print(f"fastdeit: {text}", file=sys.stderr, flush=True)
