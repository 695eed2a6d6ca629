"""ImageNet-ReaL: for each validation image every label that is right, often several, or none.

Source: Beyer et al., "Are we done with ImageNet?", arXiv:2006.07159; their file real.json.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import DatasetIndex
from fastdeit.text.json_text import parse_json

VAL_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


class RealLabels:
    """Which labels are right for each image of a dataset."""

    def __init__(self, keys: NDArray[np.uint64], is_right: NDArray[np.bool_]) -> None:
        """Remember for (N,) stable keys of images, (N, K), whether class k is right for image n."""
        order = np.argsort(keys)
        self._keys, self._is_right = keys[order], is_right[order]

    def __call__(self, sample_keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """(B, K) whether each class is right for each of some images."""
        found: NDArray[np.bool_] = self._is_right[np.searchsorted(self._keys, sample_keys)]
        return found


def read_real_labels(path: Path, index: DatasetIndex) -> RealLabels:
    """Read real.json for a validation set, or a part of one, whose images have ImageNet's names.

    The file is a JSON list with a list of class numbers for each of the 50,000 images, in the order
    of their numbers; these count ImageNet's classes in the order of their WordNet ids, by which
    they are found if the set has them. Raises UserError if it is something else, or an image's name
    does not tell its number.
    """

    def refuse(rule: str, found: str) -> UserError:
        return UserError(f"{rule}. Found: {found}. Give real.json of ImageNet-ReaL.")

    try:
        labels = parse_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise refuse("real must be a JSON file", f"{path} ({error})") from error
    if not isinstance(labels, list) or not all(isinstance(row, list) for row in labels):
        raise refuse("real must be a list with a list of class numbers an image", str(path))
    num_classes = len(index.class_ids)
    ids = index.classes.labels("WordNet id")
    numbers = sorted(range(num_classes), key=ids.__getitem__) if all(ids) else range(num_classes)
    is_right = np.zeros((len(index), num_classes), dtype=np.bool_)
    for sample in range(len(index)):
        match = VAL_NUMBER.search(index.names[sample]) if index.names is not None else None
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(labels):
            raise UserError(
                f"images must have names as ILSVRC2012_val_00000001.JPEG, up to {len(labels)}, for "
                f"--real. Found: {index.describe(sample)}. Convert the validation set with "
                "`fastdeit convert`, or leave --real out."
            )
        for label in labels[number - 1]:
            if not isinstance(label, int) or not 0 <= label < num_classes:
                raise refuse(
                    f"labels must be numbers below {num_classes}", f"{label} for image {number}"
                )
            is_right[sample, numbers[label]] = True
    if not is_right.any():
        raise refuse("real must have a right label for some image", f"none in {path}")
    return RealLabels(index.keys, is_right)
