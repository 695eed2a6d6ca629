"""Parts of a conversion, made on several machines: where they lie, and their images in order."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import checksum, sample_key
from fastdeit.pipelines.datasets.names import Names
from fastdeit.tools.data.convert.assembly import Assembly, describe_difference, keys_of
from fastdeit.tools.data.convert.part_writer import read_part
from fastdeit.tools.data.convert.prepare_image import PreparedImage

_NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)")


def parts_folder(out: Path) -> Path:
    """Where the parts of OUT lie."""
    return out.with_name(f"{out.name}.parts")


def part_path(out: Path, part: int, num_parts: int) -> Path:
    """Where one part of OUT lies."""
    return parts_folder(out) / f"{part}-of-{num_parts}"


def check_parts(out: Path, num_parts: int) -> None:
    """Raise a UserError if parts of another number are there, which could not be joined."""
    for path in parts_folder(out).glob("*-of-*"):
        match = _NAME.fullmatch(path.name)
        if match and int(match[2]) != num_parts:
            raise UserError(
                f"all parts must be of one number. Found: {path}, where this is one of "
                f"{num_parts}. Remove {path.parent}, or pass --part i/{match[2]}."
            )


def parse_part(text: str) -> tuple[int, int]:
    """Read "2/8"; UserError if it is not that."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    part, num_parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= num_parts:
        raise UserError(
            f"part must be i/n with i from 1 to n. Found: {text}. Pass --part 1/8, say, and the "
            "other seven on other machines."
        )
    return part, num_parts


def find_parts(out: Path) -> list[Path]:
    """The folders of all parts of OUT."""
    folder = parts_folder(out)
    names = [path.name for path in folder.glob("*-of-*")] if folder.is_dir() else []
    found = [(int(m[2]), int(m[1])) for m in map(_NAME.fullmatch, names) if m]
    numbers = {num for num, _ in found}
    if len(numbers) != 1:
        what = "none" if not numbers else f"parts of {' and of '.join(map(str, sorted(numbers)))}"
        raise UserError(
            f"{folder} must hold the parts of one conversion. Found: {what}. Make them with "
            f"`fastdeit convert SOURCE {out} --part 1/{max(numbers, default=8)}` and so on"
            f"{', and remove the others' if numbers else ''}."
        )
    (num_parts,) = numbers
    missing = sorted(set(range(1, num_parts + 1)) - {part for _, part in found})
    if missing:
        raise UserError(
            f"all {num_parts} parts must be complete. Found: "
            f"{', '.join(f'{part}/{num_parts}' for part in missing)} missing in {folder}. "
            f"Run `fastdeit convert SOURCE {out} --part {missing[0]}/{num_parts}`."
        )
    return [folder / f"{part}-of-{num_parts}" for part in range(1, num_parts + 1)]


@dataclass(frozen=True, eq=False)
class Parts:
    """The images of all parts, in the order in which they are written."""

    assembly: Assembly
    columns: dict[str, Any]
    """(N,) file_ids, offsets, sizes, widths, heights, modes, checksums; size 0 where bad."""
    remarks: dict[int, tuple[str, str]]
    """(note, error) of the images that have one, by key."""
    files: list[Path]

    def images_from(self, first: int) -> Generator[PreparedImage, None, None]:
        """The images from a place on; UserError if a part was damaged since it was made."""
        columns = self.columns
        with ExitStack() as stack:
            handles = [stack.enter_context(file.open("rb")).fileno() for file in self.files]
            for place in range(first, len(self.assembly.keys)):
                note, error = self.remarks.get(int(self.assembly.keys[place]), ("", ""))
                if error:
                    yield PreparedImage(b"", error=error)
                    continue
                part = int(columns["file_ids"][place])
                size, offset = int(columns["sizes"][place]), int(columns["offsets"][place])
                data = os.pread(handles[part], size, offset)
                stored = int(columns["checksums"][place])
                if checksum(data) != stored:
                    raise UserError(
                        f"{self.files[part]} must be as it was made. Found: another checksum at "
                        f"{self.assembly.names[place]}. Remove {self.files[part].parent} and "
                        "convert that part again."
                    )
                yield PreparedImage(
                    data,
                    int(columns["modes"][place]),
                    int(columns["widths"][place]),
                    int(columns["heights"][place]),
                    stored,
                    note,
                )


def read_parts(folders: list[Path]) -> Parts:
    """Open parts and sort their images as they are written.

    Raises UserError if one is damaged, or made from another source or with other options.
    """
    metas: list[dict[str, Any]] = []
    pieces: list[dict[str, Any]] = []
    for folder in folders:
        meta, columns = read_part(folder)
        if metas and meta["parameters"] != metas[0]["parameters"]:
            raise UserError(
                "all parts must come from the same source with the same options. Found: "
                f"{folder} is {describe_difference(meta['parameters'], metas[0]['parameters'])} as "
                f"{folders[0].name}. Remove one and convert it again."
            )
        metas.append(meta)
        pieces.append(columns)
    remarks: dict[int, tuple[str, str]] = {}
    bad: list[str] = []
    for meta in metas:
        bad += [entry["name"] for entry in meta["left_out"]]
        for field in ("irregular", "left_out"):
            for entry in meta[field]:
                text = entry["reason"]
                remark = (text, "") if field == "irregular" else ("", text)
                remarks[sample_key(entry["name"])] = remark
    columns = {
        name: _join([piece[name] for piece in pieces], len(bad))
        for name in ("offsets", "sizes", "labels", "widths", "heights", "modes", "checksums")
    }
    counts = [len(piece["keys"]) for piece in pieces]
    columns["file_ids"] = _join([np.repeat(np.arange(len(counts)), counts)], len(bad))
    names = Names.of(name for source in (*(p["names"] for p in pieces), bad) for name in source)
    meta = metas[0]
    whole = Assembly(
        kind=meta["parameters"]["format"],
        names=names,
        keys=keys_of(names),
        labels=columns["labels"],
        sizes=columns["sizes"],
        times=np.zeros(len(names), np.int64),  # the parts have checksums
        class_ids=meta["class_ids"],
        class_names=meta["class_names"],
        identity=meta["parameters"],
        facts={name: value for name, value in meta["source"].items() if name != "largest_bytes"},
        largest_bytes=meta["source"]["largest_bytes"],
        source=folders[0].parent,
        # Each part says it of the whole source; those of older versions do not.
        **({"not_images": meta["not_images"]} if "not_images" in meta else {}),
    )
    assembly, order = whole.in_key_order()
    columns = {name: column[order] for name, column in columns.items()}
    return Parts(assembly, columns, remarks, [folder / "data" for folder in folders])


def _join(pieces: list[NDArray[Any]], num_bad: int) -> NDArray[Any]:
    """One column of all parts, with zeros for the bad images."""
    return np.concatenate([*pieces, np.zeros(num_bad, pieces[0].dtype)])
