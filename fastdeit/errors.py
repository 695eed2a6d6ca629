"""The exceptions that the program prints as one line, without a traceback."""

from __future__ import annotations

import importlib
from typing import Any


class UserError(Exception):
    """Input that cannot be used, as one line: what, the value found, the rule, the way out.

    The program exits with 2. It is not a ValueError, because the command-line parser wraps every
    ValueError raised by a configuration in words of its own.
    """


class RunError(Exception):
    """A run that could not be finished, as one line; the program exits with 1."""


class Stopped(BaseException):  # as KeyboardInterrupt: what takes any error must not take this
    """A run that was asked to stop and has saved where it was; it can go on."""

    def __init__(self, signal_number: int, message: str, way_on: str = "--resume auto") -> None:
        """Say which signal asked, what was saved, and what goes on with it."""
        super().__init__(message)
        self.signal_number, self.way_on = signal_number, way_on


def require_effect(config: Any, name: str, has_effect: bool, without: str, way_out: str) -> None:
    """Refuse an option that was given and cannot act, with a UserError.

    `without` is what is missing, `way_out` an option that would let it act. The field's default is
    never refused.
    """
    value = getattr(config, name)
    require(
        has_effect or value == config.__dataclass_fields__[name].default,
        name,
        value,
        f"has no effect without {without}",
        f"{way_out}, or leave --{name.replace('_', '-')} out.",
    )


def require(ok: bool, what: str, found: object, rule: str, way_out: str) -> None:
    """Raise a UserError in the house's words unless `ok`."""
    if not ok:
        raise UserError(f"{what} {rule}. Found: {found}. {way_out}")


def need(module: str, extra: str, what: str) -> Any:
    """Import a library; if it is not installed, or does not load, a UserError names the extra.

    `extra` is that of setup.cfg which installs it; `what` is what it is needed for, for the error.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken native library raises OSError or RuntimeError too
        raise UserError(
            f"{what} needs {module.split('.')[0]}. Found: {' '.join(str(error).split())}. "
            f"Run: pip install 'fastdeit[{extra}]'."
        ) from error
