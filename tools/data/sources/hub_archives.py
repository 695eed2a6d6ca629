"""ImageNet as Hugging Face stores it besides Parquet: flat archives whose names tell the class.

ILSVRC/imagenet-1k has data/train_images_0.tar.gz to _4 with n01440764_10026_n01440764.JPEG and so
on, and data/val_images.tar.gz with ILSVRC2012_val_00000293_n01440764.JPEG and so on.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np

from fastdeit import UserError
from fastdeit.pipelines.datasets.names import Names, imagenet_name
from fastdeit.pipelines.datasets.strays import Strays
from fastdeit.pipelines.datasets.tar_bytes import GzipBytes, TarBytes, open_tar
from fastdeit.pipelines.datasets.tars import visible_members
from fastdeit.tools.data.sources.ground_truth import read_words, words_of_classes
from fastdeit.tools.data.sources.listing import Listing, fingerprint_of, times_of
from fastdeit.tools.data.sources.packed import ranges_in

IMAGE = re.compile(r"(?:.*/)?(?:(n\d{8})_\d+_\1|(ILSVRC2012_val)_\d{8}_n\d{8})\.JPEG", re.ASCII)


def split_of_hub(data: TarBytes, label: str) -> str:
    """Train or val if an archive is one of these by its first two names, else an empty text.

    Two, since shards of WebDataset may have such images too, each beside its label.
    """
    names = [member.name for member in islice(visible_members(Strays(), data, label), 2)]
    found = [match for match in map(IMAGE.fullmatch, names) if match]
    if not found or len(found) < len(names):
        return ""
    return "val" if found[0][2] else "train"


def _check_numbers(files: Sequence[Path]) -> None:
    """Raise a UserError if files are numbered from 0, as Hugging Face does, and one is missing."""
    found = [re.search(r"_(\d+)\.t", file.name) for file in files]
    numbers = {int(match[1]) for match in found if match}
    missing = set(range(max(numbers, default=0))) - numbers
    if missing and len(files) > 1:
        raise UserError(
            f"the archives of a split must be complete. Found: number {min(missing)} is missing "
            f"beside {files[0].name} in {files[0].parent}. Download it, or give one archive."
        )


def list_hub(path: Path, files: Sequence[Path], devkit: Path | None = None) -> Listing:
    """List the images of the archives of a split, named as in ImageNet's folders.

    The classes are those that occur, sorted; files that are named otherwise are no images. Raises
    UserError if an archive is damaged or missing.
    """
    _check_numbers(files)
    columns = array("q")
    numbers: dict[str, int] = {}
    strays = Strays()

    def names() -> Iterator[str]:
        for file_id, file in enumerate(files):
            with closing(open_tar(file)) as data:
                for member in visible_members(strays, data, str(file)):
                    if not IMAGE.fullmatch(member.name):
                        strays.not_images.add(f"{file.name}/{member.name}")
                        continue
                    name = imagenet_name(member.name.removesuffix(".JPEG"))
                    number = numbers.setdefault(name.partition("/")[0], len(numbers))
                    columns.extend((file_id, member.offset, member.size, number))
                    yield name
                if isinstance(data, GzipBytes):
                    data.check_rest()

    found = Names.of(names())
    strays.say_hidden(path)
    file_ids, offsets, sizes, places = np.frombuffer(columns, np.int64).reshape(-1, 4).T.copy()
    class_ids = sorted(numbers)
    order = {wnid: number for number, wnid in enumerate(class_ids)}
    labels = np.array([order[wnid] for wnid in numbers], np.int64)[places]
    folder = path if path.is_dir() else path.parent
    requests = ranges_in(files, file_ids, offsets, sizes)
    return Listing(
        path=path,
        kind="ilsvrc",
        names=found,
        labels=labels,
        sizes=sizes,
        class_ids=class_ids,
        class_names=words_of_classes(class_ids, folder, lambda: read_words(devkit, folder)),
        requests=requests,
        fingerprint=fingerprint_of(found, sizes, labels),
        strays=strays,
        times=times_of(files, file_ids),
        is_sequential=requests.is_sequential,
    )
