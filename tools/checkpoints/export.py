"""`fastdeit export`: a checkpoint of ours for other programs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdeit.errors import UserError
from fastdeit.files import check_out, replace_file

BY_SUFFIX = {".safetensors": "timm", ".onnx": "onnx", ".pt2": "torch", ".pth": "official"}
GRAPHS = ("onnx", "torch")


def export(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    /,
    format: Literal["auto", "timm", "onnx", "torch", "official"] = "auto",
    weights: Literal["raw", "ema"] = "raw",
    head: Literal["class", "dist", "joint", "mean"] | None = None,
    overwrite: bool = False,
) -> int:
    """Write a checkpoint for timm, ONNX, torch.export or the published DeiT code.

    ONNX and torch.export hold a graph: images (B, 3, S, S) float32, normalised by ImageNet's mean
    and standard deviation, to logits (B, K). It is run and compared with the model before it is
    written.

    Args:
        checkpoint: of `fastdeit train` or `fastdeit import`.
        out: the file to write: .safetensors (timm), .onnx, .pt2 (torch.export) or .pth (official).
        format: what to write; auto goes by the ending of OUT.
        weights: raw, as trained, or ema, their moving average.
        head: of a graph's logits. mean: the mean of both heads' logits, as timm's model gives
            them. joint: the logarithm of the mean of both heads' softmax, as the paper has it and
            `fastdeit predict`. class and dist: one head's. Left out: mean with a distillation head,
            else class.
        overwrite: replace OUT.

    Returns:
        0.
    """
    chosen = BY_SUFFIX.get(out.suffix) if format == "auto" else format
    if chosen is None:
        raise UserError(
            f"OUT must end in {', '.join(BY_SUFFIX)}, or --format be given. Found: {out.name}. "
            "Pass --format timm, say."
        )
    if head is not None and chosen not in GRAPHS:
        raise UserError(
            f"head has no effect in weights. Found: {head} with {chosen}, which holds all heads. "
            "Leave --head out, or export to .onnx or .pt2."
        )
    check_out(out, overwrite, checkpoint)

    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.checkpoints.foreign import export as exports
    from fastdeit.config import ModelConfig

    content = load_checkpoint(checkpoint)
    model = model_from_checkpoint(content, weights)
    config, image_size = ModelConfig(**content["model_config"]), content["image_size"]
    about = exports.facts_of(config, image_size, tuple(content["class_names"]))
    facts = {"out": str(out), "format": chosen, "weights": weights, "model": config.model}
    if chosen in GRAPHS:
        graph = exports.HeadModel(model, head)
        make = exports.onnx_bytes if chosen == "onnx" else exports.torch_bytes
        data, difference = make(graph, image_size, about)
        print(
            f"the {graph.head} head's logits are at most {difference:.1e} from torch's",
            file=sys.stderr,
        )
        facts |= {"head": graph.head, "max_difference": difference}  # type: ignore[dict-item]
    else:
        make_weights = exports.timm_bytes if chosen == "timm" else exports.official_bytes
        data = make_weights(model, about)
        print(f"to be loaded into: {about['create']}", file=sys.stderr)
    replace_file(out, data)
    print(json.dumps({**facts, "bytes": len(data)}))
    return 0
