"""Tar archives are listed as Python's tarfile lists them, and dangerous or damaged ones refused."""

from __future__ import annotations

import gzip
import io
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastdeit import UserError
from fastdeit.pipelines.datasets.tars import tar_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = {
    "short": "n01440764/n01440764_10026.JPEG",
    "dotted": "./a/..b/c...jpg",
    "100": "a" * 100,
    "prefix": f"{'d' * 120}/{'f' * 90}",
    "long": f"{'e' * 200}/{'g' * 300}.jpg",
    "unicode": f"{'ü' * 70}/鳥.jpg",
}


def write_tar(
    file: Path, names: list[str], format: int = tarfile.USTAR_FORMAT, **fields: object
) -> Path:
    """Write an archive with a folder and files of different sizes."""
    with tarfile.open(file, "w", format=format) as archive:
        folder = tarfile.TarInfo("folder" if format == tarfile.USTAR_FORMAT else "folder" * 50)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = (0, 3, 512, 5000, 70000)[number % 5]
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(bytes([number]) * member.size))
    return file


def oracle(file: Path) -> list[tuple[str, int, int]]:
    """What Python's tarfile finds."""
    with tarfile.open(file, "r:") as archive:
        return [(one.name, one.offset_data, one.size) for one in archive if one.isreg()]


def resum(header: bytes) -> bytes:
    """A header with the checksum that belongs to it."""
    blank = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:]


@pytest.mark.parametrize("format", FORMATS)
def test_members_are_those_of_tarfile(tmp_path: Path, format: str) -> None:
    """Names, offsets and sizes are tarfile's, in every format and for every kind of name."""
    names = [name for kind, name in NAMES.items() if format != "ustar" or kind[0] not in "lu"]
    file = write_tar(tmp_path / "a.tar", names * 3, FORMATS[format])
    found = list(tar_members(file))
    assert found == oracle(file)
    assert [member.name for member in found] == names * 3


@pytest.mark.parametrize("fields", [{"mtime": 1.5}, {"uname": "ü" * 9}, {"uid": 1 << 40}])
def test_other_pax_records_change_nothing(tmp_path: Path, fields: dict[str, object]) -> None:
    """A pax header about something else is passed; webdataset's writer makes one a member."""
    file = write_tar(tmp_path / "a.tar", list(NAMES.values()), tarfile.PAX_FORMAT, **fields)
    assert list(tar_members(file)) == oracle(file)


def test_git_archive(tmp_path: Path) -> None:
    """A global pax header with a comment, as git writes it, is passed over."""
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w", pax_headers={"comment": "0" * 40}) as archive:
        archive.addfile(tarfile.TarInfo("a.jpg"))
    assert file.read_bytes()[156:157] == b"g"
    assert list(tar_members(file)) == oracle(file)


def test_v7(tmp_path: Path) -> None:
    """The oldest format: no magic, and a slash makes a directory."""
    blocks = []
    for name, data in (("d/", b""), ("d/a.jpg", b"x" * 700)):
        member = tarfile.TarInfo(name.rstrip("/"))
        member.size = len(data)
        header = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
        header[: len(name)] = name.encode()
        header[156:512] = bytes(356)
        blocks += [resum(bytes(header)), data + bytes(-len(data) % 512)]
    file = tmp_path / "a.tar"
    file.write_bytes(b"".join(blocks) + bytes(1024))
    assert list(tar_members(file)) == oracle(file) == [("d/a.jpg", 1024, 700)]


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_sizes_beyond_octal(tmp_path: Path, format: str) -> None:
    """A size above 8 GiB, in base 256 or in a pax record, is read."""
    file = tmp_path / "a.tar"
    with file.open("wb") as written:
        for name, size in (("huge", (9 << 30) + 1), ("small", 5)):
            member = tarfile.TarInfo(name)
            member.size = size
            written.write(member.tobuf(FORMATS[format]))
            written.seek(size + -size % 512, os.SEEK_CUR)  # a hole, no data
        written.write(bytes(1024))
    assert list(tar_members(file)) == oracle(file)
    assert oracle(file)[0][2] == (9 << 30) + 1


def test_signed_checksum(tmp_path: Path) -> None:
    """A checksum of signed bytes, as some old writers made it, is accepted."""
    file = write_tar(tmp_path / "a.tar", ["ü.jpg"])
    data = bytearray(file.read_bytes())
    blank = bytes(data[512:660]) + b" " * 8 + bytes(data[668:1024])
    signed = sum(byte - 256 * (byte > 127) for byte in blank)
    assert signed != sum(blank)
    data[660:668] = b"%06o\0 " % signed
    file.write_bytes(data)
    assert [member.name for member in tar_members(file)] == ["ü.jpg"]


def test_a_tar_in_a_tar(tmp_path: Path) -> None:
    """The members of an inner archive have offsets in the outer file."""
    inner = write_tar(tmp_path / "inner.tar", list(NAMES.values()), tarfile.GNU_FORMAT)
    with tarfile.open(tmp_path / "outer.tar", "w") as archive:
        archive.add(inner, "other.tar")
        archive.add(inner, "inner.tar")
    _, (_, start, size) = tar_members(tmp_path / "outer.tar")
    found = list(tar_members(tmp_path / "outer.tar", start, start + size))
    assert found == [(name, start + offset, size) for name, offset, size in oracle(inner)]


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing large files reads a page for each, and tiny ones many at once."""
    large, tiny = tmp_path / "large.tar", tmp_path / "tiny.tar"
    with tarfile.open(large, "w") as archive, tarfile.open(tiny, "w") as other:
        for number in range(50):
            member = tarfile.TarInfo(str(number))
            other.addfile(member)
            member.size = 100_000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    sizes: list[int] = []
    read = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(list(tar_members(large))) == 50
    assert sum(sizes[:-1]) <= 53 * 4096  # the last looks at what is behind the end
    sizes.clear()
    assert len(list(tar_members(tiny))) == 50
    assert len(sizes) < 10


def special(kind: bytes) -> Callable[[Path], None]:
    """A writer of an archive with an entry of some type."""

    def write(file: Path) -> None:
        with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
            member = tarfile.TarInfo("n01/x.JPEG")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)

    return write


def named(name: str) -> Callable[[Path], None]:
    """A writer of an archive with a file of some name."""
    return lambda file: (write_tar(file, [name], tarfile.PAX_FORMAT), None)[1]


def with_records(records: dict[str, str], is_global: bool = False) -> Callable[[Path], None]:
    """A writer of an archive with pax records."""

    def write(file: Path) -> None:
        options: Any = {"pax_headers": records} if is_global else {}
        with tarfile.open(file, "w", format=tarfile.PAX_FORMAT, **options) as archive:
            member = tarfile.TarInfo("x")
            member.pax_headers = {} if is_global else records
            archive.addfile(member)

    return write


def packed(data: bytes) -> Callable[[Path], None]:
    """A writer of a file that is no tar."""
    return lambda file: (file.write_bytes(data), None)[1]


def extended(kind: bytes, data: bytes, size: int | None = None) -> Callable[[Path], None]:
    """A writer of an archive with an extended header, before a file if that fits."""
    member = tarfile.TarInfo("extended")
    member.type, member.size = kind, len(data) if size is None else size
    text = member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return packed(text + (b"" if data == b"alone" else tarfile.TarInfo("x").tobuf()) + bytes(1024))


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (special(tarfile.SYMTYPE), "a symbolic link, n01/x.JPEG"),
        (special(tarfile.LNKTYPE), "a hard link, n01/x.JPEG"),
        (special(tarfile.CHRTYPE), "a device, n01/x.JPEG"),
        (special(tarfile.FIFOTYPE), "a pipe, n01/x.JPEG"),
        (special(tarfile.GNUTYPE_SPARSE), "a sparse file, n01/x.JPEG"),
        (special(b"M"), "an entry of type 'M', n01/x.JPEG"),
        (with_records({"GNU.sparse.major": "1"}), "a sparse file"),
        (with_records({"path": "y"}, is_global=True), "for all files at once"),
        (with_records({"size": "-512"}), "a size of -512 bytes"),
        (with_records({"size": "many"}), "an extended header that cannot be read"),
        (extended(b"x", b"15 path=abc.jp"), "an extended header that cannot be read at byte 512"),
        (extended(b"x", b"0 path=abc.jpg"), "an extended header that cannot be read at byte 512"),
        (
            extended(b"x", b"14 path=a.jpg\n11 comment\n"),
            "an extended header that cannot be read at byte 512",
        ),
        (extended(b"L", b"alone"), "an extended header without a file before byte 1024"),
        (extended(b"L", b"x", 2 << 30), "an extended header of 2147483648 bytes at byte 512"),
        (extended(b"L", b"x" * (2 << 20)), "an extended header of 2097152 bytes at byte 512"),
        (named("/etc/passwd"), "an absolute path, /etc/passwd"),
        (named("a/../../b"), "a path with .., a/../../b"),
        (named(".."), "a path with .."),
        (named(f"../{'x' * 300}"), "a path with .."),
        (named("a\nb"), r"not printable, 'a\nb'"),
        (named("\udcff"), "not UTF-8, '\\udcff'"),
        (packed(gzip.compress(bytes(1024))), "gzip data in {file}. Decompress it first: gzip -d"),
        (packed(b"\xfd7zXZ\0" + bytes(600)), "xz data in {file}"),
        (
            packed(b"\x28\xb5\x2f\xfd" + bytes(600)),
            "zstd data in {file}. Decompress it first: zstd",
        ),
        (packed(b"no tar at all" * 100), "no valid header at byte 0, in {file}"),
        (packed(b""), "it ends at byte 0 without an end mark, in {file}"),
    ],
)
def test_what_is_refused(tmp_path: Path, write: Callable[[Path], None], found: str) -> None:
    """Entries that are no plain files inside, and files that are no tar, are named and refused."""
    file = tmp_path / "a.tar"
    write(file)
    with pytest.raises(UserError, match=re.escape(found.format(file=file))) as error:
        list(tar_members(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_archive_is_refused(tmp_path: Path, format: str) -> None:
    """Wherever an archive is cut off before its end mark, it is refused, inner ones too."""
    name = "x" * (300 if format != "ustar" else 20)
    file = write_tar(tmp_path / "a.tar", [name] * 3, FORMATS[format])
    whole, (*_, last) = file.read_bytes(), oracle(file)
    end = last[1] + last[2] + -last[2] % 512
    for cut in (*range(0, end + 512, 256), end + 511):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="a tar must be whole"):
            list(tar_members(file))
        file.write_bytes(whole)
        with pytest.raises(UserError, match="a tar must be whole"):
            list(tar_members(file, 0, cut))
    file.write_bytes(whole[: end + 512])
    assert len(list(tar_members(file))) == 3
    with pytest.raises(UserError, match="it should end at byte"):
        list(tar_members(file, 0, end + 513))


def test_a_cut_file_is_not_given(tmp_path: Path) -> None:
    """A file of which bytes are missing is named, and not handed out before."""
    file = write_tar(tmp_path / "a.tar", ["a.jpg", "b.jpg"])
    file.write_bytes(file.read_bytes()[: oracle(file)[1][1] + 2])
    members = tar_members(file)
    assert next(members).name == "a.jpg"
    with pytest.raises(UserError, match=r"b\.jpg is cut off"):
        next(members)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """A changed byte anywhere in a header is noticed."""
    file = write_tar(tmp_path / "a.tar", ["a.jpg"])
    whole = file.read_bytes()
    for at in range(512, 1024):
        if at in (512 + 154, 512 + 155):  # what ends the checksum says nothing
            continue
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match="no valid header at byte 512"):
            list(tar_members(file))


def test_archives_behind_each_other_are_refused(tmp_path: Path) -> None:
    """What tar would silently leave out, an archive appended to another one, is an error."""
    one = write_tar(tmp_path / "a.tar", ["a.jpg"]).read_bytes()
    (tmp_path / "b.tar").write_bytes(one + one)
    with pytest.raises(UserError, match=f"another archive at byte {len(one)}"):
        list(tar_members(tmp_path / "b.tar"))


def test_no_such_file(tmp_path: Path) -> None:
    """A missing file is a UserError too."""
    with pytest.raises(UserError, match="No such file"):
        list(tar_members(tmp_path / "a.tar"))
