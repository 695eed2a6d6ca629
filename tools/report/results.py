"""The numbers and sentences of a report: the result of a run, against chance.

A number that the files do not hold is None here and "n/a" on the page, never a guess.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import PurePath
from statistics import median
from typing import Any, TypeGuard

from fastdeit.errors import UserError
from fastdeit.text.figures import duration
from fastdeit.tools.report.inputs import Json, Run

DEVICES = {"cpu": "a CPU", "cuda": "a GPU"}
Z95 = 1.959964  # the normal quantile of a two-sided 95% interval


@dataclass(frozen=True, kw_only=True)
class Result:
    """The accuracy of a run, as its headline gives it."""

    head: str | None
    """joint where the model has one (the paper's test-time rule), else class."""
    top1_pct: float | None
    """Top-1 of that head."""
    num_images: int | None
    """How many images it was measured on."""
    val: str
    """What the images are called."""
    source: str
    """Where the numbers were read."""
    heads: dict[str, Json]
    """The scores of all heads: class, dist, joint, then any others."""
    num_classes: int | None
    """Number of classes, None if environment.json does not say."""

    @property
    def chance_pct(self) -> float | None:
        """Top-1 of guessing, with classes of one size."""
        return None if self.num_classes is None else 100 / self.num_classes

    @property
    def times_chance(self) -> float | None:
        """Top-1 over that of guessing."""
        if self.top1_pct is None or self.chance_pct is None:
            return None
        return self.top1_pct / self.chance_pct

    @property
    def has_failed(self) -> bool:
        """Whether top-1 is so near to chance that the run learned nothing worth the name."""
        if self.top1_pct is None or self.chance_pct is None:
            return False
        # With two classes no accuracy is above twice chance: halfway to 100% stands in.
        return self.top1_pct <= min(2 * self.chance_pct, (self.chance_pct + 100) / 2)


def result_of(run: Run) -> Result:
    """Find the result of a run: in evaluation.json, else in its last evaluation while training."""
    num_classes = run.environment.get("num_classes")
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 1):
        raise UserError(
            f"{run.folder / 'environment.json'}: num_classes must be a whole number above 0. "
            f"Found: {num_classes!r}. Repair the file."
        )
    val = "val"
    if run.evaluation is not None:
        row, source = run.evaluation, "evaluation.json"
        ours, theirs = lookup(run.config, "data", "val"), row.get("dataset") or row.get("data")
        if ours and theirs and not is_same_path(str(ours), str(theirs)):
            val = str(theirs)
    elif run.evals:
        row, source = run.evals[-1], f"metrics.jsonl, step {fmt(run.evals[-1]['step'])}"
    else:
        row, source = {}, "n/a"
    heads = row.get("heads", {})
    ordered = {name: heads[name] for name in ("class", "dist", "joint") if name in heads}
    ordered.update(heads)
    head = next((name for name in ("joint", "class", *ordered) if name in ordered), None)
    return Result(
        head=head,
        top1_pct=ordered[head].get("top1_pct") if head else None,
        num_images=row.get("num_images"),
        val=val,
        source=source,
        heads=ordered,
        num_classes=num_classes,
    )


def headline(result: Result) -> str:
    """Say the result in one sentence, against chance."""
    if result.head is None:
        return "Top-1 on val: n/a, the run has no evaluation yet."
    if result.top1_pct is None:
        return f"Top-1 on {result.val}: n/a, not in {result.source}."
    images = "n/a images" if result.num_images is None else f"{fmt(result.num_images)} images"
    score = f"{result.top1_pct:.1f}% ({result.head} head, {images})"
    if result.chance_pct is None:
        return f"Top-1 on {result.val}: {score}; chance n/a (number of classes not recorded)."
    against = f"{fmt_times(result.times_chance)} chance ({result.chance_pct:.{digits(result)}f}%)"
    if result.has_failed:
        return f"Failed to learn: top-1 on {result.val} is {score}, only {against}."
    return f"Top-1 on {result.val}: {score}, {against}."


def digits(result: Result) -> int:
    """Decimals that show chance: 5.0%, 0.10%."""
    return 1 if result.num_classes is None or result.num_classes <= 200 else 2


def describe(run: Run) -> str:
    """Say in one phrase what was trained on what; what the files do not say is left out."""
    model = lookup(run.config, "model", "model") or lookup(run.config, "model", "name")
    num_params = run.environment.get("num_params")
    text = run.label
    about = [str(model)] if model else []
    # The name alone would pass a reshaped model off as timm's own.
    for key in ("patch_size", "embed_dim", "depth", "num_heads"):
        value = lookup(run.config, "model", key)
        about += [] if value is None else [f"{key} {value}"]
    if is_number(num_params):
        about.append(f"{num_params / 1e6:.1f} M parameters")
    if about:
        text += f" ({', '.join(about)})"
    images, classes = (run.environment.get(k) for k in ("num_train_images", "num_classes"))
    side, device = lookup(run.config, "data", "image_size"), run.environment.get("device")
    num_epochs = epochs_done(run)
    text += ", trained"
    if num_epochs is not None:
        text += f" for {fmt(num_epochs)} epoch{'' if num_epochs == 1 else 's'}"
    if is_number(images):
        text += f" on {fmt(images)} images"
        text += f" of {fmt(classes)} classes" if is_number(classes) else ""
    if is_number(side):
        text += f" at {side} x {side} pixels"
    distillation = lookup(run.config, "distill", "distillation")
    if distillation not in (None, "none"):
        text += f", with {distillation} distillation"
    device = device.split(":")[0] if isinstance(device, str) else None
    return text + (f", on {DEVICES.get(device, device)}." if device else ".")


def epochs_done(run: Run) -> int | None:
    """How many epochs the last evaluation follows; None if there is none or nothing tells."""
    if not run.evals:
        return None
    # Training lines count epochs from 0, and the last of an epoch carries its evaluation's step.
    before = [row for row in run.train if row["step"] <= run.evals[-1]["step"]]
    epoch = before[-1].get("epoch") if before else None
    return None if epoch is None else int(epoch) + 1


def notes_of(run: Run, result: Result) -> list[str]:
    """What a reader has to know before believing the numbers of a run, one sentence each."""
    notes = list(run.notes)
    done, planned = epochs_done(run), lookup(run.config, "optim", "epochs")
    if is_number(planned) and (done is not None or not run.evals) and (done or 0) < planned:
        notes.append(f"Stopped early: {fmt(done or 0)} of {fmt(planned)} epochs were evaluated.")
    losses = [row["loss"] for row in run.train if row.get("loss") is not None]
    if not all(map(math.isfinite, losses)):
        first = next(r["step"] for r in run.train if not math.isfinite(r.get("loss") or 0))
        notes.append(f"The loss was not finite, first at step {fmt(first)}.")
    if run.environment.get("dirty") is True:
        notes.append("The code had uncommitted changes: the commit alone does not reproduce it.")
    if run.evaluation is not None and run.evals and result.head is not None:
        last = run.evals[-1]["heads"].get(result.head, {}).get("top1_pct")
        if last is not None and result.top1_pct is not None and abs(last - result.top1_pct) > 0.05:
            notes.append(
                f"The last evaluation in training gave {last:.1f}% ({result.head} head), "
                f"evaluation.json {result.top1_pct:.1f}%; the latter is reported."
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
    environment, last = run.environment, (run.train or run.evals)[-1]
    times_s = [row["elapsed_s"] for row in run.train if row.get("elapsed_s") is not None]
    # A clock that went back was started anew by a resumed run and says nothing about the whole.
    elapsed_s = times_s[-1] if times_s and times_s == sorted(times_s) else math.nan
    elapsed = duration(elapsed_s) if math.isfinite(elapsed_s) else "n/a"
    waiting = median_of(run.train, "data_wait_frac")
    device = gpu_of(environment) or environment.get("cpu") or environment.get("device")
    engine = environment.get("engine") or lookup(run.config, "data", "engine")
    if engine and environment.get("engine_reason"):
        engine = f"{engine} ({environment['engine_reason']})"
    done, planned = epochs_done(run), lookup(run.config, "optim", "epochs")
    return [
        ("epochs", f"{fmt(done)} of {fmt(planned)}" if is_number(planned) else fmt(done)),
        ("steps", fmt(last["step"])),
        ("batch size", fmt(lookup(run.config, "data", "batch_size"))),
        ("repeats", fmt(lookup(run.config, "data", "repeats"))),
        ("elapsed", elapsed),
        ("median rate", f"{fmt(median_of(run.train, 'img_per_s'))} img/s"),
        ("waiting for data", "n/a" if waiting is None else f"{100 * waiting:.1f}% of the time"),
        ("decoder", fmt(engine)),
        ("hardware", fmt(device)),
    ]


def commands_of(runs: list[Run]) -> list[str]:
    """The command lines that the runs recorded, each once."""
    found: list[str] = []
    for run in runs:
        for content in (run.config, run.environment):
            for key in ("command", "commands", "argv"):
                value = content.get(key)
                if isinstance(value, list) and key != "commands":
                    found.append(shlex.join(map(str, value)))
                elif isinstance(value, list | str):
                    found.extend([value] if isinstance(value, str) else map(str, value))
    return list(dict.fromkeys(found))


def default_not_measured(runs: list[Run], rows: list[Json]) -> list[str]:
    """What these files cannot show, said unless the user lists it."""
    places = [run.environment for run in runs] + [row.get("environment") or {} for row in rows]
    missing = []
    if all(run.environment.get("num_classes") != 1000 for run in runs):
        missing.append("Accuracy on ImageNet: no run here was trained on it.")
    if any("gpu" in place for place in places) and not any(map(gpu_of, places)):
        missing.append("A GPU: every number here is of a CPU.")
    missing.append("Table 5 of the paper: throughput against accuracy on ImageNet.")
    return missing


def gpu_of(environment: Json) -> Any:
    """The GPU that computed; None if there was none or the device was the CPU beside it."""
    return None if environment.get("device") == "cpu" else environment.get("gpu")


def lookup(content: Json, section: str, key: str) -> Any:
    """`content[section][key]`, None if either is missing."""
    inner = content.get(section)
    return inner.get(key) if isinstance(inner, dict) else None


def is_same_path(one: str, other: str) -> bool:
    """Whether two paths may mean one file: a relative path is the end of the absolute one."""
    parts, others = PurePath(one).parts, PurePath(other).parts
    length = min(len(parts), len(others))
    return parts[-length:] == others[-length:]


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def median_of(rows: list[Json], key: str) -> float | None:
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


def fmt_times(ratio: float | None) -> str:
    """Write a ratio in words: 14 times, 3.2 times."""
    return "n/a" if ratio is None else f"{ratio:.{0 if ratio >= 9.95 else 1}f} times"
