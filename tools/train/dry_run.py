"""`fastdeit train RECIPE --dry-run`: the resolved configuration and what follows from it."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import torch

from fastdeit.config import TrainConfig
from fastdeit.config.data import Dataset
from fastdeit.machine import launch
from fastdeit.models import make_model, num_parameters
from fastdeit.paper.transfer import dataset_row
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.open import derive, train_plan

PAPERS_BATCH = 1_024
ROOTS: dict[Dataset, tuple[str, str, str]] = {
    "imagenet": ("the folder with ILSVRC2012's archives", "train", "val"),
    "cifar10": ("the folder that holds cifar-10-batches-py", "train", "test"),
    "cifar100": ("the folder that holds cifar-100-python", "train", "test"),
    "flowers102": ("the folder that holds flowers-102", "trainval", "test"),
    "cars": ("the folder that holds stanford_cars", "train", "test"),
    "inat18": ("the folder that holds train2018.json and train_val2018", "train", "val"),
    "inat19": ("the folder that holds train2019.json and train_val2019", "train", "val"),
}
"""What `fastdeit convert` makes a dataset from: (SOURCE, the splits to train on and to test on)."""


def dry_run(config: TrainConfig) -> int:
    """Print the configuration and a "derived" object as JSON; make nothing.

    On stderr a batch other than the paper's is pointed out, for training from scratch, and how a
    training set that does not exist yet is made, where the recipe is not for ImageNet.

    Returns:
        0.

    Raises:
        UserError: the training set is there but cannot be read, the model does not take its
            options, or a step has too few images for the processes.
    """
    index, source = training_set(config)
    plan = dataclasses.replace(
        train_plan(config.data, index, config.run),
        rank=0,
        world_size=launch.world_size(),
    )
    derived = derive(config, plan)
    num_classes = len(index.class_ids) or dataset_row(config.data.dataset).classes
    with torch.device("meta"):  # no weights: shapes only
        model = make_model(config.model, num_classes, config.data.image_size)
    if not launch.is_first_process():
        return 0
    facts = {
        **dataclasses.asdict(derived),
        "num_train_images_from": source,
        "num_classes": num_classes,
        "num_params": num_parameters(model),
    }
    print(json.dumps({**config.to_dict(), "derived": facts}, indent=1))
    if not index.class_ids and config.data.dataset != "imagenet":
        print(f"fastdeit: {how_to_make(config)}", file=sys.stderr)
    # Fine-tuning has batches of its own in the paper (512, 768).
    if plan.batch_size != PAPERS_BATCH and config.init_from is None:
        how = (
            f"base_lr {config.optim.base_lr:g} x {plan.batch_size} / 512"
            if config.optim.scale_lr
            else "base_lr as given, not scaled by the batch"
        )
        print(
            f"fastdeit: warning: a step has {plan.batch_size:,} images, not the {PAPERS_BATCH:,} "
            f"of the paper's Table 9; the peak learning rate is {derived.peak_lr:g} ({how}).",
            file=sys.stderr,
        )
    return 0


def training_set(config: TrainConfig) -> tuple[DatasetIndex, str]:
    """The training set, or one of its size where there is none yet, and which it is."""
    path = config.data.train
    if path.exists():
        return open_dataset(path), f"the dataset {path}"
    row = dataset_row(config.data.dataset)
    nothing = np.zeros(0, dtype=np.int64)
    index = DatasetIndex(
        path=path,
        container="imagefolder",
        files=(),
        file_ids=nothing.astype(np.int32),
        offsets=nothing,
        sizes=nothing,
        modes=nothing.astype(np.uint8),
        labels=np.arange(row.train) % row.classes,
        widths=nothing.astype(np.int32),
        heights=nothing.astype(np.int32),
        keys=np.arange(row.train, dtype=np.uint64),
    )
    assumed = "" if config.data.sampling == "natural" else " and classes of one size"
    return index, f"the size of {row.name}{assumed}, for {path} does not exist"


def how_to_make(config: TrainConfig) -> str:
    """The lines that make both sets of the recipe's dataset."""
    data = config.data
    root, train, val = ROOTS[data.dataset]
    lines = [f"fastdeit convert SOURCE {data.train} --split {train}"]
    lines.append(f"fastdeit convert SOURCE {data.val} --split {val}")
    name = dataset_row(data.dataset).name
    return f"{name} is made by `{'` and `'.join(lines)}`, where SOURCE is {root}."
