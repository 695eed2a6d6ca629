"""Damaged bytes of formats of others end in one error, whatever reads them."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.imagefolder import list_imagefolder
from fastdeit.pipelines.datasets.real_labels import read_real_labels
from fastdeit.pipelines.datasets.sidecar import read_sidecar
from fastdeit.tools.data.convert.command import convert
from fastdeit.tools.data.sources.inaturalist import list_inaturalist
from fastdeit.tools.data.sources.mat_file import read_struct_array
from fastdeit.tools.data.sources.parquet_files import list_parquet
from fastdeit.tools.data.sources.vision_open import check_mats

pytestmark = pytest.mark.slow  # as a whole

FIELDS = ("ILSVRC2012_ID", "WNID", "words", "num_children")
ROWS = [(1, "n00000001", "tench, Tinca tinca", 0), (300, "n00000002", "w\u00f6rd", 2.5)]
DEEP = b"[" * 200_000


def mat_of(do_compression: bool = False) -> bytes:
    """A table of synsets as meta.mat has it, between other arrays, with a field more."""
    savemat = pytest.importorskip("scipy.io", reason="scipy is not installed").savemat
    synsets = np.zeros((2, 1), [(name, object) for name in (*FIELDS, "children")])
    for number, row in enumerate(ROWS):
        synsets[number, 0] = (*row, np.arange(number))
    file = io.BytesIO()
    content = {"first": np.zeros(3), "synsets": synsets, "last": "text"}
    savemat(file, content, do_compression=do_compression)
    return file.getvalue()


@pytest.mark.parametrize("is_packed", [False, True])
def test_mat_files_are_read_as_scipy_writes_them(is_packed: bool) -> None:
    """Texts and numbers, packed or not."""
    found = read_struct_array(mat_of(is_packed), "synsets", FIELDS)
    assert [tuple(row[name] for name in FIELDS) for row in found] == ROWS


@pytest.mark.parametrize(
    ("name", "fields", "found"),
    [
        ("others", FIELDS, "no array `others`"),
        ("last", FIELDS, "`last` is no struct array"),
        ("synsets", ("WNID", "gloss"), "no field gloss"),
        ("synsets", ("children",), "values of kind"),
    ],
)
def test_mat_files_of_something_else(name: str, fields: tuple[str, ...], found: str) -> None:
    """What is not there is named."""
    with pytest.raises(ValueError, match=found):
        read_struct_array(mat_of(), name, fields)


@pytest.mark.parametrize("is_packed", [False, True])
def test_damaged_mat_files(is_packed: bool) -> None:
    """Whatever bytes change, or are cut off, it is read or it is a ValueError."""
    whole, draw = mat_of(is_packed), random.Random(0)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            read_struct_array(
                bytes(damaged[: draw.choice((None, len(whole) // 2))]), "synsets", FIELDS
            )
        except ValueError:
            refused += 1
    assert 500 < refused < 2000


def test_a_mat_that_ends_the_process_of_scipy() -> None:
    """A type that does not exist, at which scipy's reader runs into memory of others."""
    whole = mat_of()
    place = whole.rindex(np.float64(2.5).tobytes()) - 7
    with pytest.raises(ValueError, match="stored as 56329"):
        read_struct_array(whole[:place] + b"\xdc" + whole[place + 1 :], "synsets", FIELDS)


def test_a_mat_that_ends_the_process_that_tries_it(tmp_path: Path) -> None:
    """What torchvision lets scipy read is tried by another process first."""
    scipy_io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    file = tmp_path / "flowers-102" / "setid.mat"
    file.parent.mkdir()
    ids = {"trnid": [[5, 1, 3]], "valid": [[6, 2]], "tstid": [[4, 6]]}
    scipy_io.savemat(file, ids)
    check_mats("Flowers102", tmp_path, None)
    damaged = bytearray(file.read_bytes())
    damaged[184] ^= 0xDC  # of the type of the first array's numbers
    file.write_bytes(damaged)
    found = r"Found: .*setid\.mat, at which scipy ended by SIG[A-Z]+\. Unpack"
    with pytest.raises(UserError, match=found):
        check_mats("Flowers102", tmp_path, None)


def sidecar_of(path: Path) -> None:
    """Read an index whose head is nested too deep."""
    file = path / "index"
    file.write_bytes(len(DEEP).to_bytes(8, "little") + DEEP)
    read_sidecar(file)


def inaturalist_of(path: Path) -> None:
    """List an iNaturalist whose JSON is nested too deep."""
    (path / "train2018.json").write_bytes(DEEP)
    list_inaturalist(path)


def test_names_that_are_half_a_sign(tmp_path: Path) -> None:
    """An escape of JSON that is no text, and could not be written, is a damaged file."""
    (tmp_path / "train2018.json").write_bytes(rb'{"images": [{"file_name": "\uD800.jpg"}]}')
    with pytest.raises(UserError, match=r"must be JSON\. Found: .*surrogates not allowed in"):
        list_inaturalist(tmp_path)


def real_labels_of(path: Path) -> None:
    """Read labels of ImageNet-ReaL that are nested too deep."""
    (path / "real.json").write_bytes(DEEP)
    read_real_labels(path / "real.json", cast(Any, None))  # is not come to


@pytest.mark.parametrize("read", [sidecar_of, inaturalist_of, real_labels_of])
def test_json_that_is_nested_too_deep(read: Callable[[Path], None], tmp_path: Path) -> None:
    """Python stops at it with an error that is none of damaged data."""
    with pytest.raises((UserError, ValueError), match="it is nested too deep"):
        read(tmp_path)


@pytest.mark.parametrize("text", [DEEP, b'{"features": "\\ud800"}'])
def test_json_in_parquet_that_is_damaged(text: bytes, tmp_path: Path) -> None:
    """The names of classes are not lost in silence, and half a sign is none."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pa.table({"image": [b"x"], "label": [1]})
    table = table.replace_schema_metadata({"huggingface": text})
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"must be JSON\. Found: .* in .*x\.parquet"):
        list_parquet(tmp_path)


@pytest.mark.parametrize("has_checksums", [True, False])
def test_a_bad_page_of_parquet(has_checksums: bool, tmp_path: Path) -> None:
    """It is one error that names the file, not bad images: what follows it cannot be trusted."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pa.table(
        {"image": [b"\xff\xd8" + bytes([n]) * 400 for n in range(12)], "label": [0] * 12}
    )
    options = {"write_page_checksum": has_checksums, "compression": "NONE", "use_dictionary": False}
    parquet.write_table(table, tmp_path / "x.parquet", **options)
    data = bytearray((tmp_path / "x.parquet").read_bytes())
    place = data.index(b"\xff\xd8\x05") + (100 if has_checksums else -3)  # a pixel, or a length
    data[place] ^= 0x40
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"whole Parquet files\. Found: .*x\.parquet \("):
        convert(tmp_path / "x.parquet", tmp_path / "out", bad="skip", workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


@pytest.mark.parametrize("where", ["column", "path"])
def test_parquet_with_names_that_are_no_text(where: str, tmp_path: Path) -> None:
    """Names in other encodings are one error that names the file."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    file = tmp_path / "x.parquet"
    rows = {"image": [{"bytes": b"x", "path": "QQQQ"}], "label": [0], "WWWW": ["y"]}
    parquet.write_table(pa.table(rows), file)
    sought = b"QQQQ" if where == "path" else b"WWWW"
    file.write_bytes(file.read_bytes().replace(sought, b"\xff\xfe\xfd\xfc"))
    with pytest.raises(UserError, match=r"Found: .*x\.parquet"):
        list_parquet(file)


@pytest.mark.parametrize("path", [b"\xff\xfe.jpg", 7])
def test_parquet_with_paths_that_are_no_text(path: object, tmp_path: Path) -> None:
    """They name nothing: the row does."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    table = pa.table({"image": [{"bytes": b"x", "path": path}], "label": [0]})
    parquet.write_table(table, tmp_path / "x.parquet")
    assert list(list_parquet(tmp_path).names) == ["x.parquet/row000000000"]


def test_parquet_with_a_label_that_is_none(tmp_path: Path) -> None:
    """A number that counts no classes is named, and no memory taken for so many."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    parquet.write_table(pa.table({"image": [b"x"], "label": [1 << 40]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match=r"below 1048576\. Found: 1099511627776 in .*x\.parquet"):
        list_parquet(tmp_path)


def test_words_in_another_encoding(tmp_path: Path) -> None:
    """A table of words that is no UTF-8 is named, not read in part."""
    (tmp_path / "set" / "n01440764").mkdir(parents=True)
    (tmp_path / "set" / "n01440764" / "x.jpg").write_bytes(b"")
    (tmp_path / "LOC_synset_mapping.txt").write_bytes("n01440764 t\xe4nch".encode("latin-1"))
    with pytest.raises(UserError, match=r"must be UTF-8\. Found: .* in .*LOC_synset_mapping\.txt"):
        list_imagefolder(tmp_path / "set")


def run_program(*words: str, limit: str = "true", **environment: str) -> tuple[int, str]:
    """The exit code and all output of the program under a limit of the shell's."""
    command = f'{limit}; exec "$@"'
    found = subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-m", "fastdeit.tools.cli", *words],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )
    return found.returncode, found.stdout + found.stderr


def test_help_where_only_ascii_can_be_printed() -> None:
    """Signs that the terminal lacks are told by their numbers."""
    code, text = run_program("train", "--help", PYTHONIOENCODING="ascii")
    assert code == 0
    assert r"\u2022 demo" in text


def test_too_little_memory(tmp_path: Path) -> None:
    """A library that finds no room is named in one line."""
    data = ("--train", str(tmp_path), "--val", str(tmp_path), "--out", str(tmp_path / "out"))
    code, text = run_program("train", "demo-teacher", *data, limit="ulimit -v 400000")
    assert code == 2
    assert "the program must have enough memory (ulimit -v). Found: lib" in text.splitlines()[-1]
    assert "Traceback" not in text


def test_too_few_files_may_be_open(tmp_path: Path) -> None:
    """A machine that lets a process open few files is told so, in one line and without workers."""
    for number in range(2):
        (tmp_path / "set" / str(number)).mkdir(parents=True)
        (tmp_path / "set" / str(number) / "x.jpg").write_bytes(b"")
    words = ("convert", str(tmp_path / "set"), str(tmp_path / "out"), "--workers", "2")
    code, text = run_program(*words, limit="ulimit -n 12")
    assert code == 2
    assert "workers must be able to open files. Found: " in text.splitlines()[-1]
    assert "Traceback" not in text
