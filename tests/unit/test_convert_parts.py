"""Parts made apart and merged are one conversion, in every byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from converted import run_and_die, same_bytes
from sample_photographs import need_photographs

from fastdeit import UserError
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.sample_data.command import sample_data

pytestmark = pytest.mark.slow  # as a whole

NAMES = ["out.beton", "out"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_and_merge(
    name: str, whole: dict[str, Path], sample_source: Path, tmp_path: Path
) -> None:
    """Three parts, one of them killed and resumed, are joined to the bytes of one conversion."""
    source, out = sample_source / "val", tmp_path / name
    for part in ("1/3", "3/3"):
        assert convert(source, out, part=part) == 0
    with pytest.raises(UserError, match=r"all 3 parts must be complete\. Found: 2/3 missing"):
        merge(out)
    assert run_and_die(60, source, out, part="2/3")
    assert convert(source, out, part="2/3") == 0
    assert convert(source, out, part="2/3") == 0  # again: it is already there
    for _ in range(2):  # again: it is already there, and so nothing is missing
        assert merge(out, remove_parts=True) == 0
    assert same_bytes(out, whole[name])
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.json"}


def test_bad_images_in_parts(tmp_path: Path) -> None:
    """What is left out and what is irregular is the same with parts and without."""
    need_photographs()
    assert sample_data(tmp_path / "source", 60, 20, broken=True) == 0
    source = tmp_path / "source" / "train"
    assert convert(source, tmp_path / "one" / "out.beton", bad="skip") == 0
    for part in range(1, 5):
        assert convert(source, tmp_path / "out.beton", bad="skip", part=f"{part}/4") == 0
    assert merge(tmp_path / "out.beton") == 0
    assert same_bytes(tmp_path / "out.beton", tmp_path / "one" / "out.beton")
    assert len(open_dataset(tmp_path / "out.beton").made_by["left_out"]) == 2


def test_parts_that_do_not_belong_together(sample_source: Path, tmp_path: Path) -> None:
    """Parts made with other options, of another number, or damaged are refused by name."""
    source, out = sample_source / "val", tmp_path / "out.beton"
    with pytest.raises(UserError, match=r"must hold the parts of one conversion\. Found: none"):
        merge(out)
    convert(source, out, part="1/2")
    convert(source, out, part="2/2", max_side=200)
    with pytest.raises(UserError, match="all parts must come from the same source with the same"):
        merge(out)
    with pytest.raises(UserError, match="a part must not be replaced by one of another kind"):
        convert(source, out, part="2/2")
    assert convert(source, out, part="2/2", overwrite=True) == 0
    data = tmp_path / "out.beton.parts" / "2-of-2" / "data"
    with data.open("r+b") as file:
        file.seek(data.stat().st_size // 2)
        file.write(b"damaged")
    with pytest.raises(UserError, match=r"must be as it was made\. Found: another checksum at n"):
        merge(out)
    (tmp_path / "out.beton.parts" / "3-of-5").mkdir()
    with pytest.raises(UserError, match=r"Found: parts of 2 and of 5\."):
        merge(out)
    with pytest.raises(UserError, match=r"part must be i/n with i from 1 to n\. Found: 3/2"):
        convert(source, out, part="3/2")
