"""A benchmark's record that keeps what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from fastdeit.benchmarks.harness.record import Event, Record
from fastdeit.measured.rows import Row


class Heard:
    """A record, and what it was told."""

    def __init__(self, seconds: float | None = None, known: Sequence[Row] = ()) -> None:
        """Begin."""
        self.events: list[Event] = []
        self.record = Record(self.events.append, seconds, known)

    @property
    def rows(self) -> list[Row]:
        """Rows in order; one that came again took the place of the older."""
        found = {row.key: row for event in self.of("rows") for row in event.values[0]}
        return list(found.values())

    @property
    def failed(self) -> dict[str, str]:
        """What could not be measured, and why."""
        return dict(event.values for event in self.of("failed"))

    def of(self, kind: str) -> list[Event]:
        """The events of a kind."""
        return [event for event in self.events if event.kind == kind]
