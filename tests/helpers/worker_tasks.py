"""Work for worker processes: a module that they can import, which test modules are not."""

from __future__ import annotations

import os
import signal
from typing import Any


def double(shared: str, number: int) -> Any:
    """Twice a number; `shared` says what goes wrong at 500."""
    if number == 500 and shared == "raise":
        raise ValueError("planted")
    if number == 500 and shared == "raise what cannot be sent":
        raise type("Local", (Exception,), {})("planted")
    if number == 500 and shared == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return bytes(200_000) if shared == "large" else 2 * number
