"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Read JSON.

    What is none, is nested deeper than Python reads, or has text that is no Unicode (half of a pair
    of escapes, which could not be written again) is a ValueError.
    """
    try:
        content = json.loads(text)
        if (b"\\ud" if isinstance(text, bytes) else "\\ud") in text.lower():  # type: ignore[operator]
            json.dumps(content, ensure_ascii=False).encode()
        return content
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
