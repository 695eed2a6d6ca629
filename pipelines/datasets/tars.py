"""Where the files in a tar lie, from its headers alone.

Python's tarfile keeps every member, 1 kB each, and takes 20 us for it; this keeps nothing. What
could not be read as a plain file in place, or names something outside, is refused.

Source: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, NoReturn
from zlib import adler32

from fastdeit import UserError
from fastdeit.pipelines.datasets.strays import Strays, is_hidden_member
from fastdeit.pipelines.datasets.tar_bytes import PlainBytes, TarBytes

BLOCK = 512
_END = bytes(BLOCK)
# One page where members are large, so that their data stays unread, and more where they are tiny.
_MIN_WINDOW, _MAX_WINDOW = 4096, 1 << 18
_MAX_EXTENSION = 1 << 20
_LOOK_BEHIND_END = 1 << 20

_REGULAR = frozenset(b"07\0")
_EXTENSIONS = frozenset((b"L", b"K", b"x", b"X", b"g"))
_PAX_WORDS = (b"path=", b"size=", b"GNU.sparse")
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "a sparse file",
}
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gzip -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
)


class TarMember(NamedTuple):
    """One file in an archive."""

    name: str
    """As the archive spells it; relative, without `..`."""
    offset: int
    """First byte of its data in the file that holds the archive."""
    size: int
    """Bytes."""


def tar_members(
    path: Path, start: int = 0, end: int | None = None, label: str = ""
) -> Iterator[TarMember]:
    """List the files of an uncompressed tar (v7, ustar, GNU or pax) in its order.

    The archive may lie within another file, from `start` to `end` (None for the end of the file);
    `label` is then what a message calls it. Raises UserError if it is compressed, damaged or cut,
    or holds anything but plain files (directories are passed over) with relative, printable names.
    """
    with closing(PlainBytes(path)) as data:
        yield from members_of(data, label or str(path), start, end)


def members_of(
    data: TarBytes, label: str, start: int = 0, end: int | None = None
) -> Iterator[TarMember]:
    """The same of an archive that is open."""
    yield from _Tar(data, label, start, end).members(start)


def visible_members(
    strays: Strays, data: TarBytes, label: str, start: int = 0, end: int | None = None
) -> Iterator[TarMember]:
    """The same without what is hidden, which goes to `strays`."""
    for member in members_of(data, label, start, end):
        if is_hidden_member(member.name):
            strays.hidden.add(member.name)
        else:
            yield member


class _Tar:
    """An open archive, read forwards through a window."""

    def __init__(self, data: TarBytes, label: str, start: int, end: int | None) -> None:
        """Look at the beginning and at the size; a compressed or cut archive is refused."""
        self.data, self.label = data, label
        self.window, self.buffer, self.buffer_at = _MIN_WINDOW, b"", start
        # What an extension header says of the file behind it.
        self.next_name: bytes | None = None
        self.next_size: int | None = None
        self.end = data.end if end is None else end
        if self.end > data.end:
            self.refuse_damage(f"it should end at byte {self.end} and the file at {data.end}")
        head = data.pread(8, start)
        for magic, name, command in _COMPRESSED:
            if head.startswith(magic):
                raise UserError(
                    "a tar must not be compressed, so that its files can be read in place. Found: "
                    f"{name} data in {label}. Decompress it first: {command} FILE."
                )

    def members(self, at: int) -> Iterator[TarMember]:
        """See `tar_members`."""
        while True:
            header = self.block(at)
            if header == _END:
                break
            length = _length(header)
            if length < 0:
                self.refuse_damage(f"no valid header at byte {at}")
            at += BLOCK
            kind = header[156]
            if kind not in _REGULAR:
                at += self.pass_over(header, at, length)
                continue
            if self.next_size is not None:
                length = self.next_size
            name = self.checked_name(_own_name(header))
            self.next_name = self.next_size = None
            # In v7 a slash at the end of the name is what makes a directory.
            if kind == 0 and name[-1] == "/":
                continue
            if at + length > self.end:
                self.refuse_damage(f"{name} is cut off")
            yield TarMember(name, at, length)
            at += length + -length % BLOCK
        if self.next_name is not None or self.next_size is not None:
            self.refuse_damage(f"an extended header without a file before byte {at}")
        self.check_end(at)

    def block(self, at: int) -> bytes:
        """The 512 bytes at a place behind all that was asked for before."""
        first = at - self.buffer_at
        if first + BLOCK > len(self.buffer):
            is_close = first <= len(self.buffer)
            self.window = min(2 * self.window, _MAX_WINDOW) if is_close else _MIN_WINDOW
            self.buffer = self.data.pread(max(min(self.window, self.end - at), 0), at)
            self.buffer_at, first = at, 0
            if len(self.buffer) < BLOCK:
                self.refuse_damage(f"it ends at byte {at + len(self.buffer)} without an end mark")
        return self.buffer[first : first + BLOCK]

    def pass_over(self, header: bytes, at: int, length: int) -> int:
        """Take note of an entry that is no file; return how many bytes belong to it."""
        kind = header[156:157]
        if kind == b"5":
            self.next_name = self.next_size = None
            return 0
        if kind not in _EXTENSIONS:
            what = _KINDS.get(kind, f"an entry of type {kind.decode('latin-1')!a}")
            self.refuse(what, self.next_name or _own_name(header))
        if length > _MAX_EXTENSION or at + length > self.end:
            self.refuse_damage(f"an extended header of {length} bytes at byte {at}")
        first = at - self.buffer_at
        data = self.buffer[first : first + length]
        if len(data) < length:
            data = self.data.pread(length, at)
        if kind == b"L":
            self.next_name = data.split(b"\0", 1)[0]
        elif kind != b"K" and any(word in data for word in _PAX_WORDS):
            self.read_pax(data, at, kind == b"g")
        return length + -length % BLOCK

    def read_pax(self, data: bytes, at: int, is_global: bool) -> None:
        """Take note of the name and the size that records say, and refuse what changes the data."""
        try:
            records = _pax_records(data)
            size = int(records[b"size"]) if b"size" in records else None
        except ValueError:
            self.refuse_damage(f"an extended header that cannot be read at byte {at}")
        if any(key.startswith(b"GNU.sparse") for key in records):
            self.refuse("a sparse file", records.get(b"GNU.sparse.name", b""))
        if is_global and not records.keys().isdisjoint((b"path", b"size")):
            self.refuse("a name or size for all files at once", b"")
        if size is not None and size < 0:
            self.refuse_damage(f"a size of {size} bytes at byte {at}")
        self.next_name = records.get(b"path", self.next_name)
        self.next_size = self.next_size if size is None else size

    def checked_name(self, own: bytes) -> str:
        """The name of a file."""
        raw = own if self.next_name is None else self.next_name
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            self.refuse("a name that is not UTF-8", raw)
        if not name or not name.isprintable():
            self.refuse("a name that is empty or not printable", raw)
        if name[0] == "/":
            self.refuse("an absolute path", raw)
        if ".." in name and ".." in name.split("/"):
            self.refuse("a path with ..", raw)
        return name

    def check_end(self, at: int) -> None:
        """Look whether another archive was appended, which would silently be left out."""
        rest = self.data.pread(max(min(_LOOK_BEHIND_END, self.end - at), 0), at)
        first = (len(rest) - len(rest.lstrip(b"\0"))) // BLOCK * BLOCK
        if len(rest) - first >= BLOCK and _length(rest[first : first + BLOCK]) >= 0:
            raise UserError(
                f"a tar must end where its end mark is. Found: another archive at byte {at + first}"
                f" of {self.label}. Unpack it with tar --ignore-zeros, and pack it anew."
            )

    def refuse(self, what: str, name: bytes) -> NoReturn:
        """Raise for an entry that must not be there."""
        text = name.decode(errors="surrogateescape")
        shown = text if text.isprintable() else ascii(text)
        raise UserError(
            "a tar must hold plain files with printable names below its root. Found: "
            f"{what}{', ' if name else ''}{shown}, in {self.label}. "
            "Pack it anew without that, or unpack it into a folder."
        )

    def refuse_damage(self, what: str) -> NoReturn:
        """Raise for an archive that is not whole."""
        raise UserError(
            f"a tar must be whole. Found: {what}, in {self.label}. Copy or download it again."
        )


def _length(header: bytes) -> int:
    """How long an entry is; -1 if the header is damaged."""
    field = header[148:156]
    # The low half of Adler-32 is 1 + the sum of the bytes, exact up to 256 of them, in 0.1 us
    # where sum() takes 3.
    total = (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2
    total += 8 * 0x20 - sum(field)
    try:
        stated = _number(field)
        # Some old writers added up signed bytes.
        signed = total - 256 * sum(byte > 127 for byte in header) if stated != total else total
        return _number(header[124:136]) if stated in (total, signed) else -1
    except ValueError:
        return -1


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or 256-ary where those do not suffice."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big") if field[0] == 0x80 else -1
    return int(field.partition(b"\0")[0].strip(b" ") or b"0", 8)


def _own_name(header: bytes) -> bytes:
    """The name within a header: its prefix, which GNU's format uses otherwise, and the rest."""
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records of an extended header, each `LENGTH KEY=VALUE` and a line feed."""
    records, at = {}, 0
    while at < len(data) and data[at]:
        digits = data[at : at + 20].partition(b" ")[0]
        after = at + int(digits)
        key, equals, value = data[at + len(digits) + 1 : after - 1].partition(b"=")
        if not equals or not digits.isdigit() or data[after - 1 : after] != b"\n":
            raise ValueError("a damaged record")
        records[key] = value
        at = after
    return records
