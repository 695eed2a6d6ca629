"""Pickles read as data: nothing in them is imported, called or built.

A pickle is a program, and loading one runs it. Here its instructions only pile up what they name:
what would be a call is kept as a description of the call.
"""

from __future__ import annotations

import pickletools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

CONSTANTS = frozenset(
    "BININT BININT1 BININT2 LONG1 BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINBYTES "
    "SHORT_BINBYTES BINFLOAT".split()
)
LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()


@dataclass(frozen=True)
class Name:
    """Something that the pickle would import, such as `numpy.ndarray`."""

    name: str


@dataclass(eq=False)
class Call:
    """Something that the pickle would call, with what it would set on the result."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


def read_inert_pickle(data: bytes, allowed: Collection[str]) -> Any:
    """Read a pickle of protocol 2 or later without running it.

    It gives numbers, strings (Python 2's as Latin-1), bytes, lists, tuples and dicts as they are
    stored. It may mention `allowed` dotted names; each becomes a `Name`, and a call of it a `Call`.
    Raises ValueError if it is no whole pickle, mentions another name, or uses instructions that
    plain data do not need.
    """
    machine = _Machine(allowed)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                (result,) = machine.stack
                return result
            machine.step(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"no whole pickle ({type(error).__name__}: {error})") from error
    raise ValueError("no whole pickle")


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, allowed: Collection[str]) -> None:
        self.allowed = allowed
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Follow one instruction."""
        stack = self.stack
        if name in CONSTANTS:
            stack.append(argument)
        elif name in LITERALS:
            stack.append(LITERALS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            stack.append(MARK)
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "TUPLE":
            stack.append(tuple(self.pop_to_mark()))
        elif name not in ("PROTO", "FRAME"):
            self.step_container(name, argument)

    def step_container(self, name: str, argument: Any) -> None:
        """Follow an instruction of lists, dicts and what would be objects."""
        stack = self.stack
        if name == "EMPTY_LIST":
            stack.append([])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self.pop_to_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.pop_to_mark()
            # No tuples: hashing one that holds another twice, and so on, would take forever.
            if not all(isinstance(key, str | bytes | int) for key in items[::2]):
                raise ValueError("a dict with keys that are neither text nor numbers")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            parts = argument.split(" ") if name == "GLOBAL" else [stack.pop(-2), stack.pop()]
            stack.append(self.name_of(parts))
        elif name == "REDUCE":
            args = stack.pop()
            stack[-1] = Call(stack[-1].name, args)
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        else:
            raise ValueError(f"the pickle instruction {name}, which plain data do not need")

    def name_of(self, parts: list[str]) -> Name:
        """What would be imported, if it is allowed."""
        name = ".".join(parts)
        if name not in self.allowed:
            raise ValueError(f"a pickle that would import {name}")
        return Name(name)

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not MARK:
            place -= 1
            if place < 0:
                raise IndexError("no mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items
