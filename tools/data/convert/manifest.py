"""OUT.json: how a dataset was made, beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdeit import UserError
from fastdeit.files import replace_file
from fastdeit.pipelines.datasets.index import open_dataset
from fastdeit.pipelines.datasets.webdataset import SIDECAR
from fastdeit.text.json_text import parse_json


def manifest_of(out: Path) -> Path:
    """Where OUT.json is."""
    return out.with_name(f"{out.name}.json")


def restore_manifest(out: Path, manifest: Path) -> None:
    """Write OUT.json again from what OUT itself says of how it was made, if it says so."""
    if out.is_dir() and not (out / SIDECAR).is_file():
        return
    try:
        made_by = open_dataset(out).made_by
    except UserError:
        return
    if "parameters" in made_by:
        write_manifest(manifest, made_by)


def write_manifest(manifest: Path, report: dict[str, Any]) -> None:
    """Write OUT.json, in place of an older one."""
    replace_file(manifest, (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())


def made_with(manifest: Path) -> dict[str, Any] | None:
    """The parameters of an earlier conversion, or None if its manifest does not say."""
    try:
        content = parse_json(manifest.read_text(encoding="utf-8"))
        parameters: dict[str, Any] = content["parameters"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return parameters
