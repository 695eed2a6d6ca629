"""`fastdeit bench` measures every loader and the step, beside baselines and bounds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastdeit.tools.cli import main


@pytest.mark.slow
def test_bench_writes_rows(
    containers: dict[str, Path],
    sample_source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Rows have their baseline, ratio and bound; nothing beats its bound; the JSON comes last."""
    out = tmp_path / "rows.jsonl"
    line = (
        f"bench all --data {containers['beton']} --source {sample_source / 'train'} --out {out} "
        "--rounds 1 --num-images 128 --batch-size 32 --image-size 64 --threads 1"
    )
    assert main(line.split()) == 0
    captured = capsys.readouterr()
    printed = json.loads(captured.out.splitlines()[-1])
    rows = [json.loads(text) for text in out.read_text().splitlines()]
    assert [row["name"] for row in rows] == [row["name"] for row in printed["rows"]]
    by_name = {row["name"]: row for row in rows}
    assert {"fastdeit pil", "fastdeit step", "the published DeiT loop"} <= set(by_name)
    assert any(name.startswith("fastdeit step from files (") for name in by_name)
    ours = by_name["fastdeit pil"]
    assert ours["baseline"] in ours["ratios"]
    assert ours["ratios"]["DeiT's own (timm transform, torch DataLoader)"] > 0
    for name in ("Rotate", "rand-m9-mstd0.5-inc1"):
        augmented = by_name[f"fastdeit: {name}"]
        assert list(augmented["ratios"]) == [f"timm on PIL: {name}"]
        assert augmented["ratio"] == augmented["ratios"][augmented["baseline"]]
    stage = by_name["fastdeit: the whole stage"]
    assert stage["bound_what"].startswith("reading uint8, writing float32: ")
    assert out.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert ours["environment"]["num_cores"] >= 1
    for row in rows:
        assert row["median"] > 0
        if row["frac_of_bound"] is not None:
            # One noisy round: the bound itself was measured in it.
            assert row["frac_of_bound"] < 1.5, row
