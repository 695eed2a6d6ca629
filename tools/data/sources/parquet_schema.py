"""Which columns of a Parquet file hold images and labels, and what the classes are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.text.json_text import parse_json

LABEL_COLUMNS = ("label", "labels", "fine_label", "cls")


@dataclass(frozen=True)
class Columns:
    """Where images and labels are."""

    image: str
    """A binary column, or a struct column with a binary field `bytes`."""
    leaf: str
    """The path of the bytes: `image` or `image.bytes`."""
    path_leaf: str | None
    """The path of the image's own path, such as `image.path`; None without one of text."""
    label: str
    """An integer column."""
    class_names: tuple[str, ...]
    """As the Hugging Face metadata say; empty without them."""


def find_columns(schema: Any, file: Path) -> Columns:
    """Find the columns of images and labels of a pyarrow.Schema by their types.

    Raises UserError if there is no such column, or more than one that could be meant.
    """
    import pyarrow as pa

    def is_binary(kind: Any) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def is_text(kind: Any) -> bool:
        return kind in (pa.string(), pa.large_string(), pa.null())  # null where all are

    def fields_of(field: Any) -> dict[str, Any]:
        return {part.name: part.type for part in field.type} if is_struct(field) else {}

    def is_struct(field: Any) -> bool:
        return bool(pa.types.is_struct(field.type))

    structs = [f for f in schema if is_binary(fields_of(f).get("bytes", pa.null()))]
    images = structs or [f for f in schema if is_binary(f.type)]
    image = _the_only([f.name for f in images], "column of images (bytes)", schema, file)
    field = schema.field(image)
    features = _read_features(schema.metadata, file)
    integers = [f.name for f in schema if pa.types.is_integer(f.type)]
    labels = (
        [name for name in LABEL_COLUMNS if name in integers][:1]
        or [name for name in integers if _class_names_of(features.get(name))]
        or integers
    )
    label = _the_only(labels, "column of labels (integers)", schema, file)
    return Columns(
        image=image,
        leaf=f"{image}.bytes" if is_struct(field) else image,
        path_leaf=f"{image}.path" if is_text(fields_of(field).get("path")) else None,
        label=label,
        class_names=_class_names_of(features.get(label)),
    )


def _the_only(names: list[str], what: str, schema: Any, file: Path) -> str:
    if len(names) == 1:
        return names[0]
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
    found = f"{', '.join(names)}" if names else f"none among {columns or 'no columns'}"
    raise UserError(
        f"a Parquet file must have one {what}. Found: {found} in {file}. "
        "Write it with the columns image {bytes, path} and label, as Hugging Face does."
    )


def _read_features(metadata: dict[bytes, bytes] | None, file: Path) -> dict[str, Any]:
    """The description of each column that Hugging Face stores in a schema; {} if there is none."""
    try:
        stored = parse_json((metadata or {})[b"huggingface"])
        features = stored.get("info", stored).get("features")
    except (KeyError, AttributeError):
        return {}
    except ValueError as error:
        raise UserError(
            "what Hugging Face stores of a Parquet file must be JSON. Found: "
            f"{error} in {file}. Download {file.name} again."
        ) from error
    return features if isinstance(features, dict) else {}


def _class_names_of(feature: Any) -> tuple[str, ...]:
    """The names of a ClassLabel feature; () if it is another."""
    names = feature.get("names") if isinstance(feature, dict) else None
    if isinstance(names, dict):  # the form of a dataset card: {"0": "tench", ...}
        numbers = sorted((int(key), key) for key in names if str(key).isdecimal())
        if [number for number, _ in numbers] != list(range(len(names))):
            return ()
        names = [names[key] for _, key in numbers]
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()
