"""The augmentation of a whole batch: its order, its independence, its memory, no waiting."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from augment_batches import make_batch
from gpu_waits import DEVICES, no_waiting
from nightly import nightly
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from fastdeit.augment import (
    apply_augmentation,
    apply_operations,
    compose,
    normalise,
    operate,
    sample_augmentation,
)
from fastdeit.augment.erase import apply_erasure
from fastdeit.augment.mix import apply_mix, same_for_all
from fastdeit.augment.operate import choose_implementation
from fastdeit.augment.upload import block_bytes, fill_block, upload, views_of_block
from fastdeit.batch import Batch
from fastdeit.config.augment import AugmentConfig

pytestmark = pytest.mark.slow  # as a whole

ALL = AugmentConfig(color_jitter=(0.3, 0.3, 0.3, 0.1), erase_prob=0.7, erase_count=2)
NO_MIX = replace(ALL, mixup_alpha=0.0, cutmix_alpha=0.0)


def part(batch: Batch, index: slice) -> Batch:
    """Some of a batch, at another step."""
    return Batch(
        batch.images_nhwc_u8[index],
        batch.labels[index],
        batch.sample_keys[index],
        batch.copies[index],
        batch.epoch,
        99,
    )


def test_augmentation_of_a_sample_does_not_depend_on_its_batch() -> None:
    """Without mixing, an image alone is augmented as among others, and its copy differently."""
    batch = make_batch(23)
    together, _ = apply_augmentation(batch, sample_augmentation(NO_MIX, batch, 0))
    for i in range(23):
        alone = part(batch, slice(i, i + 1))
        found, targets = apply_augmentation(alone, sample_augmentation(NO_MIX, alone, 0))
        assert torch.equal(found[0], together[i]), i
        assert targets.weight.tolist() == [1.0]
    other = replace(batch, copies=batch.copies + 1)
    copied, _ = apply_augmentation(other, sample_augmentation(NO_MIX, other, 0))
    assert not any(torch.equal(copied[i], together[i]) for i in range(23))


@pytest.mark.parametrize("num", [1, 2, 5, 8])
@pytest.mark.parametrize("order", ["deit", "timm-prefetcher"])
@pytest.mark.parametrize("cut", [False, True])
def test_order(num: int, order: Any, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole is its parts in the order that was asked for, however small the blocks are."""
    monkeypatch.setattr(compose, "BLOCK_BYTES_CPU", 2 * 32 * 32 * 3)
    batch = make_batch(num)
    config = AugmentConfig(color_jitter=(0.3,), erase_prob=1.0)
    drawn = sample_augmentation(config, batch, 0)
    mix = same_for_all(num, 0.7, (3, 20, 5, 30) if cut else None)
    given = replace(drawn, flip=np.arange(num) % 2 == 0, mix=mix, order=order)
    before = batch.images_nhwc_u8.clone()
    found, targets = apply_augmentation(batch, given)
    assert torch.equal(batch.images_nhwc_u8, before)

    images = batch.images_nhwc_u8.clone()
    images[given.flip] = images[given.flip].flip(2)
    assert len(given.operations) == 2
    for operations in given.operations:
        images = apply_operations(images, operations)
    assert given.erasure is not None
    if order == "deit":
        values = normalise(images).permute(0, 2, 3, 1)
        values = apply_mix(apply_erasure(values, given.erasure), mix)
    else:
        mixed = apply_mix(images.float(), mix).round()
        values = apply_erasure(normalise(mixed).permute(0, 2, 3, 1), given.erasure)
    assert torch.equal(found, values.permute(0, 3, 1, 2))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(targets.partner_labels, batch.labels.flip(0))
    assert torch.allclose(targets.weight, torch.tensor(0.7))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_are_float32_rounded_once(dtype: torch.dtype) -> None:
    """The training dtype is float32's result, rounded at the end."""
    batch = make_batch(7)
    drawn = sample_augmentation(ALL, batch, 0)
    exact, _ = apply_augmentation(batch, drawn)
    found, _ = apply_augmentation(batch, drawn, dtype)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_torch_and_numba_are_equal() -> None:
    """The two implementations give the same images, by any number of threads."""
    batch = make_batch(41, 48)
    drawn = sample_augmentation(ALL, batch, 1)
    found = []
    threads = torch.get_num_threads()
    for implementation, num_threads in (("torch", threads), ("numba", 1), ("numba", 3)):
        torch.set_num_threads(num_threads)
        try:
            found.append(apply_augmentation(batch, drawn, implementation=implementation)[0])
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_implementation_is_chosen_once_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """`auto` is numba on a CPU and torch elsewhere; the log says so, once."""
    choose_implementation.cache_clear()
    with caplog.at_level("INFO", logger=operate.__name__):
        for _ in range(3):
            assert choose_implementation("cpu") == "numba"
            assert choose_implementation("cuda") == "torch"
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "augmentation by numba",
        "augmentation by batched torch",
    ]


def test_switched_off() -> None:
    """With everything off, an image is only normalised."""
    config = AugmentConfig(
        hflip_prob=0, auto_augment="none", erase_prob=0, mixup_alpha=0, cutmix_alpha=0
    )
    batch = make_batch(5)
    drawn = sample_augmentation(config, batch, 0)
    assert drawn.operations == ()
    assert drawn.erasure is None
    assert drawn.mix is None
    found, targets = apply_augmentation(batch, drawn)
    assert torch.equal(found, normalise(batch.images_nhwc_u8))
    assert torch.equal(targets.labels, batch.labels)


def test_mixing_is_keyed_by_the_step_and_for_images_by_the_batch() -> None:
    """Batch mode draws alike on every process; the other modes do not."""
    batch = make_batch(6)
    elsewhere = replace(batch, sample_keys=batch.sample_keys + np.uint64(50))
    for mode, alike in (("batch", True), ("elem", False), ("pair", False)):
        config = AugmentConfig(mix_mode=mode)
        one, other = (sample_augmentation(config, b, 0).mix for b in (batch, elsewhere))
        assert one is not None
        assert other is not None
        assert np.array_equal(one.weight, other.weight) == alike
        later = sample_augmentation(config, replace(batch, step=4), 0).mix
        assert later is not None
        assert not np.array_equal(one.weight, later.weight)


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensors alive that were made since it was entered."""

    def __init__(self) -> None:
        """Start from nothing."""
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, then look at what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.add(tensor)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self.seen or size == 0:
            return
        self.seen.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)

        def freed() -> None:
            self.seen.discard(address)
            self.now -= size

        weakref.finalize(storage, freed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=nightly)])
@pytest.mark.parametrize(
    "config",
    [
        ALL,
        AugmentConfig(auto_augment="3a", mix_mode="elem"),
        AugmentConfig(auto_augment="original"),
    ],
)
def test_memory(config: AugmentConfig, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a GPU's blocks: at most 3 times the batch's bytes beyond the batch and the result."""
    size = compose.block_size
    monkeypatch.setattr(compose, "block_size", lambda num, image, _: size(num, image, "cuda"))
    monkeypatch.setattr(operate, "LEAST_WORK_BYTES", 0)
    batch = make_batch(96, 64)
    for step in range(4):  # Mixup and CutMix
        drawn = sample_augmentation(config, replace(batch, step=step), 0)
        gc.collect()
        with PeakBytes() as memory:
            images, targets = apply_augmentation(batch, drawn, dtype, "torch")
        beyond = memory.peak - images.numel() * images.element_size()
        assert 0.9 < beyond / batch.images_nhwc_u8.numel() < 3
        del images, targets


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("config", [ALL, AugmentConfig(auto_augment="3a", mix_mode="elem")])
def test_on_a_device(config: AugmentConfig, name: str) -> None:
    """A GPU gives the CPU's operations in every byte and its images nearly, and never waits."""
    device = torch.device(name)
    host = make_batch(64, 96)
    batch = host.to(device)
    drawn = sample_augmentation(config, host, 0)
    apply_augmentation(batch, drawn)  # what is made once may wait
    with no_waiting(device):
        drawn = sample_augmentation(config, batch, 0)
        found, targets = apply_augmentation(batch, drawn, implementation="torch")
    expected, expected_targets = apply_augmentation(host, drawn)
    assert torch.allclose(found.cpu(), expected, atol=1e-4)
    assert torch.equal(targets.weight.cpu(), expected_targets.weight)
    for operations in drawn.operations:
        on_device = apply_operations(batch.images_nhwc_u8, operations, "torch")
        assert torch.equal(on_device.cpu(), apply_operations(host.images_nhwc_u8, operations))


@pytest.mark.gpu
def test_memory_on_a_gpu() -> None:
    """At batch 1,024: at most 3 times the batch's bytes beyond the batch and the result."""
    batch = make_batch(1024, 224).to(torch.device("cuda"))
    drawn = sample_augmentation(AugmentConfig(), batch, 0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    images, _ = apply_augmentation(batch, drawn, torch.bfloat16)
    torch.cuda.synchronize()
    beyond = torch.cuda.max_memory_allocated() - before - images.numel() * 2
    assert beyond < 3 * batch.images_nhwc_u8.numel()


def test_arrays_travel_in_one_block() -> None:
    """Arrays of all kinds come out of a block as they went in, empty ones too."""
    generator = np.random.default_rng(0)
    arrays: list[NDArray[Any]] = [
        generator.integers(0, 256, 7, dtype=np.uint8),
        generator.random((3, 6)),
        np.zeros(0, dtype=np.int64),
        generator.integers(-9, 9, (2, 5)),
        generator.random(3) < 0.5,
        generator.random((1, 1, 3)).astype(np.float32),
        generator.integers(0, 9, (4, 0), dtype=np.int32),
        np.full(5, -1, dtype=np.int32),
    ]
    block = torch.full((block_bytes(arrays),), 255, dtype=torch.uint8)
    fill_block(block, arrays)
    for tensor, array in zip(views_of_block(block, arrays), arrays, strict=True):
        assert np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype
    assert block_bytes([]) == 0
    for tensor, array in zip(upload(arrays, torch.device("cpu")), arrays, strict=True):
        assert np.array_equal(tensor.numpy(), array)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_an_empty_batch_gives_an_empty_result(mode: Any) -> None:
    """A rank may have no samples."""
    batch = make_batch(0)
    config = replace(ALL, mix_mode=mode)
    images, targets = apply_augmentation(batch, sample_augmentation(config, batch, 0))
    assert images.shape == (0, 3, 32, 32)
    assert targets.weight.shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    """Images of another kind, decisions for others and whole-number dtypes get one clear error."""
    batch = make_batch(4)
    config = AugmentConfig(auto_augment="none")
    drawn = sample_augmentation(config, batch, 0)
    with pytest.raises(
        ValueError, match=r"images must be \(B, H, W, 3\) uint8. Found: .* torch.float32"
    ):
        apply_augmentation(replace(batch, images_nhwc_u8=batch.images_nhwc_u8.float()), drawn)
    with pytest.raises(ValueError, match=r"Found: \(4, 3, 32, 32\) torch.uint8"):
        chw = batch.images_nhwc_u8.permute(0, 3, 1, 2)
        apply_augmentation(replace(batch, images_nhwc_u8=chw), drawn)
    with pytest.raises(ValueError, match=r"decisions must be for 3 images .* Found: 4 and"):
        apply_augmentation(part(batch, slice(0, 3)), drawn)
    with pytest.raises(ValueError, match=r"the dtype floating. Found: 4 and torch.uint8"):
        apply_augmentation(batch, drawn, torch.uint8)
    wrong: Any = "triton"
    with pytest.raises(ValueError, match=r"one of auto, torch, numba. Found: 'triton'"):
        apply_augmentation(batch, sample_augmentation(ALL, batch, 0), implementation=wrong)
