"""The loaders that ours are compared with, each as its own users run it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fastdeit.pipelines.datasets.index import DatasetIndex


def deit_loader(
    source: Path,
    num_images: int | None,
    image_size: int,
    batch_size: int,
    threads: int,
    with_augmentation: bool,
    pin_memory: bool = False,
) -> Any:
    """DeiT's own pipeline: ImageFolder, timm's training transform, workers.

    The images are spread over the classes; None takes all. Augmentation is RandAugment and erasing,
    as DeiT has them here.

    Source: deit datasets.py:build_transform and main.py with the defaults of Table 9.
    """
    from timm.data import create_transform
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder

    transform = create_transform(
        input_size=image_size,
        is_training=True,
        color_jitter=0.3 if with_augmentation else 0.0,
        auto_augment="rand-m9-mstd0.5-inc1" if with_augmentation else None,
        interpolation="bicubic",
        re_prob=0.25 if with_augmentation else 0.0,
        re_mode="pixel",
        re_count=1,
    )
    folder = ImageFolder(str(source), transform=transform)
    return DataLoader(
        Subset(folder, spread(len(folder), num_images or len(folder))),
        batch_size=batch_size,
        shuffle=True,
        num_workers=threads,
        drop_last=True,
        pin_memory=pin_memory,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )


def ffcv_own_loader(
    index: DatasetIndex, num_images: int, image_size: int, batch_size: int, threads: int
) -> Any:
    """FFCV's own random-resized-crop decoder and labels."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    return Loader(
        str(index.path),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        indices=np.arange(num_images),
        order=OrderOption.RANDOM,
        seed=0,
        drop_last=True,
        pipelines={
            "image": [RandomResizedCropRGBImageDecoder((image_size, image_size)), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )


def dali_own_epoch(
    source: Path, num_images: int, image_size: int, batch_size: int, threads: int
) -> Callable[[], int]:
    """DALI's own CPU pipeline: its file reader, random-crop decoding and cubic resize; an epoch."""
    from nvidia.dali import fn, pipeline_def, types
    from torchvision.datasets import ImageFolder

    samples = ImageFolder(str(source)).samples
    chosen = [samples[number] for number in spread(len(samples), num_images)]

    @pipeline_def
    def graph() -> Any:
        encoded, labels = fn.readers.file(
            files=[path for path, _ in chosen],
            labels=[label for _, label in chosen],
            random_shuffle=True,
            name="files",
        )
        cropped = fn.decoders.image_random_crop(
            encoded,
            device="cpu",
            output_type=types.RGB,
            random_area=[0.08, 1.0],
            random_aspect_ratio=[3 / 4, 4 / 3],
        )
        size = [image_size, image_size]
        return fn.resize(cropped, size=size, interp_type=types.INTERP_CUBIC), labels

    pipe = graph(batch_size=batch_size, num_threads=threads, device_id=None, seed=0)
    pipe.build()

    def epoch() -> int:
        count = 0
        for _ in range(len(chosen) // batch_size):
            images, _labels = pipe.run()
            count += len(np.asarray(images.as_tensor()))
        return count

    return epoch


def spread(num_there: int, num_wanted: int) -> list[int]:
    """Numbers spread evenly over those that are there, since a folder is sorted by class."""
    chosen: list[int] = (
        np.linspace(0, num_there - 1, min(num_wanted, num_there)).astype(int).tolist()
    )
    return chosen
