"""The samples of one WebDataset shard: which members belong together, and what they say.

A sample is what webdataset takes for one: members behind each other whose names are the same up to
the first dot of the last part. It needs one image and a class number.

Source: webdataset 1.0 tariterators.py:base_plus_ext and group_by_keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import MAX_CLASSES
from fastdeit.pipelines.datasets.names import imagenet_name
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.tar_bytes import GzipBytes, TarBytes, open_tar
from fastdeit.pipelines.datasets.tars import TarMember, members_of, visible_members
from fastdeit.pipelines.datasets.walk import EXTENSIONS
from fastdeit.text.json_text import parse_json

IMAGES = frozenset(extension[1:] for extension in EXTENSIONS)
NUMBERS = ("cls", "cls.txt", "label", "label.txt")
"""Extensions of members that hold a class number as text."""
FACTS = ("json", "txt")
"""Extensions of members that may hold one; what they say otherwise is not kept."""
FIELDS = ("label", "class_id", "cls", "target")
"""Names of a class number in a .json."""
MAX_JSON_BYTES = 1 << 20

# What webdataset itself puts beside samples.
_META = re.compile("__.+__")
# n01440764.tar, and ILSVRC2012_val_00000001.JPEG without its class.
_ILSVRC = re.compile(r"(?:.*/)?(?:n\d{8}|ILSVRC2012_val_\d{8})", re.ASCII)

Parts = dict[str, TarMember]


class ShardSample(NamedTuple):
    """An image and its class."""

    key: str
    """Name of its members up to the extension."""
    extension: str
    """Extension of the image, lower-case, without a dot."""
    image: TarMember
    """Where the image is in the shard."""
    label: int
    """Class number from 0."""
    imagenet_name: str
    """WNID/FILE.JPEG if it is known to be ImageNet's, else empty."""


def _groups(data: TarBytes, file: Path, strays: Strays) -> Iterator[tuple[str, Parts]]:
    """(key, members by extension) of each sample of a shard, as webdataset groups them."""
    key, parts = "", Parts()
    for member in visible_members(strays, data, str(file)):
        name = member.name
        first = name.rfind("/") + 1
        dot = name.find(".", first)
        if dot <= first:  # no extension, or a hidden file
            if not _META.fullmatch(name):
                strays.not_images.add(f"{file.name}/{name}")
            continue
        if name[:dot] != key:
            if parts:
                yield key, parts
            key, parts = name[:dot], {}
        extension = name[dot + 1 :].lower()
        if extension in parts:
            raise _bad_sample(f"two members .{extension}", key, file)
        if not (extension in IMAGES or extension in NUMBERS or extension in FACTS):
            strays.not_images.add(f"{file.name}/{name}")
        parts[extension] = member
    if parts:
        yield key, parts


def samples_of(file: Path, strays: Strays) -> Iterator[ShardSample]:
    """List the samples of a shard in its order; what is left out goes to `strays`.

    It may be packed by gzip. Raises UserError if it is damaged (`tar_members`), or a sample has no
    image or no class number, or two, or its members do not lie together.
    """
    with closing(open_tar(file)) as data:
        for key, parts in _groups(data, file, strays):
            images = [extension for extension in parts if extension in IMAGES]
            name = imagenet_name(key)
            try:
                if len(images) != 1:
                    count = f"{len(images)} images" if images else "no image"
                    raise ValueError(f"{count} ({_listed(parts)})")
                label = _number(data, parts, NUMBERS)
                if label is None or not name:
                    facts = _facts(data, parts)
                    label = _number_in(facts, data, parts) if label is None else label
                    stem = str(facts.get("filename", "")).rpartition(".")[0]
                    name = name or imagenet_name(stem)
                if not 0 <= label < MAX_CLASSES:
                    raise ValueError(f"class {label}, not one from 0 to {MAX_CLASSES - 1}")
            except ValueError as error:
                _check_together(key, parts, file)
                raise _bad_sample(str(error), key, file) from error
            yield ShardSample(key, images[0], parts[images[0]], label, name)
        if isinstance(data, GzipBytes):
            data.check_rest()


def _check_together(key: str, parts: Parts, file: Path) -> None:
    """Raise a UserError if more members of a sample lie elsewhere in its shard."""
    together = {member.name for member in parts.values()}
    with closing(open_tar(file)) as data:
        names = [member.name for member in members_of(data, str(file))]
    for name in names:
        if name.startswith(f"{key}.") and name not in together:
            raise UserError(
                "the members of a sample must lie beside each other in a shard, for it is read as "
                f"a stream. Found: {min(together)} and, elsewhere, {name} in {file}. Unpack "
                "it, and pack it anew with tar --sort=name."
            )


def _number(data: TarBytes, parts: Parts, extensions: Sequence[str]) -> int | None:
    """The class number that a member says as text; None if there is no such member."""
    for extension in extensions:
        member = parts.get(extension)
        if member is not None:
            text = data.pread(min(member.size, 32), member.offset).strip()
            if member.size > 32 or not text.lstrip(b"-").isdigit():
                raise ValueError(f"no class number in .{extension}, but {text[:32]!r}")
            return int(text)
    return None


def _facts(data: TarBytes, parts: Parts) -> dict[str, Any]:
    """What the .json of a sample says; nothing if there is none."""
    member = parts.get("json")
    if member is None or member.size > MAX_JSON_BYTES:
        return {}
    try:
        facts = parse_json(data.pread(member.size, member.offset))
    except ValueError as error:
        raise ValueError(f"a damaged .json ({error})") from error
    return facts if isinstance(facts, dict) else {}


def _number_in(facts: dict[str, Any], data: TarBytes, parts: Parts) -> int:
    """The class number of a sample whose text members say none."""
    for field in FIELDS:
        value = facts.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    # Last, since it is a caption as often.
    label = _number(data, parts, ("txt",))
    if label is None:
        raise ValueError(f"no class number ({_listed(parts)})")
    return label


def _listed(parts: Parts) -> str:
    return ", ".join(f".{extension}" for extension in parts)


def _bad_sample(what: str, key: str, file: Path) -> UserError:
    way_out = "Make the shards anew"
    if _ILSVRC.fullmatch(key):
        way_out = "It is an archive of ImageNet's own, which `fastdeit convert` reads"
    return UserError(
        "a sample must be one image and one class number (.cls, or .json with "
        f'"label"). Found: {what} in sample {key} of {file}. {way_out}.'
    )
