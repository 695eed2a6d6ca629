"""`fastdeit merge`: the parts of a conversion become what one conversion writes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import tyro

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.urls import refuse_url
from fastdeit.text.progress import say
from fastdeit.tools.data.convert.conversion import Conversion
from fastdeit.tools.data.convert.part_writer import PART_INDEX
from fastdeit.tools.data.convert.parts import find_parts, parts_folder, read_parts


def merge(
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    /,
    overwrite: bool = False,
    remove_parts: bool = False,
) -> int:
    """Join the parts that `fastdeit convert SOURCE OUT --part i/n` made in OUT.parts.

    The result is the same in every byte as what one conversion without --part writes. The source
    is not needed. A merge that was stopped goes on where it was.

    Args:
        out: the OUT of the conversions.
        overwrite: replace OUT if an earlier conversion of something else made it.
        remove_parts: remove OUT.parts at the end.

    Returns:
        0.
    """
    refuse_url(out)
    if not parts_folder(out).exists() and is_dataset(out):
        say(f"{out} is already there, and its parts are gone.")
        return 0
    folders = find_parts(out)
    parts = read_parts(folders)
    with Conversion(out, parts.assembly, "skip", overwrite, made_from="parts") as conversion:
        done = conversion.is_done()
        if not done:
            conversion.write(parts.images_from, int(parts.columns["sizes"].sum()))
    if remove_parts:
        for folder in folders:
            for name in ("data", PART_INDEX):
                (folder / name).unlink()
        with suppress(OSError):  # what is not ours stays
            for folder in (*folders, folders[0].parent):
                folder.rmdir()
    elif not done:
        say(f"{folders[0].parent} is no longer needed")
    return 0


def is_dataset(out: Path) -> bool:
    """Whether a whole dataset is there."""
    try:
        return len(open_dataset(out)) > 0
    except UserError:
        return False
