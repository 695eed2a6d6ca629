"""Compiled models: of fixed shapes, of one attention, compiled again only with a word."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from augment_batches import NUM_CLASSES, make_batch
from nightly import nightly
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch._dynamo.eval_frame import _debug_get_cache_entry_list

from fastdeit import UserError
from fastdeit.augment import augment
from fastdeit.config import TrainConfig
from fastdeit.machine import torch_compile
from fastdeit.machine.attention import choose_attention
from fastdeit.machine.device import ATTENTION, Compute, choose_compute
from fastdeit.machine.torch_compile import (
    RecompileWatch,
    begin_compiling,
    load_compiled,
    num_graphs,
    write_compiled,
)
from fastdeit.models import make_model
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.training.loop import train_step
from fastdeit.training.session import Session, assemble

pytestmark = pytest.mark.slow  # as a whole

SIDE = 32


def config_of(**parts: Any) -> TrainConfig:
    """DeiT-Ti of two blocks, compiled."""
    config = fill_recipe("deit-ti", Path("x"))
    config = changed(
        config,
        data={"batch_size": 7, "image_size": SIDE},
        model={"depth": 2},
        run={"compile": "default", "device": "cpu", "precision": "bf16"},
    )
    return changed(config, **parts)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the images of each graph that is made; code is not made of it."""
    found: list[torch.Size] = []
    real = torch.compile

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        shapes = [
            node.meta["example_value"].shape
            for node in graph.graph.nodes
            if node.op == "placeholder" and hasattr(node.meta.get("example_value"), "shape")
        ]
        found.append(next(shape for shape in shapes if len(shape) == 4 and shape[1] == 3))
        return graph.forward

    def compiled(model: Any, mode: str | None = None, **options: Any) -> Any:
        assert mode == "default"
        return real(model, backend=backend, **options)

    monkeypatch.setattr(torch, "compile", compiled)
    return found


def session_of(config: TrainConfig) -> Session:
    """What computes."""
    compute = choose_compute("cpu", "bf16")
    return assemble(config, make_model(config.model, NUM_CLASSES, SIDE), None, compute)


def step(config: TrainConfig, session: Session, num: int, number: int = 0) -> None:
    """A step of so many images."""
    batch = replace(make_batch(num, SIDE, number), step=number)
    train_step(
        config,
        session,
        augment(batch, config.augment, 0, dtype=torch.bfloat16),
        config.optim.min_lr,
    )


def test_unequal_parts_are_two_static_graphs(graphs: list[torch.Size]) -> None:
    """7 images in 3 parts of 2, 2 and 3: no dynamic shape, and nothing new in later steps."""
    config = config_of(optim={"accumulate": 3})
    session = session_of(config)
    for number in range(3):
        step(config, session, 7, number)
    assert [tuple(shape) for shape in graphs] == [(2, 3, SIDE, SIDE), (3, 3, SIDE, SIDE)]
    assert all(type(size) is int for shape in graphs for size in shape)


def test_sessions_of_one_process(graphs: list[torch.Size]) -> None:
    """Models of ten widths, one after another: each is compiled, and what was before is forgotten.

    torch looks through all code of a function at each call, and goes back to eager at some number.
    """
    sessions = []
    for heads in range(1, 11):
        config = config_of(model={"embed_dim": 16 * heads, "num_heads": heads})
        sessions.append(session_of(config))
        for number in range(2):
            step(config, sessions[-1], 7, number)
        assert len(graphs) == heads
        assert len(_debug_get_cache_entry_list(VisionTransformer.forward.__code__)) == 1
    assert all(type(size) is int for shape in graphs for size in shape)


def test_a_late_compilation_is_said_once(graphs: list[torch.Size]) -> None:
    """With its cause; those before all shapes were seen are not."""
    config = config_of()
    session = session_of(config)
    watch, off = RecompileWatch(True), RecompileWatch(False)
    before = num_graphs()
    for num in (7, 6):
        step(config, session, num)
        assert watch.warning() is None
    assert num_graphs() == before + 2 == before + len(graphs)
    watch.settle()
    off.settle()
    step(config, session, 7)
    assert watch.warning() is None
    step(config, session, 5)
    said = watch.warning()
    assert said is not None
    assert said.startswith("a model was compiled again, which takes as long as the first time: ")
    assert "expected" in said and "actual 5" in said and "\n" not in said
    watch.settle()
    step(config, session, 4)
    assert watch.warning() is None and off.warning() is None


@pytest.mark.parametrize("name", ["flash", "math"])
def test_attention_is_the_one_that_was_chosen(name: Any) -> None:
    """In eager code too: the profiler sees its operator and not the other one."""
    config = config_of(run={"attention": name, "compile": "off"})
    session = session_of(config)
    assert session.compute.attention == name
    with torch.profiler.profile() as profile:
        step(config, session, 4)
    seen = {event.key for event in profile.key_averages()}
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert (flash in seen) == (name == "flash")
    assert ("aten::_scaled_dot_product_attention_math" in seen) == (name == "math")


def test_attention_that_cannot_be(tmp_path: Path) -> None:
    """What the device lacks, and a model without any: one line each."""
    compute = choose_compute("cpu")
    vit, resnet = (
        make_model(replace(config_of().model, model=name, depth=None), NUM_CLASSES, SIDE)
        for name in ("deit_tiny_patch16_224", "test_resnet")
    )
    assert choose_attention("auto", resnet, compute) is compute
    for name in ("cudnn", "efficient"):
        with pytest.raises(UserError, match=rf"one that cpu can do .* Found: {name}: No viable ba"):
            choose_attention(name, vit, compute)
    with pytest.raises(UserError, match=r"has no effect on a model without .* Found: flash\. Le"):
        choose_attention("flash", resnet, compute)
    assert set(ATTENTION) == {"flash", "cudnn", "efficient", "math"}


class Attention(nn.Module):
    """Nothing else, so that no C++ is compiled for it."""

    def forward(self, query: torch.Tensor) -> torch.Tensor:
        """(1, 2, 8, 16) to the same."""
        return F.scaled_dot_product_attention(query, query, query)


@nightly  # what travels in a file is what is in the cache
@pytest.mark.slow
def test_torchs_cache_does_not_mix_attentions(tmp_path: Path) -> None:
    """Torch keeps graphs on disk by what was traced, not by which attention was allowed then."""
    code = """
    import sys
    import torch
    from test_torch_compile import Attention, config_of
    from fastdeit.machine.device import Compute
    from fastdeit.machine.torch_compile import begin_compiling

    config = config_of()
    compute = Compute(torch.device("cpu"), None, "", attention=sys.argv[1])
    model = begin_compiling(config, compute)(Attention())
    query = torch.randn(1, 2, 8, 16)
    with compute.autocast():
        model(query)
        with torch.profiler.profile() as profile:
            model(query)
    print(sorted(event.key for event in profile.key_averages()))
    print({k: v for k, v in torch._dynamo.utils.counters["aot_autograd"].items() if "hit" in k})
    """
    seen = []
    for name in ("flash", "math", "flash"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), name],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
            env={**in_cache(tmp_path), "PYTHONPATH": f"{HELPERS}:{Path(__file__).parent}"},
        )
        operators, hits = done.stdout.splitlines()[-2:]
        seen.append(("flash_attention" in operators, hits))
    assert [is_flash for is_flash, _ in seen] == [True, False, True]
    assert [hits for _, hits in seen] == ["{}", "{}", "{'autograd_cache_hit': 1}"]


HELPERS = Path(__file__).parent.parent / "helpers"


def in_cache(folder: Path) -> dict[str, str]:
    """The environment of a process with a cache of compiled code of its own."""
    return {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}


def test_compiled_code_travels_in_a_file(tmp_path: Path) -> None:
    """A process with an empty cache finds the code of another one, and says if it is not for it."""
    code = """
    import sys
    from pathlib import Path
    import torch
    from test_torch_compile import Attention, config_of
    from fastdeit.machine.device import Compute
    from fastdeit.recipes.entry import changed
    from fastdeit.machine.torch_compile import (
        begin_compiling, code_fits, compiled_artifacts, write_compiled,
    )

    file, action = Path(sys.argv[1]), sys.argv[2]
    config = config_of(run={"compiled": file} if action == "load" else {})
    compute = Compute(torch.device("cpu"), None, "")
    model = begin_compiling(config, compute)(Attention())
    model(torch.randn(1, 2, 8, 16))
    if action == "save":
        for is_added in (False, True):  # as two processes do
            write_compiled(file, compiled_artifacts(), code_fits(compute.device), is_added)
    print({k: v for k, v in torch._dynamo.utils.counters["aot_autograd"].items() if "cache" in k})
    """
    file = tmp_path / "compiled.zip"
    said = []
    for action in ("save", "load"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(file), action],
            capture_output=True,
            text=True,
            check=True,
            env={
                **in_cache(tmp_path / action),
                "PYTHONPATH": f"{HELPERS}:{Path(__file__).parent}",
            },
        )
        said.append(done.stdout.splitlines()[-1])
    assert "'autograd_cache_miss': 1" in said[0]
    assert said[1] == "{'autograd_cache_hit': 1}"


def test_files_that_are_no_compiled_code(tmp_path: Path) -> None:
    """Not there, no archive, of another torch or GPU: one line with the way out."""
    cpu = torch.device("cpu")
    file = tmp_path / "compiled.zip"
    with pytest.raises(UserError, match=r"Found: .*No such file.* Leave out --compiled, and"):
        load_compiled(file, cpu)
    file.write_bytes(b"PK but no archive")
    with pytest.raises(UserError, match=r"must be a file that --save-compiled wrote. Found: "):
        load_compiled(file, cpu)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(UserError, match=r"no item named 'about.json' in the archive"):
        load_compiled(file, cpu)
    fits = torch_compile.code_fits(cpu)
    write_compiled(file, b"", {**fits, "device": "NVIDIA H200", "torch": "2.0"})
    with pytest.raises(UserError, match=r"Found: torch 2.0, here .*device NVIDIA H200, here cpu"):
        load_compiled(file, cpu)


def test_compiled_code_where_nothing_is_compiled(tmp_path: Path) -> None:
    """It would have no effect, which is said."""
    config = config_of(run={"compile": "auto", "compiled": tmp_path / "x.zip"})
    with pytest.raises(UserError, match=r"compiled has no effect where nothing is compiled, as b"):
        begin_compiling(config, Compute(torch.device("cpu"), None, ""))
    compiled = begin_compiling(
        config_of(run={"compile": "auto"}), Compute(torch.device("cpu"), None, "")
    )
    model = nn.Linear(2, 2)
    assert compiled(model) is model
