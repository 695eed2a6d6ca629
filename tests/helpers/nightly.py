"""Which tests are for the night: long forms of what `make test` does in a small one."""

from __future__ import annotations

import os

import pytest

IS_NIGHT = os.environ.get("FASTDEIT_NIGHTLY") == "1"

nightly = pytest.mark.skipif(not IS_NIGHT, reason="nightly: make test-all runs it")
"""For a test of which another one, or another parameter, is the small form."""


def often(small: int, nightly: int) -> int:
    """How often something is tried."""
    return nightly if IS_NIGHT else small
