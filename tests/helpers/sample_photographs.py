"""The packages whose photographs `fastdeit sample-data` takes."""

from __future__ import annotations

import pytest


def need_photographs() -> None:
    """Skip the test where they are not installed."""
    for module in ("skimage", "sklearn", "scipy"):
        pytest.importorskip(module, reason=f"the photographs of {module} are not installed")
