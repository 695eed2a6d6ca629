"""Going on with a run: what a checkpoint must hold beside the weights, and putting it back.

No state of a random generator is among it: every draw is keyed by its epoch and step.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import timm
import torch
from torch import nn

from fastdeit import __version__
from fastdeit.checkpoints.store import newest_checkpoint
from fastdeit.config import TrainConfig
from fastdeit.config.whole import jsonable
from fastdeit.errors import UserError
from fastdeit.files import replace_file
from fastdeit.machine.distributed import World, say
from fastdeit.training.ema import ModelEma

MAY_DIFFER = frozenset(
    (
        "data.bad_images", "data.dataset", "data.engine", "data.hw_decoder_load", "data.threads",
        "data.train",
        "data.val", "distill.teacher", "dry_run", "init_from", "optim.accumulate",
        "run.activation_checkpointing", "run.attention", "run.budget_hours", "run.compile",
        "run.compiled", "run.device", "run.keep_checkpoints", "run.log_every_steps", "run.out",
        "run.overwrite", "run.profile_steps", "run.resume", "run.save_minutes", "run.tensorboard",
        "run.timeout_minutes", "run.wandb",
    )
)  # fmt: skip
"""Fields that may be others when a run goes on: where things are, how fast it is, and
whether a bad image ends it."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is."""

    epoch: int = 0
    """The epoch of the next step."""
    step_in_epoch: int = 0
    """The next step in it; the number of steps if only its evaluation is left."""
    step: int = 0
    """The next step over the whole run."""
    window: tuple[float, ...] = ()
    """Losses of the steps since the last row of the metrics."""
    best_top1_pct: float = 0.0
    """The best accuracy of any evaluation so far."""


def run_state(
    position: Position,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: ModelEma | None,
) -> dict[str, Any]:
    """What a checkpoint holds beside the weights so that the run can go on at `position`."""
    return {
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "ema": None if ema is None else ema.module.state_dict(),
        "position": {**asdict(position), "window": list(position.window)},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what decides the bits of a run."""
    return {"fastdeit": __version__, "torch": str(torch.__version__), "timm": timm.__version__}


def load_run(config: TrainConfig, world: World) -> dict[str, Any] | None:
    """Read the newest whole checkpoint of a run that goes on, and check that it is this run's.

    Its position may be the end; None if the run begins. Raises UserError for another configuration,
    nothing but damaged checkpoints, or processes that do not see the same folder.
    """
    if config.run.resume == "never":
        return None
    content = _newest_of_run(config, world)
    world.check_alike(
        "the run in the folder",
        "none" if content is None else f"step {content['position']['step']}",
        f"Give a folder that all machines share, not {config.run.out}.",
    )
    return content


def _newest_of_run(config: TrainConfig, world: World) -> dict[str, Any] | None:
    found = newest_checkpoint(config.run.out, say if world.is_main else lambda _: None)
    if found is None:
        return None
    content, path = found
    if "position" not in content:
        raise UserError(
            f"the checkpoint must hold a run's state to go on. Found: weights only, in {path}. "
            "Leave out --resume auto and give another --out."
        )
    # An option that came later was as it is by default.
    before, now = _defaults() | _flat(content["config"]), _flat(config.to_dict())
    for name in sorted(before.keys() | now.keys()):
        if name not in MAY_DIFFER and before.get(name) != now.get(name):
            raise UserError(
                f"a run goes on with the configuration that it began with. Found: {name} "
                f"{now.get(name)}, before {before.get(name)}. Give the same, or another --out."
            )
    position = content["position"]
    if world.is_main and position["epoch"] < config.optim.epochs:
        say(f"goes on from {path.name}: epoch {position['epoch'] + 1}, step {position['step']}")
    if world.is_main and content["versions"] != versions():
        say(
            f"the run was saved by {_named(content['versions'])} and goes on with "
            f"{_named(versions())}; the bits may differ from those of a run that was not stopped"
        )
    return content


def _named(each: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in each.items())


def restore(
    content: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    ema: ModelEma | None,
) -> Position:
    """Put a run's state back, from what `load_run` gave; return where the run goes on."""
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    scaler.load_state_dict(content["scaler"])
    if ema is not None:
        ema.module.load_state_dict(content["ema"])
    state = content["position"]
    return Position(**{**state, "window": tuple(state["window"])})


def cut_metrics(path: Path, position: Position) -> float:
    """Drop the rows of what is done again; return the seconds that the others took."""
    # A power cut may leave anything at the end.
    rows = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
    kept = []
    for text in rows:
        try:
            row = json.loads(text)
        except ValueError:  # the last line of a run that was killed while it wrote
            break
        is_evaluation = row["kind"] != "train"
        if row["step"] > position.step or (is_evaluation and row["epoch"] >= position.epoch):
            break
        kept.append((text, float(row["elapsed_s"])))
    replace_file(path, "".join(f"{text}\n" for text, _ in kept).encode())
    return kept[-1][1] if kept else 0.0


def _defaults() -> dict[str, Any]:
    """The options that have a default, with dotted names."""
    return _flat(
        {
            part: jsonable({f.name: f.default for f in fields(kind) if f.default is not MISSING})
            for part, kind in get_type_hints(TrainConfig).items()
            if is_dataclass(kind)
        }
    )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
