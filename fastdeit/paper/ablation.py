"""Table 8, typed."""

from __future__ import annotations

from dataclasses import dataclass

from fastdeit.paper.tables import all_tables


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationRow:
    """A row of Table 8: what was changed, and the accuracies in percent."""

    ablation: str
    pretrain_224: float
    finetune_384: float


def table8() -> dict[str, AblationRow]:
    """The rows, in the paper's order, by what was changed."""
    rows = (
        AblationRow(
            ablation=row["ablation"],
            pretrain_224=row["pretrain_224"],
            finetune_384=row["finetune_384"],
        )
        for row in all_tables()["table8_ablation"]
    )
    return {row.ablation: row for row in rows}
