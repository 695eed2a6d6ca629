"""The classes of a report: which are told well and which are not, and who is taken for whom."""

from __future__ import annotations

from dataclasses import dataclass

from fastdeit.measured.run import BY_CLASS, MOST_CLASSES, Run

NUM_SHOWN = 10


@dataclass(frozen=True, slots=True)
class OfClass:
    """How one class did."""

    name: str
    correct: int
    total: int

    @property
    def top1_pct(self) -> float:
        """Its top-1."""
        return 100 * self.correct / self.total


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that were taken for another."""

    true: OfClass
    taken_for: str
    count: int


@dataclass(frozen=True, slots=True)
class Classes:
    """What the section of a run shows."""

    head: str
    weights: str
    macro_top1_pct: float
    """The mean of the classes' top-1."""
    num_classes: int
    """Of which it is the mean: those with an image."""
    num_empty: int
    """Those without one."""
    worst: list[OfClass]
    """The worst first."""
    best: list[OfClass]
    """The best first; none of them is among the worst."""
    confused: list[Confusion]
    """The most frequent first."""


def classes_of(run: Run) -> Classes | None:
    """What evaluation.json says of the classes; None if it does not, or of too many for a page."""
    facts = (run.evaluation or {}).get(BY_CLASS)
    if facts is None or len(facts["names"]) > MOST_CLASSES:
        return None
    columns = zip(facts["names"], facts["correct"], facts["total"], strict=True)
    each = [OfClass(*row) for row in columns]
    # Of classes alike the largest is the surest.
    order = sorted((c for c in each if c.total), key=lambda c: (c.top1_pct, -c.total))
    return Classes(
        head=facts["head"],
        weights=facts["weights"],
        macro_top1_pct=sum(c.top1_pct for c in order) / len(order),
        num_classes=len(order),
        num_empty=len(each) - len(order),
        worst=order[:NUM_SHOWN],
        best=order[NUM_SHOWN:][: -NUM_SHOWN - 1 : -1],
        confused=[
            Confusion(each[true], each[taken].name, count)
            for true, taken, count in facts.get("confused", [])[:NUM_SHOWN]
        ],
    )
