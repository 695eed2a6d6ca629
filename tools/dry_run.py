"""`fastdeit train RECIPE --dry-run`: the resolved configuration and what follows from it."""

from __future__ import annotations

import dataclasses
import json
import sys

import numpy as np
import torch

from fastdeit import launch
from fastdeit.config import TrainConfig
from fastdeit.models import make_model, num_parameters
from fastdeit.pipelines.datasets.index import DatasetIndex, open_dataset
from fastdeit.pipelines.derived import derive
from fastdeit.pipelines.open import train_plan

IMAGENET_IMAGES, IMAGENET_CLASSES = 1_281_167, 1_000
PAPERS_BATCH = 1_024


def dry_run(config: TrainConfig) -> int:
    """Print the configuration and a "derived" object as JSON; make nothing.

    A batch other than the paper's is pointed out on stderr.

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
    num_classes = len(index.class_ids) or IMAGENET_CLASSES
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
    if plan.batch_size != PAPERS_BATCH:
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
    """The training set, or one of ImageNet's size where there is none yet, and which it is."""
    path = config.data.train
    if path.exists():
        return open_dataset(path), f"the dataset {path}"
    nothing = np.zeros(0, dtype=np.int64)
    index = DatasetIndex(
        path=path,
        container="imagefolder",
        files=(),
        file_ids=nothing.astype(np.int32),
        offsets=nothing,
        sizes=nothing,
        modes=nothing.astype(np.uint8),
        labels=nothing,
        widths=nothing.astype(np.int32),
        heights=nothing.astype(np.int32),
        keys=np.arange(IMAGENET_IMAGES, dtype=np.uint64),
    )
    return index, f"the size of ImageNet, for {path} does not exist"
