"""Libraries that only some users need: imported late, and a missing one is one line."""

from __future__ import annotations

import importlib
from typing import Any

from fastdeit.errors import UserError


def need(module: str, extra: str, what: str) -> Any:
    """Import a library.

    Args:
        module: dotted name.
        extra: of setup.cfg, which installs it.
        what: what it is needed for, for the error.

    Raises:
        UserError: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(module)
    except Exception as error:  # a broken native library raises OSError or RuntimeError too
        raise UserError(
            f"{what} needs {module.split('.')[0]}. Found: {' '.join(str(error).split())}. "
            f"Run: pip install 'fastdeit[{extra}]'."
        ) from error
