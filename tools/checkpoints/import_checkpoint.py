"""`fastdeit import`: a checkpoint of another program becomes one of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from fastdeit.errors import UserError, require

if TYPE_CHECKING:
    from fastdeit.checkpoints.classes import Classes


def import_checkpoint(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    /,
    model: str | None = None,
    format: Literal["auto", "official", "timm", "mmpretrain", "transformers"] = "auto",
    classes: str | None = None,
    weights: Literal["raw", "ema"] = "raw",
    num_heads: int | None = None,
    overwrite: bool = False,
) -> int:
    """Read a checkpoint of DeiT, timm, MMPretrain or transformers: `fastdeit import SOURCE OUT`.

    Every weight of the source is taken or named as ignored, and every weight of the model is
    filled, or nothing is written. No code in the source is run. OUT is for `fastdeit evaluate`,
    predict, export, and for --init-from and --teacher of `fastdeit train`.

    Args:
        source: a .pth, .bin or .safetensors file, or a folder of transformers.
        out: the checkpoint to write, such as deit_base.pt.
        model: timm's name of the model; found by the shapes of a DeiT, DeiT-III or ViT.
        format: whose names the weights have; auto looks at them.
        classes: a text file with a name a line, or imagenet; without, classes are numbered, and
            taken for a dataset's in its order.
        weights: raw, or ema, the moving average that DeiT and timm keep beside it.
        num_heads: attention heads, where the file does not say and they are not 64 wide.
        overwrite: replace OUT.

    Returns:
        0.
    """
    from fastdeit.augment.compose import MEAN, STD
    from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
    from fastdeit.checkpoints.foreign.file import read_foreign
    from fastdeit.checkpoints.foreign.recognise import fill_model, recognise
    from fastdeit.checkpoints.foreign.translate import fold_normalisation, from_foreign
    from fastdeit.files import check_out

    check_out(out, overwrite, source)
    foreign = read_foreign(source, format, weights)
    require(
        num_heads is None or foreign.num_heads in (None, num_heads),
        "num_heads",
        num_heads,
        f"must be that of config.json ({foreign.num_heads})",
        "Leave --num-heads out.",
    )
    translated = from_foreign(foreign.state, foreign.format)
    state = translated.state
    found = recognise(state, model, num_heads or foreign.num_heads, foreign.norm_eps)
    notes = list(found.notes)
    colours = foreign.colours
    if colours is None and model is not None:
        colours, more = _timm_colours(model, "patch_embed.proj.bias" in state)
        notes += more
    if colours not in (None, (MEAN, STD)):
        assert colours is not None
        require(
            "patch_embed.proj.bias" in state,
            "patch_embed",
            "no bias",
            "must have a bias to take ImageNet's colours",
            "Give another source.",
        )
        state = fold_normalisation(state, *colours)
        notes.append("its patch embedding is changed so that it takes ImageNet's mean and spread")
    changed = sum(v.is_floating_point() and v.itemsize != 4 for v in state.values())
    if changed:
        notes.append(f"{changed} weights of another precision become float32")
    filled = fill_model(state, found)
    known = _read_classes(classes, found.num_classes)
    if classes is None:
        notes.append("its classes are numbered, and taken for a dataset's in its order")
    origin = {"source": source.name, "format": foreign.format, "weights": weights}
    content = checkpoint_content(filled, found.config, found.image_size, known, imported=origin)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, content)

    ignored = foreign.ignored | translated.ignored
    for name, reason in ignored.items():
        print(f"ignored: {name} ({reason})", file=sys.stderr)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    facts = {
        "checkpoint": str(out),
        "source": str(source),
        "format": foreign.format,
        "model": found.config.model,
        "image_size": found.image_size,
        "num_classes": found.num_classes,
        "tensors": len(content["model"]),
        "ignored": sorted(ignored),
    }
    print(json.dumps(facts))
    return 0


def _timm_colours(
    model: str, can_fold: bool
) -> tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, list[str]]:
    """What timm says of the colours that a model's weights were trained with."""
    import timm

    from fastdeit.augment.compose import MEAN, STD

    settings = timm.get_pretrained_cfg(model)
    if settings is None or (tuple(settings.mean), tuple(settings.std)) == (MEAN, STD):
        return None, []
    if "." in model and can_fold:
        return (tuple(settings.mean), tuple(settings.std)), []
    numbers = (
        f"timm's weights of {model} were trained with mean {settings.mean}, std {settings.std}"
    )
    if "." in model:
        end = "a convnet cannot be changed to take ImageNet's: accuracies will differ"
    else:
        end = (
            f"images keep ImageNet's; name the tag (--model {model}.TAG) if these are those weights"
        )
    return None, [f"{numbers}; {end}"]


def _read_classes(classes: str | None, count: int) -> Classes:
    from fastdeit.checkpoints.classes import Classes, numbered_classes

    ids: tuple[str, ...] = ()
    if classes is None:
        return Classes(numbered_classes(count))
    if classes == "imagenet":
        import timm.data

        # The words of WordNet, as in ImageNet's own LOC_synset_mapping.txt.
        info = timm.data.ImageNetInfo()
        names, ids = tuple(info.label_descriptions()), tuple(info.label_names())
    else:
        try:
            names = tuple(Path(classes).read_text(encoding="utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise UserError(
                f"classes must be a text file in UTF-8. Found: {classes}. Save it as such."
            ) from error
    if len(names) != count or not all(name.strip() for name in names):
        what = "an empty one" if len(names) == count else f"{len(names)}"
        raise UserError(
            f"classes must be as many names as the model has outputs ({count}). Found: {what} in "
            f"{classes}. Give a file with a name a line, or leave --classes out."
        )
    return Classes(names, ids)
