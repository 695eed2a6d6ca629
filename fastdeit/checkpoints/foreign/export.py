"""What other programs can read of a model: timm's safetensors, DeiT's .pth, ONNX, torch.export."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from fastdeit import __version__
from fastdeit.checkpoints.foreign.translate import to_official
from fastdeit.config import ModelConfig
from fastdeit.errors import UserError, need

Head = Literal["class", "dist", "joint", "mean"]
HEADS: tuple[Head, ...] = get_args(Head)
MAX_DIFFERENCE = 1e-4
"""How far an exported graph's numbers may be from the model's."""
INPUT, OUTPUT = "images", "logits"
CHECKED_BATCHES = (1, 3)
"""Sizes of the batches that a graph is checked with; it was made with another."""


class HeadModel(nn.Module):
    """A model that gives the logits of one head."""

    def __init__(self, model: nn.Module, head: Head | None = None) -> None:
        """Wrap a model of `make_model`.

        Args:
            model: from `make_model`.
            head: class or dist, one head's logits; mean, the mean of both heads' logits, as timm's
                and transformers' models give in evaluation; joint, the logarithm of the mean of
                both heads' softmax, as in the paper (section 4), whose softmax is that mean. None
                is what timm's model gives: mean with a distillation head, else class.

        Raises:
            UserError: the model has one head, and another than class is asked for.
        """
        super().__init__()
        self.model = model.eval()
        self.is_distilled = isinstance(model, VisionTransformerDistilled)
        if head not in (None, "class") and not self.is_distilled:
            raise UserError(
                f"head must be class for a model without a distillation head. Found: {head}. "
                "Leave --head out."
            )
        self.head: Head = head or ("mean" if self.is_distilled else "class")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, S, S) float32, normalised with ImageNet's figures."""
        if self.head == "mean" or not self.is_distilled:
            logits: Tensor = self.model(images)
            return logits
        model: Any = self.model
        tokens = model.forward_features(images)  # (B, N, D): class, distillation, patches
        by_class: Tensor = model.head(tokens[:, 0])
        by_dist: Tensor = model.head_dist(tokens[:, 1])
        if self.head == "class":
            return by_class
        if self.head == "dist":
            return by_dist
        both = torch.stack((by_class.log_softmax(-1), by_dist.log_softmax(-1)))
        joint: Tensor = both.logsumexp(0) - math.log(2)
        return joint


def facts_of(config: ModelConfig, image_size: int, class_names: tuple[str, ...]) -> dict[str, str]:
    """What an exported file says of itself; safetensors and ONNX hold strings only."""
    return {
        "made_by": f"fastdeit {__version__}",
        "model": config.model,
        "create": create_call(config, image_size, len(class_names)),
        "image_size": str(image_size),
        "class_names": json.dumps(list(class_names)),
    }


def create_call(config: ModelConfig, image_size: int, num_classes: int) -> str:
    """The call of timm that builds the model which the weights fill."""
    from fastdeit.models.options import accepted_options, plain_model

    options: dict[str, Any] = {"num_classes": num_classes}
    if "img_size" in accepted_options(type(plain_model(config.model))):
        options["img_size"] = image_size
    for name in ("patch_size", "embed_dim", "depth", "num_heads", "reg_tokens"):
        if getattr(config, name) is not None:
            options[name] = getattr(config, name)
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    if config.norm_eps is not None:
        text += f", norm_layer=functools.partial(timm.layers.LayerNorm, eps={config.norm_eps!r})"
    return f"timm.create_model({config.model!r}, {text})"


def timm_bytes(model: nn.Module, facts: dict[str, str]) -> bytes:
    """A .safetensors that timm's model of the same name loads strictly."""
    library = need("safetensors.torch", "export", "writing .safetensors")
    state = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
    data: bytes = library.save(state, metadata={"format": "pt", **facts})
    return data


def official_bytes(model: nn.Module, facts: dict[str, str]) -> bytes:
    """A .pth as DeiT's code reads it: {"model": weights}, with what it is beside."""
    state = {name: value.clone() for name, value in to_official(model.state_dict()).items()}
    sink = io.BytesIO()
    torch.save({"model": state, "fastdeit": facts}, sink)
    return sink.getvalue()


def torch_bytes(model: HeadModel, image_size: int, facts: dict[str, str]) -> tuple[bytes, float]:
    """A program of torch.export (.pt2), whose batch may have any size.

    Beside it the greatest difference of its logits from the model's. Raises UserError if it cannot
    be exported, or gives other numbers.
    """
    with _quiet(), _explained("torch.export"):
        program = torch.export.export(
            model, (_images(2, image_size),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        sink = io.BytesIO()
        torch.export.save(program, sink, extra_files={"fastdeit.json": json.dumps(facts)})
        again = torch.export.load(io.BytesIO(sink.getvalue())).module()
    difference = 0.0
    for images, expected in _samples(model, image_size):
        difference = max(difference, _apart(again(images).detach().numpy(), expected))
    _require_close(difference, "torch.export")
    return sink.getvalue(), difference


def onnx_bytes(model: HeadModel, image_size: int, facts: dict[str, str]) -> tuple[bytes, float]:
    """An ONNX graph in one file, whose batch may have any size.

    Beside it the greatest difference of onnxruntime's logits from torch's on the CPU. Raises
    UserError if a library is missing, it cannot be exported, or gives other numbers.
    """
    what = "exporting to ONNX"
    onnx, runtime = need("onnx", "export", what), need("onnxruntime", "export", what)
    need("onnxscript", "export", what)
    with _quiet(), _explained("torch.onnx"), tempfile.TemporaryDirectory() as folder:
        program = torch.onnx.export(
            model,
            (_images(2, image_size),),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
        assert program is not None
        path = Path(folder) / "model.onnx"
        program.save(str(path), external_data=False)
        graph = onnx.load(path)
        graph.producer_name, graph.producer_version = "fastdeit", __version__
        onnx.helper.set_model_props(graph, {**facts, "head": model.head})
        onnx.checker.check_model(graph, full_check=True)
        data: bytes = graph.SerializeToString()
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
    difference = 0.0
    for images, expected in _samples(model, image_size):
        (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
        difference = max(difference, _apart(found, expected))
    _require_close(difference, "onnxruntime")
    return data, difference


def _images(count: int, size: int) -> Tensor:
    """Noise as spread as normalised images: (count, 3, size, size) float32."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(count))


def _samples(model: nn.Module, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for count in CHECKED_BATCHES:
        images = _images(count, size)
        with torch.no_grad():
            yield images, model(images)


def _apart(found: Any, expected: Tensor) -> float:
    """The greatest difference; infinite for numbers that are none, or other shapes."""
    if found.shape != tuple(expected.shape):
        return float("inf")
    apart = float(np.abs(found - expected.numpy()).max())
    return apart if np.isfinite(apart) else float("inf")


def _require_close(difference: float, program: str) -> None:
    if difference > MAX_DIFFERENCE:
        raise UserError(
            f"an exported graph must give the model's logits within {MAX_DIFFERENCE}. Found: "
            f"{program} {difference:.2g} apart. Nothing was written; export to timm instead."
        )


@contextlib.contextmanager
def _explained(program: str) -> Iterator[None]:
    """Turn what an exporter raises, which has no common base, into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).strip().split("\n")[0][:200]
        raise UserError(
            f"the model must be one that {program} can follow. Found: {reason}. "
            "Export to timm instead."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' own remarks from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
