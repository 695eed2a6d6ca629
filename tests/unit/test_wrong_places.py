"""A dataset that is given in a way that is not read: one error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.files import find_images
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.convert.merge import merge
from fastdeit.tools.data.sources.detect import open_source


@pytest.mark.parametrize("url", ["s3://b/train", "gs://b/x.tar", "hf://datasets/x", "https://x/y"])
def test_urls_are_not_read(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is no missing file, and nothing is written to a folder that is called s3:."""
    monkeypatch.chdir(tmp_path)
    path = Path(url)
    (tmp_path / "a").mkdir()
    for use in (
        lambda: open_dataset(path),
        lambda: open_source(path),
        lambda: list_imagefolder(path),
        lambda: find_images([path]),
        lambda: convert(path, tmp_path / "out"),
        lambda: convert(tmp_path / "a", path),
        lambda: merge(path),
    ):
        with pytest.raises(UserError, match=f"URLs are neither read .* Found: {url}. Give a path"):
            use()
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name", ["ILSVRC2012_val_00000001.JPEG", "train-0.parquet", "x.tar.gz", "x.tgz"]
)
def test_what_only_convert_reads(name: str, tmp_path: Path) -> None:
    """Kaggle's val folder, Parquet and packed shards cannot be trained from: convert is named."""
    (tmp_path / name).write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    found = f"Found: {name} in {tmp_path}. `fastdeit convert {tmp_path} OUT` reads it"
    with pytest.raises(UserError, match=found):
        open_dataset(tmp_path)
    (tmp_path / "n01440764").mkdir()  # a folder of classes with a file beside them
    with pytest.raises(UserError, match="every class folder must hold an image"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("link", "target"),
    [("a/up", ".."), ("a/deep/up", "../../../set"), ("a/self.jpg", "self.jpg"), ("c", ".")],
)
def test_links_that_lead_back(link: str, target: str, tmp_path: Path) -> None:
    """A loop is one error that names it, and other links are followed."""
    source = tmp_path / "set"
    for folder in ("a/deep", "b"):
        (source / folder).mkdir(parents=True)
        (source / folder / "1.jpg").write_bytes(b"")
    (source / "a" / "to-b").symlink_to("../b")
    assert list(list_imagefolder(source).names) == ["a/deep/1.jpg", "a/to-b/1.jpg", "b/1.jpg"]
    (source / link).symlink_to(target)
    found = f"must not lead to a folder that it lies in, or to itself. Found: {source}/.*{target}. "
    with pytest.raises(UserError, match=found):
        list_imagefolder(source)


def test_links_that_lead_to_each_other(tmp_path: Path) -> None:
    """A loop over two folders is found too."""
    for folder, other in (("a", "b"), ("b", "a")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / other).symlink_to(f"../{other}")
    with pytest.raises(UserError, match=rf"Found: {tmp_path}/a/b/a, a link to \.\./a\. Remove it"):
        find_images([tmp_path / "a"])
