"""What a person gives as the place of a dataset and is none of this machine."""

from __future__ import annotations

import re
from pathlib import Path

from fastdeit import UserError


def refuse_url(path: Path) -> None:
    """Raise a UserError if a path is a URL, such as s3://bucket/train, and no file is called so."""
    # A Path has made one slash of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) and not path.exists():
        scheme, _, rest = str(path).partition(":")
        raise UserError(
            "a dataset must be on a disk; URLs are neither read nor written yet. Found: "
            f"{scheme}://{rest.lstrip('/')}. Give a path, and copy from or to there yourself."
        )
