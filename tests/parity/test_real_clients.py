"""The real clients read what we write: FFCV's Loader and reader, DALI's reader, webdataset, tar."""

from __future__ import annotations

import importlib
import io
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastdeit.pipelines.datasets.index import JPEG_MODE, RAW_MODE, open_dataset
from fastdeit.pipelines.engines.decode import decode_with_pil
from fastdeit.tools.data.convert.command import convert

SIDE = 48


@pytest.fixture(autouse=True)
def _numba_types_kept() -> None:
    """FFCV as a user of ours has it: without its change of a type that all of numba shares."""
    if find_spec("ffcv") is not None:
        importlib.import_module("fastdeit.pipelines.engines.ffcv_library")


@pytest.mark.ffcv
@pytest.mark.parametrize("os_cache", [True, False])
def test_ffcv_reads_our_beton(os_cache: bool, containers: dict[str, Path]) -> None:
    """FFCV's own Loader and decoders read every image and label, mapped or page by page."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    index = open_dataset(containers["beton"])
    loader = Loader(
        str(containers["beton"]),
        batch_size=50,
        num_workers=2,
        os_cache=os_cache,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={
            "image": [CenterCropRGBImageDecoder((SIDE, SIDE), 1.0), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    images, labels = zip(*[(i.clone(), t.clone()) for i, t in loader], strict=True)
    assert torch.cat(labels)[:, 0].tolist() == index.labels.tolist()
    for sample, image in enumerate(torch.cat(images)):
        original = decode_with_pil(index, sample)
        side = min(original.size)
        left, top = (original.width - side) // 2, (original.height - side) // 2
        crop = original.crop((left, top, left + side, top + side))
        # FFCV decodes with the fast DCT and averages areas, so the pixels are only alike.
        expected = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(int)
        assert np.abs(image.numpy() - expected).mean() < 6, index.describe(sample)


@pytest.mark.dali
def test_dali_reads_our_shards(containers: dict[str, Path]) -> None:
    """DALI's own webdataset reader, with our .idx, gives every image and label in order."""
    from nvidia.dali import fn, pipeline_def, types

    index = open_dataset(containers["webdataset"])
    shards = [str(file) for file in index.files]

    @pipeline_def(batch_size=50, num_threads=2, device_id=None)
    def graph() -> Any:
        jpegs, labels = fn.readers.webdataset(
            paths=shards,
            index_paths=[shard.replace(".tar", ".idx") for shard in shards],
            ext=["jpg", "cls"],
            dtypes=[types.UINT8, types.UINT8],
            missing_component_behavior="error",
        )
        return jpegs, labels

    pipe = graph()
    sample = 0
    for _ in range(6):
        jpegs, labels = pipe.run()
        for number in range(50):
            assert jpegs.at(number).tobytes() == index.read(sample)
            assert int(labels.at(number).tobytes()) == index.labels[sample]
            sample += 1
    assert sample == len(index)


def test_webdataset_and_tar_read_our_shards(containers: dict[str, Path]) -> None:
    """The webdataset library and tarfile give the same samples under the same keys."""
    webdataset = pytest.importorskip("webdataset")
    index = open_dataset(containers["webdataset"])
    samples = list(webdataset.WebDataset([str(f) for f in index.files], shardshuffle=False))
    assert len(samples) == len(index)
    for number, sample in enumerate(samples):
        assert int(sample["__key__"], 16) == index.keys[number]
        assert sample["jpg"] == index.read(number)
        assert int(sample["cls"]) == index.labels[number]
    with tarfile.open(index.files[0]) as archive:
        first = archive.extractfile(archive.getmembers()[0])
        assert first is not None
        assert Image.open(io.BytesIO(first.read())).size == (index.widths[0], index.heights[0])


@pytest.mark.ffcv
def test_ffcv_reads_every_byte(containers: dict[str, Path]) -> None:
    """FFCV's own reader finds the bytes, size and label of every sample where its tables say."""
    from ffcv.memory_managers import OSCacheManager
    from ffcv.reader import Reader

    index = open_dataset(containers["beton"])
    reader = Reader(str(containers["beton"]))
    manager = OSCacheManager(reader)
    read = manager.compile_reader()
    assert reader.num_samples == len(index)
    assert list(reader.handlers) == ["image", "label"]
    with manager.schedule_epoch([]) as context:
        for sample, row in enumerate(reader.metadata):
            image, label = row["f0"], row["f1"]
            assert read(image["data_ptr"], context.state).tobytes() == index.read(sample)
            assert label == index.labels[sample]
            assert (image["width"], image["height"]) == (
                index.widths[sample],
                index.heights[sample],
            )
            assert image["mode"] == JPEG_MODE


@pytest.mark.ffcv
@pytest.mark.parametrize("mode", ["raw", "proportion"])
def test_ffcv_reads_our_raw_pixels(mode: Any, sample_source: Path, tmp_path: Path) -> None:
    """Raw images come out of FFCV's own Loader as the very pixels that PIL decodes."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    source = tmp_path / "source"
    for number, file in enumerate(sorted((sample_source / "val").rglob("*.JPEG"))[:24]):
        with Image.open(file) as image:
            square = image.convert("RGB").resize((64, 64))
        (source / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        square.save(source / f"class{number % 3}" / f"{number}.png")
    path = tmp_path / "x.beton"
    assert convert(source, path, mode=mode) == 0
    index = open_dataset(path)
    is_raw = index.modes == RAW_MODE
    assert is_raw.all() if mode == "raw" else 4 < is_raw.sum() < 20
    loader = Loader(
        str(path),
        batch_size=24,
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        pipelines={
            "image": [CenterCropRGBImageDecoder((64, 64), 1.0), ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    ((images, labels),) = [(i.clone(), t.clone()) for i, t in loader]
    assert labels[:, 0].tolist() == index.labels.tolist()
    for sample in np.flatnonzero(is_raw).tolist():
        assert index.names is not None
        with Image.open(source / index.names[sample]) as image:
            assert np.array_equal(images[sample].numpy(), np.asarray(image))
