"""The paper's tables, as the package carries them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import timm
import torch

from fastdeit.paper import resolutions, rows_of_architecture, table5, table5_protocol
from fastdeit.paper.tables import TWINS, all_tables


def test_table_5_is_whole() -> None:
    """32 rows of 25 architectures (a model at its resolution), 18 of them convnets."""
    rows = table5()
    assert len(rows) == len({row.name for row in rows}) == 32
    assert len({row.architecture for row in rows}) == 25
    assert sum(row.family == "convnet" for row in rows) == 18
    assert "V100, fp32" in table5_protocol()
    for row in rows:
        assert 20 < row.throughput < 5000 and 69 < row.top1 < 86


def test_tables_agree_where_they_give_the_same() -> None:
    """Table 1 repeats Table 5's rates, rounded; Table 10 measured DeiT-B anew, within 0.5%."""
    rates = {row.name: row.throughput for row in table5()}
    for variant in all_tables()["table1_variants"]:
        assert variant["throughput"] == pytest.approx(rates[variant["model"]], abs=0.5)
    by_size = {row.image_size: row for row in resolutions()}
    assert list(by_size) == [160, 224, 320, 384]
    assert by_size[384].throughput == pytest.approx(rates["DeiT-B 384"], abs=0.05)
    assert by_size[224].throughput == pytest.approx(rates["DeiT-B"], rel=0.005)
    top1 = {row.name: row.top1 for row in table5()}
    assert (by_size[224].top1, by_size[384].top1) == (top1["DeiT-B"], top1["DeiT-B 384"])


def test_timm_knows_every_model() -> None:
    """Each name is one of timm's, and what it builds has as many parameters as the paper says."""
    tables = all_tables()
    teachers = [row["timm"] for row in tables["table2_teachers"] if "timm" in row]
    variants = [row["timm"] for row in tables["table1_variants"]]
    names = {row.timm for row in table5()}
    assert not [name for name in {*names, *teachers, *variants} if not timm.is_model(name)]
    for row in table5():
        if row.params_m <= 25:
            with torch.device("meta"):
                model = timm.create_model(row.timm)
            found = sum(each.numel() for each in model.parameters()) / 1e6
            assert found == pytest.approx(row.params_m, abs=0.8), row.name


@pytest.mark.parametrize(("name", "twin"), TWINS.items())
def test_twins_are_one_architecture(name: str, twin: str) -> None:
    """What is measured once is the same network."""
    with torch.device("meta"):
        models = [timm.create_model(each) for each in (name, twin)]
    one, other = (re.sub(r"\(model_name=.*\)", "", str(model)) for model in models)
    assert one == other
    assert [p.shape for p in models[0].parameters()] == [p.shape for p in models[1].parameters()]


def test_rows_of_an_architecture() -> None:
    """Rows that differ in their training share a measurement; a size the paper lacks has none."""
    names = [row.name for row in rows_of_architecture("deit_base_distilled_patch16_384", 384)]
    assert names == ["DeiT-B distilled 384", "DeiT-B distilled 384, 1000 epochs"]
    both = [row.name for row in rows_of_architecture("vit_base_patch16_384", 384)]
    assert both == ["ViT-B/16", "DeiT-B 384"]
    assert rows_of_architecture("deit_base_patch16_224", 160) == ()


def test_the_tables_are_light() -> None:
    """Reading them imports neither torch nor timm."""
    code = (
        "import sys; from fastdeit.paper import table5; table5(); "
        "print({'torch', 'timm', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
