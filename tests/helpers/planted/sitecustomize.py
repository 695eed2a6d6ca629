"""Plants faults in a program from outside: FASTDEIT_TEST_PLANTED is "module:function:fault ...".

A process that finds this file on its path replaces each function, when its module is imported, by
one that raises an exception, aborts, or is sent SIGTERM.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

PLANTED = [line.split(":") for line in os.environ.get("FASTDEIT_TEST_PLANTED", "").split()]


def fault(kind: str) -> Any:
    """A function that goes wrong."""

    def wrong(*_: Any, **__: Any) -> None:
        if kind == "abort":
            os.abort()
        if kind == "sigterm":
            os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError("planted")

    return wrong


class Planter(importlib.abc.MetaPathFinder):
    """Finds modules as the others do, and changes them when they are loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec of a module that a fault is planted in; None of others."""
        kinds = [(function, kind) for module, function, kind in PLANTED if module == name]
        if not kinds:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                load = spec.loader.exec_module

                def exec_module(module: ModuleType, load: Any = load) -> None:
                    load(module)
                    for function, kind in kinds:
                        setattr(module, function, fault(kind))

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
                return spec
        return None


sys.meta_path.insert(0, Planter())
