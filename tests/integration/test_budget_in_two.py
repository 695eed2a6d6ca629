"""What `fastdeit budget` predicts of two devices, beside two processes that do it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys

import pytest
import step_in_two
from nightly import nightly

from fastdeit.machine.threads import num_usable_cores
from fastdeit.tools.train.budget.scaling import Machine, OneGPU, Run, predict

BATCH, STEPS, AVERAGES = step_in_two.BATCH, step_in_two.STEPS, step_in_two.AVERAGES


@nightly  # the figures of unit/test_scaling.py are the small form
@pytest.mark.slow
@pytest.mark.skipif(num_usable_cores() < 2, reason="needs two cores")
def test_two_processes_take_as_long_as_predicted() -> None:
    """From a process beside another one, and the averaging by itself; on a CPU nothing is hidden.

    That the other process slows a machine of few cores down is no part of the model, so the process
    that it starts from has a neighbour too. Half and twice: the machine is shared.
    """
    line = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", step_in_two.__file__]
    done = subprocess.run(
        [sys.executable, "-m", *line],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    facts = json.loads(done.stdout.splitlines()[-1])
    ratios = []
    for seconds in facts["rounds"]:
        gpu = OneGPU(rates=((BATCH, BATCH * STEPS / seconds["apart"]),), what="", backward_frac=0.0)
        # Two processes send as many bytes as there are: 2 (N - 1) / N of them.
        sent_gb_s = facts["gradient_bytes"] * AVERAGES / seconds["average"] / 1e9
        here = Machine(
            name="here",
            gpus_per_node=2,
            link_gb_s=sent_gb_s,
            network_gb_s=sent_gb_s,
            latency_us=0.0,
            cores_per_node=2,
            memory_gib=1.0,
            disk_gb_s=1.0,
        )
        run = Run(
            step_images=2 * BATCH,
            steps_per_epoch=1,
            epochs=1,
            gradient_bytes=facts["gradient_bytes"],
            backward_frac=0.0,
        )
        predicted_s = predict(gpu, run, here, 2).step_s
        assert predicted_s == pytest.approx(
            seconds["apart"] / STEPS + seconds["average"] / AVERAGES
        )
        ratios.append(seconds["together"] / STEPS / predicted_s)
    assert 0.5 < statistics.median(ratios) < 2, f"measured over predicted: {ratios}"
