"""The model of many GPUs: figures worked out by hand, and what must hold of any."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from fastdeit.tools.train.budget.scaling import (
    MACHINES,
    Machine,
    OneGPU,
    Prediction,
    Run,
    bucket_bytes,
    unhidden_s,
)
from fastdeit.tools.train.budget.scaling import predict as predict_run

MIB = 2**20
NODE = Machine(
    name="a test",
    gpus_per_node=4,
    link_gb_s=100,
    network_gb_s=10,
    latency_us=0,
    cores_per_node=8,
    memory_gib=100,
    disk_gb_s=1,
)
GPU = OneGPU(rates=((100, 1000.0),), what="a test", backward_frac=0.5)
"""A step of 100 images takes 100 ms, of which 50 are its backward pass."""
RUN = Run(
    step_images=100,
    steps_per_epoch=10,
    epochs=6,
    gradient_bytes=26 * MIB,
    backward_frac=0.5,
    set_images=1000,
)


def predict(gpu: OneGPU, machine: Machine, run: Run, num_gpus: int, step_images: int) -> Prediction:
    """Of a run over 1,000 images in steps of so many."""
    steps = 1000 // step_images
    return predict_run(
        gpu, replace(run, step_images=step_images, steps_per_epoch=steps), machine, num_gpus
    )


def test_one_gpu_is_as_fast_as_measured() -> None:
    """Nothing is averaged; 60 steps of 0.1 s, and evaluation at three times the rate."""
    found = predict(GPU, NODE, RUN, 1, 100)
    assert (found.img_per_s, found.efficiency_frac, found.limit) == (1000, 1, "compute")
    assert found.all_reduce_s == found.exposed_s == found.wait_s == 0
    assert found.hours == pytest.approx(6 / 3600)
    evaluated = replace(RUN, eval_images=3000)
    assert predict(GPU, NODE, evaluated, 1, 100).hours == pytest.approx(7 / 3600)


def test_infinite_links_are_linear() -> None:
    """However many GPUs and nodes."""
    fast = replace(NODE, link_gb_s=1e30, network_gb_s=1e30)
    for num_gpus in (2, 4, 16, 64):
        found = predict(GPU, fast, RUN, num_gpus, 100 * num_gpus)
        assert found.img_per_s == pytest.approx(1000 * num_gpus)
        assert found.efficiency_frac == pytest.approx(1)


def test_only_what_comes_last_is_not_hidden() -> None:
    """Two buckets on 4 GPUs; the second, of 25 MiB, is sent when the backward pass is over."""
    found = predict(GPU, NODE, RUN, 4, 400)
    sent = 1.5 / 100e9  # 2 * 3 / 4 of a byte at 100 GB/s
    assert found.all_reduce_s == pytest.approx(26 * MIB * sent)
    assert found.exposed_s == pytest.approx(25 * MIB * sent)
    assert found.step_s == pytest.approx(0.1 + 25 * MIB * sent)
    assert found.img_per_s == pytest.approx(400 / found.step_s)
    assert found.efficiency_frac == pytest.approx(0.1 / found.step_s)
    assert found.limit == "compute"
    # Without a backward pass nothing is hidden.
    alone = predict(replace(GPU, backward_frac=0.0), NODE, RUN, 4, 400)
    assert alone.exposed_s == alone.all_reduce_s == found.all_reduce_s
    # Where its time is not known it is that of its operations.
    counted = replace(RUN, backward_frac=0.25)
    assert predict(GPU, NODE, counted, 4, 400) == found
    unknown = predict(replace(GPU, backward_frac=None), NODE, counted, 4, 400)
    assert unknown == predict(replace(GPU, backward_frac=0.25), NODE, RUN, 4, 400)


def test_between_nodes_the_slowest_link_counts() -> None:
    """8 GPUs on 2 nodes send 7/4 of the bytes at 10 GB/s; 3 hops in a node and 1 between, twice."""
    slow = replace(NODE, latency_us=100)
    found = predict(GPU, slow, RUN, 8, 800)
    assert found.all_reduce_s == pytest.approx(26 * MIB * 1.75 / 10e9 + 2 * 2 * 4 * 1e-4)
    inside = predict(GPU, slow, RUN, 2, 200)
    assert inside.all_reduce_s == pytest.approx(26 * MIB * 1 / 100e9 + 2 * 2 * 1 * 1e-4)


def test_communication_is_the_limit_when_it_takes_longer_than_what_hides_it() -> None:
    """At 0.1 GB/s: 409 ms of averaging for 50 ms of backward pass."""
    found = predict(GPU, replace(NODE, link_gb_s=0.1), RUN, 4, 400)
    assert found.limit == "communication"
    # The first bucket is through before the second is complete, at the end of the backward pass.
    assert found.step_s == pytest.approx(0.1 + 25 * MIB * 1.5 / 0.1e9)
    assert found.all_reduce_s == pytest.approx(0.4089, rel=1e-3)


def test_the_loader_is_the_limit() -> None:
    """Each GPU has 2 of 8 cores, which load 200 samples a second each."""
    found = predict(replace(GPU, loader_img_per_s=200), NODE, RUN, 4, 400)
    assert (found.limit, found.img_per_s) == ("loader", pytest.approx(1600))
    assert found.wait_s == pytest.approx(0.25 - 0.1 - found.exposed_s)
    ample = predict(replace(GPU, loader_img_per_s=2000), NODE, RUN, 4, 400)
    assert (ample.limit, ample.wait_s) == ("compute", 0)


def test_the_disk_is_read_until_the_memory_holds_the_set() -> None:
    """1 GB/s, 2 MB an image, 2 copies: 1,000 img/s from the disk of each node."""
    big = replace(RUN, image_bytes=2e6, copies=2)
    found = predict(GPU, NODE, big, 4, 400)
    assert (found.limit, found.first_limit) == ("compute", "disk")
    assert found.first_img_per_s == pytest.approx(1000)
    # An epoch reads half of the images: 2 epochs of 2 steps from the disk, 4 from memory.
    assert found.hours * 3600 == pytest.approx(2 * 2 * 0.4 + 4 * 2 * found.step_s)
    small = predict(GPU, replace(NODE, memory_gib=3), big, 4, 400)
    assert (small.limit, small.img_per_s) == ("disk", pytest.approx(1000))
    assert small.hours * 3600 == pytest.approx(6 * 2 * 0.4)
    two_nodes = predict(GPU, NODE, big, 8, 800)
    assert two_nodes.first_img_per_s == pytest.approx(2000)


def test_a_step_is_linear_between_measured_batches() -> None:
    """And beyond them as many images a second as at the nearest."""
    two = replace(GPU, rates=((10, 100.0), (30, 150.0)))  # 0.1 s and 0.2 s
    assert two.step_s(20) == pytest.approx(0.15)
    assert two.step_s(5) == pytest.approx(5 / 100)
    assert two.step_s(60) == pytest.approx(60 / 150)
    assert [two.is_between(size) for size in (9, 10, 20, 30, 31)] == [False, *[True] * 3, False]
    # 40 images on 2 GPUs, against one at 30.
    fast = replace(NODE, link_gb_s=1e30)
    found = predict(two, fast, RUN, 2, 40)
    assert found.img_per_s == pytest.approx(40 / 0.15)
    assert found.efficiency_frac == pytest.approx(40 / 0.15 / 300)


def test_an_uneven_share_is_rounded_up() -> None:
    """The GPU with the most images is waited for."""
    assert predict(GPU, NODE, RUN, 3, 100).batch_size == 34


def test_buckets() -> None:
    """The first has 1 MiB, the others 25 MiB, the last what is left."""
    assert bucket_bytes(60 * MIB) == [MIB, 25 * MIB, 25 * MIB, 9 * MIB]
    assert bucket_bytes(5) == [5]
    # The second waits for the first: 0.2 s of backward pass make half of the bytes each.
    assert unhidden_s([(1, 0.5), (1, 0.5)], 0.2) == pytest.approx(0.1 + 1.0 - 0.2)


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_faster_parts_never_slow_it_down(machine: Machine) -> None:
    """More GPUs at a fixed share, faster links, loaders, disks: never fewer images a second."""
    base = OneGPU(
        rates=((64, 3000.0), (256, 3800.0)),
        what="a test",
        backward_frac=0.6,
        loader_img_per_s=250,
    )
    run = replace(RUN, gradient_bytes=346_000_000, copies=3, image_bytes=51_000)
    rates = [predict(base, machine, run, n, 64 * n).img_per_s for n in range(1, 65)]
    assert rates == sorted(rates)
    for num_gpus in (2, 16, 64):
        for name in ("link_gb_s", "network_gb_s", "disk_gb_s", "cores_per_node"):
            faster = replace(machine, **{name: 4 * getattr(machine, name)})
            old, new = (predict(base, one, run, num_gpus, 1000) for one in (machine, faster))
            assert new.img_per_s >= old.img_per_s
            assert new.hours <= old.hours


def test_it_needs_no_torch() -> None:
    """The model and the command's line are read before torch is imported."""
    modules = "fastdeit.tools.train.budget.scaling, fastdeit.tools.train.budget.command"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
