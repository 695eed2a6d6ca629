"""Reading the checkpoints of other programs, weights only: no code in a file is run."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fastdeit.checkpoints.file import FORMAT
from fastdeit.checkpoints.foreign.translate import Format, first_few
from fastdeit.errors import UserError, need
from fastdeit.text.json_text import parse_json

RAW, AVERAGED = ("model", "state_dict"), ("model_ema", "state_dict_ema")
"""What DeiT and timm call the weights, and their moving average."""
WRAPPERS = ("module.", "_orig_mod.")
"""What data parallelism and torch.compile put before every name."""
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of transformers holds one of."""
TRANSFORMERS_EPS = 1e-12
"""What transformers' LayerNorm adds to the variance unless config.json says otherwise."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """What a file of another program holds."""

    format: Format
    state: dict[str, Tensor]
    """Weights under their names."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Other entries of the file, each with the reason why it is not read."""
    config: dict[str, Any] = field(default_factory=dict)
    """config.json of transformers."""
    colours: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation of the images that it was trained on, if the folder says."""

    @property
    def num_heads(self) -> int | None:
        """Attention heads, if the file says."""
        return self.config.get("num_attention_heads")

    @property
    def norm_eps(self) -> float | None:
        """What its LayerNorms add to the variance; None is what timm has."""
        if self.format != "transformers":
            return None
        return float(self.config.get("layer_norm_eps", TRANSFORMERS_EPS))


def read_foreign(
    source: Path,
    form: Literal["auto", "official", "timm", "mmpretrain", "transformers"] = "auto",
    weights: Literal["raw", "ema"] = "raw",
) -> Foreign:
    """Read a checkpoint of another program onto the CPU.

    Args:
        source: a .pth, .bin or .safetensors file, or a folder of transformers.
        form: whose it is; auto looks at the names.
        weights: raw, or ema, the moving average that DeiT and timm keep beside it.

    Raises:
        UserError: it cannot be read, would run code, holds no weights, or is of another program.
    """
    file = _weight_file(source)
    content = _load(file)
    if content.get("format") == FORMAT:
        raise UserError(f"source must be of another program. Found: {source}, which is ours.")
    state, ignored = _pick(content, weights, file)
    if form == "official" and not {"model", "model_ema"} & content.keys():
        raise UserError(
            f"an official checkpoint has its weights under model. Found: {first_few(content)} in "
            f"{file}. Pass --format timm, or leave --format out."
        )
    found: Format
    if form != "auto":
        found = form
    elif any(name.startswith("backbone.") for name in state):
        found = "mmpretrain"
    elif any(name.startswith(("deit.", "vit.")) for name in state):
        found = "transformers"
    else:
        found = "official" if "model" in content else "timm"
    if found != "transformers":
        return Foreign(found, state, ignored)
    config = _read_json(file.with_name("config.json"))
    if source.is_dir() and not config:
        raise UserError(
            f"a folder of transformers must hold config.json. Found: none in {source}. "
            "Give the file of weights alone."
        )
    _check_config(config, source)
    images = _read_json(file.with_name("preprocessor_config.json"))
    return Foreign(found, state, ignored, config, _colours(images, source))


def _weight_file(source: Path) -> Path:
    if source.is_file():
        return source
    files = [source / name for name in WEIGHT_FILES if (source / name).is_file()]
    if not files:
        raise UserError(
            "source must be a file, or a folder with model.safetensors or pytorch_model.bin. "
            f"Found: {source}{'' if source.exists() else ', which is not there'}. "
            "Give the file of weights."
        )
    return files[0]


def _load(file: Path) -> dict[str, Any]:
    try:
        if file.suffix == ".safetensors":
            library = need("safetensors.torch", "export", "reading .safetensors")
            content = library.load_file(file)
        else:
            # The published training code saves its arguments so; it is a dict by another name.
            with (
                torch.serialization.safe_globals([argparse.Namespace]),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # what matters is in the error below
                content = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # damaged bytes fail in torch, zip and pickle in any way there is
        reason = (str(error) or type(error).__name__).split("\n")[0].rstrip(".")
        if "weights_only" in reason or reason.startswith("Weights only"):
            reason = f"it would run code{_named_code(file)}"
        elif not any(letter.isalpha() for letter in reason):  # such as the key of a KeyError
            reason = "it is no file of torch.save"
        raise UserError(
            f"source cannot be read. Found: {file} ({file.stat().st_size} bytes; {reason}). "
            "Give a file that holds nothing but weights: torch.save(model.state_dict(), FILE)."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(
            f"source must hold weights by name. Found: {type(content).__name__} in {file}. "
            "Save model.state_dict()."
        )
    return content


def _named_code(file: Path) -> str:
    """The code that a file asks for, in words; empty if it cannot be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:
        return ""
    return f": {first_few(names)}" if names else ""


def _pick(
    content: dict[str, Any], weights: str, file: Path
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The weights asked for, and the other entries."""
    raw, averaged = (
        next((name for name in names if isinstance(content.get(name), Mapping)), None)
        for names in (RAW, AVERAGED)
    )
    chosen = raw if weights == "raw" else averaged
    if chosen is None:
        if weights == "ema" or averaged is not None:
            there, other = (
                ("no average", "raw") if weights == "ema" else ("an average alone", "ema")
            )
            raise UserError(
                f"source must hold the weights that are asked for. Found: {there} in {file}. "
                f"Pass --weights {other}."
            )
        state, ignored = content, {}
    else:
        state = dict(content[chosen])
        ignored = {
            name: f"the other weights; --weights {'ema' if name == averaged else 'raw'} takes them"
            if name in (raw, averaged)
            else "not a weight of the model"
            for name in content
            if name != chosen
        }
    while wrapper := _wrapper(state):
        state = {name[len(wrapper) :]: value for name, value in state.items()}
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others or not state:
        raise UserError(
            f"weights must be tensors by name. Found: {first_few(others) or 'nothing'} in {file}. "
            "Save model.state_dict()."
        )
    return {name: value.detach() for name, value in state.items()}, ignored


def _wrapper(state: Mapping[str, Any]) -> str | None:
    """What stands before every name and is no part of it."""
    for wrapper in WRAPPERS:
        if state and all(isinstance(n, str) and n.startswith(wrapper) for n in state):
            return wrapper
    return None


def _read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; {} if it is not there."""
    if not file.is_file():
        return {}
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} must be JSON. Found: {error}. Give a whole copy.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{file} must hold an object. Found: a {type(content).__name__}. Give a whole copy."
        )
    return content


def _colours(
    images: dict[str, Any], source: Path
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation by preprocessor_config.json; None if it does not say."""
    if not images.get("do_normalize", True) or not {"image_mean", "image_std"} <= images.keys():
        return None
    for name in ("image_mean", "image_std"):
        values = images[name]
        is_right = isinstance(values, list) and len(values) == 3
        if not is_right or not all(isinstance(v, (int, float)) and v > 0 for v in values):
            raise UserError(
                f"{name} must be three numbers above 0. Found: {values} in the "
                f"preprocessor_config.json of {source}. Give a whole copy."
            )
    return tuple(images["image_mean"]), tuple(images["image_std"])


def _check_config(config: dict[str, Any], source: Path) -> None:
    """Refuse what changes a model of transformers and shows in no weight."""
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(
            f"hidden_act must be gelu, as in DeiT. Found: {activation} in the config.json of "
            f"{source}. There is no such model here."
        )
    for name in ("num_attention_heads", "layer_norm_eps"):
        value = config.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise UserError(
                f"{name} must be a number above 0. Found: {value} in the config.json of {source}. "
                "Give a whole copy."
            )
