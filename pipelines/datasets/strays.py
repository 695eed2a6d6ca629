"""What lies among the images of a dataset and is left out: counted and named, never in silence."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from pathlib import Path

from fastdeit.machine.launch import is_first_process
from fastdeit.text.progress import say

NUM_NAMED = 20
_MACOSX = "__MACOSX"


@dataclass
class Tally:
    """How many things there are, and the names of the first few."""

    count: int = 0
    _names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one thing."""
        self.count += 1
        self._names.append(name)
        if len(self._names) > 50 * NUM_NAMED:
            self._names = self.first()

    def first(self) -> list[str]:
        """The first 20 names by the alphabet, in whatever order they came, fit to be printed."""
        named = heapq.nsmallest(NUM_NAMED, self._names)
        return [name if name.isprintable() else ascii(name) for name in named]


@dataclass
class Strays:
    """What was left out of a dataset."""

    hidden: Tally = field(default_factory=Tally)
    """Folders that begin with a dot, what macOS puts beside files, and the like."""
    not_images: Tally = field(default_factory=Tally)
    """Files that are neither images nor say something of one."""

    def say_hidden(self, path: Path) -> None:
        """Print a line on stderr if something hidden was left out; one process of a job does."""
        if self.hidden.count and is_first_process():
            names = shorten(self.hidden.first(), self.hidden.count)
            say(f"{path}: left out as hidden: {names} ({self.hidden.count} in all)")


def shorten(names: list[str], count: int) -> str:
    """The first three of `count` names for a line of text, with dots if there are more."""
    return ", ".join(names[:3]) + ", ..." * (count > len(names[:3]))


def is_hidden_folder(name: str) -> bool:
    """Whether a folder is a program's own: .git, .ipynb_checkpoints, __MACOSX."""
    return name.startswith(".") or name == _MACOSX


def is_hidden_member(path: str) -> bool:
    """Whether a file, by its path in an archive, is macOS's own (`._NAME`) or in a hidden folder.

    `.` itself, as in `./a.jpg`, hides nothing.
    """
    if "._" not in path and "/." not in path and path[0] != "." and _MACOSX not in path:
        return False
    *folders, name = path.split("/")
    return name.startswith("._") or any(is_hidden_folder(each) for each in folders if each != ".")
