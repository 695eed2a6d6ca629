"""What the progress bar of training says beside its bar."""

from __future__ import annotations

from typing import Any

from fastdeit.durations import duration


def progress_text(row: dict[str, Any], budget_hours: float | None = None) -> str:
    """Say in one line how training goes.

    Args:
        row: of kind train, as in metrics.jsonl. What it lacks, or has as None, is left out.
        budget_hours: what the whole run may take (`run.budget_hours`), or None.

    Returns:
        Up to 100 characters, such as "loss 6.908, lr 1.0e-03, 3120 img/s, wait 2%, MFU 41%,
        61 GiB, ends in 27 h 50 min, inside 72 h".
    """
    said = [f"loss {row['loss']:.3f}", f"lr {row['lr']:.1e}", f"{row['img_per_s']:.0f} img/s"]
    for name, text in (
        ("data_wait_frac", "wait {:.0%}"),  # for data
        ("mfu", "MFU {:.0%}"),
        ("gpu_memory_gib", "{:.0f} GiB"),
    ):
        if row.get(name) is not None:
            said.append(text.format(row[name]))
    left_s = row.get("left_s")
    if left_s is not None:
        least = "at least " if row.get("left_is_lower_bound") else ""
        said.append(f"ends in {least}{duration(left_s)}")
        if budget_hours is not None:
            over_s = row["elapsed_s"] + left_s - budget_hours * 3600
            if over_s > 0:
                hours = round(over_s / 3600)
                over = duration(over_s) if hours < 10 else f"{hours} h"
                said.append(f"{over} over {budget_hours:g} h")
            elif not least:
                said.append(f"inside {budget_hours:g} h")
    return ", ".join(said)
