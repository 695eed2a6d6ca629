"""The numbers and sentences of a report: the result of a run, against chance.

A number that the files do not hold is None here and "n/a" on the page, never a guess.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from fastdeit.errors import require
from fastdeit.measured.run import ENVIRONMENT, EVALUATION, Json, Run, is_number, load_run
from fastdeit.text.figures import duration
from fastdeit.training.telemetry import METRICS

DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}
Z95 = 1.959964  # the normal quantile of a two-sided 95% interval


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run with its accuracy, as its headline gives it."""

    run: Run
    label: str
    """What the page calls the run: its recipe, with the folder's name where two share one."""
    val: str
    """What the images are called."""
    source: str
    """Where the numbers were read."""
    num_images: int | None
    """How many images they were measured on."""
    heads: dict[str, Json]
    """The scores of all heads: class, dist, joint, then any others."""
    num_classes: int | None
    """Number of classes among which was chosen, None if the files do not say."""

    @property
    def head(self) -> str | None:
        """The joint head where there is one (the paper's test-time rule), else class."""
        return next((name for name in ("joint", "class", *self.heads) if name in self.heads), None)

    @property
    def top1_pct(self) -> float | None:
        """Top-1 of that head."""
        return None if self.head is None else self.heads[self.head].get("top1_pct")

    @property
    def chance_pct(self) -> float | None:
        """Top-1 of guessing, with classes of one size."""
        return None if self.num_classes is None else 100 / self.num_classes

    @property
    def has_failed(self) -> bool:
        """Whether top-1 is so near to chance that the run learned nothing worth the name."""
        if self.top1_pct is None or self.chance_pct is None:
            return False
        # With two classes no accuracy is above twice chance: halfway to 100% stands in.
        return self.top1_pct <= min(2 * self.chance_pct, (self.chance_pct + 100) / 2)

    @property
    def digits(self) -> int:
        """Decimals that show chance: 5.0%, 0.10%."""
        return 1 if self.num_classes is None or self.num_classes <= 200 else 2


def read_results(folders: Iterable[Path]) -> list[Result]:
    """Read runs, each with a label of its own.

    Raises:
        UserError: one of them cannot be read.
    """
    runs = [load_run(folder) for folder in folders]
    names = [str(run.config.get("name") or run.folder.resolve().name) for run in runs]
    return [
        _result(run, f"{name} ({run.folder.resolve().name})" if names.count(name) > 1 else name)
        for run, name in zip(runs, names, strict=True)
    ]


def _result(run: Run, label: str) -> Result:
    """The result in evaluation.json, else in the last evaluation while training."""
    said = [(ENVIRONMENT, run.environment), (EVALUATION, run.evaluation or {})]
    num_classes = None
    for file, facts in said:  # the later one of those that were evaluated
        found = facts.get("num_classes")
        require(
            found is None or (isinstance(found, int) and found >= 1),
            f"{run.folder / file}: num_classes",
            repr(found),
            "must be a whole number above 0",
            "Repair the file.",
        )
        num_classes = num_classes if found is None else found
    val, row, source = "val", run.evals[-1] if run.evals else {}, "n/a"
    if run.evaluation is not None:
        row, source = run.evaluation, EVALUATION
        ours, theirs = run.option("data", "val"), row.get("dataset") or row.get("data")
        if ours and theirs and not _is_same_path(str(ours), str(theirs)):
            val = str(theirs)
    elif row:
        source = f"{METRICS}, step {fmt(row['step'])}"
    heads = row.get("heads", {})
    first = {name: heads[name] for name in ("class", "dist", "joint") if name in heads}
    return Result(
        run=run,
        label=label,
        val=val,
        source=source,
        num_images=row.get("num_images"),
        heads={**first, **heads},
        num_classes=num_classes,
    )


def headline(result: Result) -> str:
    """Say the result in one sentence, against chance."""
    if result.head is None:
        return "Top-1 on val: n/a, the run has no evaluation yet."
    if result.top1_pct is None:
        return f"Top-1 on {result.val}: n/a, not in {result.source}."
    score = f"{result.top1_pct:.1f}% ({result.head} head, {fmt(result.num_images)} images)"
    if result.chance_pct is None:
        return f"Top-1 on {result.val}: {score}; chance n/a (number of classes not recorded)."
    ratio = result.top1_pct / result.chance_pct
    times = f"{ratio:.{0 if ratio >= 9.95 else 1}f} times"
    against = f"{times} chance ({result.chance_pct:.{result.digits}f}%)"
    if result.has_failed:
        return f"Failed to learn: top-1 on {result.val} is {score}, only {against}."
    return f"Top-1 on {result.val}: {score}, {against}."


def describe(result: Result) -> str:
    """Say in one phrase what was trained on what; what the files do not say is left out."""
    run, environment = result.run, result.run.environment
    model = run.option("model", "model") or run.option("model", "name")
    # The name alone would pass a reshaped model off as timm's own.
    about = [*([str(model)] if model else []), *(f"{k} {v}" for k, v in run.shape.items())]
    num_params = environment.get("num_params")
    if is_number(num_params):
        about.append(f"{num_params / 1e6:.1f} M parameters")
    text = f"{result.label} ({', '.join(about)})" if about else result.label
    text += ", trained"
    num_epochs = _epochs_done(run)
    if num_epochs is not None:
        text += f" for {fmt(num_epochs)} epoch{'' if num_epochs == 1 else 's'}"
    images, classes = environment.get("num_train_images"), environment.get("num_classes")
    if is_number(images):
        text += f" on {fmt(images)} images"
        text += f" of {fmt(classes)} classes" if is_number(classes) else ""
    side, distillation = run.option("data", "image_size"), run.option("distill", "distillation")
    if is_number(side):
        text += f" at {side} x {side} pixels"
    if distillation not in (None, "none"):
        text += f", with {distillation} distillation"
    device = environment.get("device")
    kind = device.split(":")[0] if isinstance(device, str) else None
    return text + (f", on {DEVICES.get(kind, kind)}." if kind else ".")


def _epochs_done(run: Run) -> int | None:
    """How many epochs the last evaluation follows; None if there is none or nothing tells."""
    if not run.evals:
        return None
    # Training lines count epochs from 0, and the last of an epoch carries its evaluation's step.
    before = [row for row in run.train if row["step"] <= run.evals[-1]["step"]]
    epoch = before[-1].get("epoch") if before else None
    return None if epoch is None else int(epoch) + 1


def notes_of(result: Result) -> list[str]:
    """What a reader has to know before believing the numbers of a run, one sentence each."""
    run, notes = result.run, list(result.run.notes)
    done, planned = _epochs_done(run), run.option("optim", "epochs")
    if is_number(planned) and (done is not None or not run.evals) and (done or 0) < planned:
        notes.append(f"Stopped early: {fmt(done or 0)} of {fmt(planned)} epochs were evaluated.")
    infinite = [row for row in run.train if not math.isfinite(row.get("loss") or 0)]
    if infinite:
        notes.append(f"The loss was not finite, first at step {fmt(infinite[0]['step'])}.")
    if run.environment.get("dirty") is True:
        notes.append("The code had uncommitted changes: the commit alone does not reproduce it.")
    if run.evaluation is not None and run.evals and result.head is not None:
        last = run.evals[-1]["heads"].get(result.head, {}).get("top1_pct")
        if last is not None and result.top1_pct is not None and abs(last - result.top1_pct) > 0.05:
            notes.append(
                f"The last evaluation in training gave {last:.1f}% ({result.head} head), "
                f"{EVALUATION} {result.top1_pct:.1f}%; the latter is reported."
            )
    return notes


def half_width_pct(score_pct: float | None, num_images: float | None) -> float | None:
    """Half the width of the 95% interval of a proportion.

    Args:
        score_pct: the proportion, 0 to 100.
        num_images: how many images it was measured on.

    Returns:
        Half the width in percentage points, None if either number is unknown.

    Source: Wilson's interval (1927), which unlike p +- 1.96 s is not empty at 0% and 100%.
    """
    if score_pct is None or num_images is None or num_images <= 0:
        return None
    p, n = score_pct / 100, num_images
    return 100 * Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))


def facts(run: Run) -> list[tuple[str, str]]:
    """How the run went: (what, value) in the order of the page."""
    environment = run.environment
    times_s = [row["elapsed_s"] for row in run.train if row.get("elapsed_s") is not None]
    # A clock that went back was started anew by a resumed run and says nothing about the whole.
    is_whole = bool(times_s) and times_s == sorted(times_s)
    waiting = _median(run.train, "data_wait_frac")
    device = _gpu_of(environment) or environment.get("cpu") or environment.get("device")
    engine = environment.get("engine") or run.option("data", "engine")
    if engine and environment.get("engine_reason"):
        engine = f"{engine} ({environment['engine_reason']})"
    done, planned = _epochs_done(run), run.option("optim", "epochs")
    return [
        ("epochs", f"{fmt(done)} of {fmt(planned)}" if is_number(planned) else fmt(done)),
        ("steps", fmt((run.train or run.evals)[-1]["step"])),
        ("batch size", fmt(run.option("data", "batch_size"))),
        ("repeats", fmt(run.option("data", "repeats"))),
        ("elapsed", duration(times_s[-1]) if is_whole else "n/a"),
        ("median rate", f"{fmt(_median(run.train, 'img_per_s'))} img/s"),
        ("waiting for data", "n/a" if waiting is None else f"{100 * waiting:.1f}% of the time"),
        ("decoder", fmt(engine)),
        ("hardware", fmt(device)),
    ]


def commands_of(runs: Iterable[Run]) -> list[str]:
    """The command lines that the runs recorded, each once."""
    found: list[str] = []
    for content in (content for run in runs for content in (run.config, run.environment)):
        for key in ("command", "commands", "argv"):
            value = content.get(key)
            if isinstance(value, list) and key != "commands":
                found.append(shlex.join(map(str, value)))
            elif isinstance(value, list | str):
                found.extend([value] if isinstance(value, str) else map(str, value))
    return list(dict.fromkeys(found))


def default_not_measured(runs: Iterable[Run], rows: Iterable[Json]) -> list[str]:
    """What these files cannot show, said unless the user lists it."""
    of_runs = [run.environment for run in runs]
    places = of_runs + [row.get("environment") or {} for row in rows]
    missing = []
    if all(place.get("num_classes") != 1000 for place in of_runs):
        missing.append("Accuracy on ImageNet: no run here was trained on it.")
    if any("gpu" in place for place in places) and not any(map(_gpu_of, places)):
        missing.append("A GPU: every number here is of a CPU.")
    return [*missing, "Table 5 of the paper: throughput against accuracy on ImageNet."]


def _gpu_of(environment: Json) -> Any:
    """The GPU that computed; None if there was none or the device was the CPU beside it."""
    return None if environment.get("device") == "cpu" else environment.get("gpu")


def _is_same_path(one: str, other: str) -> bool:
    """Whether two paths may mean one file: a relative path is the end of the absolute one."""
    parts, others = PurePath(one).parts, PurePath(other).parts
    length = min(len(parts), len(others))
    return parts[-length:] == others[-length:]


def _median(rows: list[Json], key: str) -> float | None:
    """The median of the finite values under `key`, None without any."""
    values = [row[key] for row in rows if row.get(key) is not None and math.isfinite(row[key])]
    return float(median(values)) if values else None


def fmt(value: object, digits: int | None = None) -> str:
    """Write a value: n/a for None, thousands separated, three significant digits below 100."""
    if value is None:
        return "n/a"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    if digits is not None:
        return f"{value:,.{digits}f}"
    if isinstance(value, int) or abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
