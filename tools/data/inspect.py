"""`fastdeit inspect`: what is in a dataset, in words and in one picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastdeit import UserError
from fastdeit.files import replace_file
from fastdeit.pipelines.datasets.index import DatasetIndex, empty_classes, open_dataset
from fastdeit.pipelines.datasets.pictures import PictureError, open_picture
from fastdeit.policies import parse_policy

THUMB_PIXELS = 128
COLUMNS = 8
SOFTWARE = "fastdeit inspect"


def inspect(
    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")],
    /,
    sheet: Path | None = None,
    num_images: int = 40,
    augment: str | None = None,
) -> int:
    """Describe a dataset: samples, classes, sizes, irregular images; optionally draw some of it.

    With --augment, the sheet shows what a policy's operations make of its first image, at their
    magnitudes, each beside PIL's result and their difference.

    Args:
        dataset: a .beton, a folder of shards or an ImageFolder.
        sheet: a PNG to write, with images spread evenly over the set and their classes.
        num_images: how many images the sheet shows, without --augment.
        augment: a policy of timm's, such as rand-m9-mstd0.5-inc1, to draw on the sheet.

    Returns:
        0.
    """
    if num_images < 1:
        raise UserError(f"num_images must be at least 1. Found: {num_images}. Pass 40, say.")
    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"sheet must end in .png. Found: {sheet}. Pass --sheet {sheet}.png.")
    policy = None
    if augment is not None:
        policy = parse_policy(augment)
        if policy is None:
            raise UserError(
                "augment must be a policy that does something. Found: none. "
                "Pass --augment rand-m9-mstd0.5-inc1, the paper's."
            )
        if sheet is None:
            raise UserError(
                "augment needs a sheet to be drawn on. Found: no --sheet. Pass --sheet sheet.png."
            )
    if sheet is not None:
        _check_sheet(sheet)
    index = open_dataset(dataset)
    if policy is not None and sheet is not None:
        from fastdeit.pipelines.engines.decode import decode_with_pil
        from fastdeit.tools.data.augment_sheet import draw_augment_sheet

        drawn, lines = draw_augment_sheet(decode_with_pil(index, 0), policy)
        print("\n".join(lines))
        _save_sheet(drawn, sheet)
    else:
        for line in summary(index):
            print(line)
        if sheet is not None:
            _draw_sheet(index, sheet, num_images)
    if sheet is not None:
        print(f"contact sheet written to {sheet}", file=sys.stderr)
    return 0


def summary(index: DatasetIndex) -> list[str]:
    """The facts of a dataset, a line each."""
    per_class = np.bincount(index.labels, minlength=len(index.class_ids))
    pixels = index.widths.astype(np.int64) * index.heights
    lines = [
        f"{index.path}: {index.container}, {len(index)} samples, {len(per_class)} classes, "
        f"{index.sizes.sum() / 1e6:.1f} MB",
        f"images a class: {spread(per_class, '.0f')}",
        *filter(None, [empty_classes(index.labels, index.class_names)]),
        *balance(index, per_class),
        f"width: {spread(index.widths, '.0f')} px; height: {spread(index.heights, '.0f')} px; "
        f"pixels: {spread(pixels / 1e6, '.3f')} M",
        f"bytes a sample: {spread(index.sizes / 1e3, '.1f')} kB, "
        f"mean {index.sizes.mean() / 1e3:.1f} kB",
    ]
    lines += histogram(index.sizes / 1e3, "kB a sample")
    lines.append(
        "checksums: "
        + ("none" if index.checksums is None else "one for each sample (xxh3, 64 bits)")
    )
    for what in ("irregular", "left_out"):
        listed = index.made_by.get(what, [])
        if listed:
            lines.append(f"{what.replace('_', ' ')}: {len(listed)}")
            lines += [f"  {entry['name']}: {entry['reason']}" for entry in listed[:20]]
            if len(listed) > 20:
                lines.append(f"  and {len(listed) - 20} more, in {index.path}.json")
    return lines


def balance(index: DatasetIndex, per_class: NDArray[np.int64]) -> list[str]:
    """The classes with the fewest and the most images, if not all have about the same number."""
    if per_class.max() - per_class.min() <= 1:
        return []
    order = np.argsort(per_class, kind="stable").tolist()
    return [
        f"  {what}: "
        + ", ".join(f"{index.class_names[n].split(',')[0]} {per_class[n]}" for n in numbers)
        for what, numbers in (("fewest", order[:5]), ("most", order[:-6:-1]))
    ]


def spread(values: NDArray[Any], form: str) -> str:
    """Minimum, median and maximum."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{low:{form}} to {high:{form}}, median {middle:{form}}"


def histogram(values: NDArray[np.float64], what: str, bins: int = 8, width: int = 40) -> list[str]:
    """A bar chart in characters, between the 1st and the 99th percentile."""
    low, high = np.percentile(values, [1, 99])
    counts, edges = np.histogram(np.clip(values, low, high), bins=bins)
    return [
        f"  {edges[i]:7.1f} to {edges[i + 1]:7.1f} {what}: "
        f"{'#' * int(np.ceil(width * counts[i] / counts.max()))} {counts[i]}"
        for i in range(bins)
    ]


def _draw_sheet(index: DatasetIndex, path: Path, num_images: int) -> None:
    from fastdeit.pipelines.engines.decode import decode_with_pil
    from fastdeit.tools.data.contact_sheet import contact_sheet

    images, labels = [], []
    for sample in np.linspace(0, len(index) - 1, min(num_images, len(index))).astype(int):
        image = decode_with_pil(index, sample)
        image.thumbnail((THUMB_PIXELS, THUMB_PIXELS))
        images.append(np.asarray(image))
        labels.append(index.class_names[int(index.labels[sample])].split(",")[0])
    _save_sheet(contact_sheet(images, labels, COLUMNS), path)


def _save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write a sheet with our mark, by which it may be replaced later."""
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", pnginfo=mark)
    replace_file(path, buffer.getvalue())


def _check_sheet(path: Path) -> None:
    """Refuse to replace a picture that is no contact sheet of ours."""
    if path.exists():
        try:
            with open_picture(path) as image:
                is_ours = image.info.get("Software") == SOFTWARE
        except (OSError, PictureError):
            is_ours = False
        if not is_ours:
            raise UserError(
                f"sheet must be a new file or an earlier sheet. Found: {path}. Give another name."
            )
