"""Names of weights in the checkpoints of other programs, from theirs to ours and back.

Ours are timm's. Each table says what a name is called here and there; `#` stands for the number of
a block, `*` for weight or bias. No weight is transposed anywhere; transformers alone keeps queries,
keys and values apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from fastdeit.augment.compose import MEAN, STD
from fastdeit.errors import UserError

Format = Literal["official", "timm", "mmpretrain", "transformers"]
FORMATS: tuple[Format, ...] = get_args(Format)

Table = tuple[tuple[str, str], ...]

OFFICIAL: Table = (
    ("blocks.#.ls1.gamma", "blocks.#.gamma_1"),
    ("blocks.#.ls2.gamma", "blocks.#.gamma_2"),
)
"""DeiT-III alone; every other name is timm's."""

MMPRETRAIN: Table = (
    ("cls_token", "backbone.cls_token"),
    ("dist_token", "backbone.dist_token"),
    ("pos_embed", "backbone.pos_embed"),
    ("patch_embed.proj.*", "backbone.patch_embed.projection.*"),
    ("blocks.#.norm1.*", "backbone.layers.#.ln1.*"),
    ("blocks.#.attn.qkv.*", "backbone.layers.#.attn.qkv.*"),
    ("blocks.#.attn.proj.*", "backbone.layers.#.attn.proj.*"),
    ("blocks.#.ls1.gamma", "backbone.layers.#.attn.gamma1.weight"),
    ("blocks.#.norm2.*", "backbone.layers.#.ln2.*"),
    ("blocks.#.mlp.fc1.*", "backbone.layers.#.ffn.layers.0.0.*"),
    ("blocks.#.mlp.fc2.*", "backbone.layers.#.ffn.layers.1.*"),
    ("blocks.#.ls2.gamma", "backbone.layers.#.ffn.gamma2.weight"),
    ("norm.*", "backbone.ln1.*"),
    ("head.*", "head.layers.head.*"),
    ("head_dist.*", "head.layers.head_dist.*"),
)

# What stands before these names in transformers is deit. or vit.
_EMBEDDINGS: Table = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("norm.*", "layernorm.*"),
)
_STORED_BLOCKS: Table = (
    ("blocks.#.norm1.*", "encoder.layer.#.layernorm_before.*"),
    ("blocks.#.attn.q.*", "encoder.layer.#.attention.attention.query.*"),
    ("blocks.#.attn.k.*", "encoder.layer.#.attention.attention.key.*"),
    ("blocks.#.attn.v.*", "encoder.layer.#.attention.attention.value.*"),
    ("blocks.#.attn.proj.*", "encoder.layer.#.attention.output.dense.*"),
    ("blocks.#.norm2.*", "encoder.layer.#.layernorm_after.*"),
    ("blocks.#.mlp.fc1.*", "encoder.layer.#.intermediate.dense.*"),
    ("blocks.#.mlp.fc2.*", "encoder.layer.#.output.dense.*"),
)
"""As every release stores them."""
_LIVE_BLOCKS: Table = (
    ("blocks.#.norm1.*", "layers.#.layernorm_before.*"),
    ("blocks.#.attn.q.*", "layers.#.attention.q_proj.*"),
    ("blocks.#.attn.k.*", "layers.#.attention.k_proj.*"),
    ("blocks.#.attn.v.*", "layers.#.attention.v_proj.*"),
    ("blocks.#.attn.proj.*", "layers.#.attention.o_proj.*"),
    ("blocks.#.norm2.*", "layers.#.layernorm_after.*"),
    ("blocks.#.mlp.fc1.*", "layers.#.mlp.fc1.*"),
    ("blocks.#.mlp.fc2.*", "layers.#.mlp.fc2.*"),
)
"""As state_dict() of release 5 names them."""
_TEACHER_HEADS: Table = (
    ("head.*", "cls_classifier.*"),
    ("head_dist.*", "distillation_classifier.*"),
)
_PARTS = ("q", "k", "v")

IGNORED: dict[Format, Table] = {
    "official": (),
    "timm": (),
    "mmpretrain": (
        ("data_preprocessor.*", "mean and spread of the colours, which are ImageNet's"),
    ),
    "transformers": (
        ("deit.pooler.dense.*", "the pooler, which classification does not use"),
        ("vit.pooler.dense.*", "the pooler, which classification does not use"),
        ("deit.embeddings.mask_token", "for masked images, which classification has not"),
        ("vit.embeddings.mask_token", "for masked images, which classification has not"),
    ),
}
"""Names that no classifier needs, each with the reason."""


@dataclass(frozen=True, slots=True)
class Translated:
    """Weights under our names."""

    state: dict[str, Tensor]
    """Our names; the very tensors of the source but where they had to be joined."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Names of the source that were left out, each with the reason."""


def from_foreign(state: Mapping[str, Tensor], form: Format) -> Translated:
    """Translate the weights of another program; each of its names is taken or ignored.

    Raises UserError if a name is unknown, two mean the same, or a part of query, key, value is
    missing.
    """
    ignored = {}
    for name in state:
        for pattern, reason in IGNORED[form]:
            if _pattern(pattern).fullmatch(name):
                ignored[name] = reason
    given = {name: value for name, value in state.items() if name not in ignored}
    if form in ("official", "timm"):
        # Names that no model has are found when the model is filled.
        known = _rename(given, _turned(OFFICIAL), form, keep_others=True)
    elif form == "mmpretrain":
        known = _rename(given, _turned(MMPRETRAIN), form)
    else:
        with_teacher = "distillation_classifier.weight" in given
        known = _join(_rename(given, _turned(_transformers_table(given, with_teacher)), form))
    return Translated(known, ignored)


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of the published code, which has no register tokens: UserError."""
    _require_plain(state, "the published code")
    return _rename(state, OFFICIAL, "fastdeit", keep_others=True)


def to_mmpretrain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of MMPretrain's VisionTransformer or DistilledVisionTransformer."""
    _require_plain(state, "MMPretrain")
    return _rename(state, MMPRETRAIN, "fastdeit")


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that transformers stores."""
    # DeiTForImageClassificationWithTeacher if there is a distillation head,
    # DeiTForImageClassification with one register token, ViTForImageClassification otherwise.
    kind = "deit" if {"dist_token", "reg_token"} & state.keys() else "vit"
    parted: dict[str, Tensor] = {}
    for name, value in state.items():
        if ".attn.qkv." in name:
            for part, rows in zip(_PARTS, value.chunk(3), strict=True):
                parted[name.replace(".qkv.", f".{part}.")] = rows.clone()
        else:
            parted[name] = value
    if "reg_token" in parted and parted["reg_token"].shape[1] != 1:
        raise UserError(
            "transformers' DeiT has one token beside the class token. Found: "
            f"{parted['reg_token'].shape[1]}. Export to timm instead."
        )
    table = _table_of(kind, _STORED_BLOCKS, "head_dist.weight" in state)
    return _rename(parted, table, "fastdeit")


def fold_normalisation(
    state: dict[str, Tensor], mean: Iterable[float], std: Iterable[float]
) -> dict[str, Tensor]:
    """Let a model that was trained with other colours' mean and spread take ImageNet's.

    `mean` and `std` are those that it was trained with, of red, green, blue, in [0, 1]. The patch
    embedding, weights (D, 3, P, P) and a bias (D,), is another; what it gives for an image is the
    same.
    """
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    theirs, ours = (
        [torch.tensor(tuple(x), dtype=torch.float64) for x in pair]
        for pair in ((mean, std), (MEAN, STD))
    )
    scale = (ours[1] / theirs[1]).view(1, -1, 1, 1)
    shift = ((ours[0] - theirs[0]) / theirs[1]).view(1, -1, 1, 1)
    return {
        **state,
        "patch_embed.proj.weight": (weight.double() * scale).to(weight.dtype),
        "patch_embed.proj.bias": (bias + (weight.double() * shift).sum((1, 2, 3))).to(bias.dtype),
    }


def first_few(names: Iterable[str]) -> str:
    """Names for an error: three, and how many more."""
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'; '.join(names[:3])}{more}"


def _transformers_table(given: Mapping[str, Tensor], with_teacher: bool) -> Table:
    """The names of a file of transformers, which has one of two namings of the blocks."""
    kind = "deit" if any(name.startswith("deit.") for name in given) else "vit"
    is_stored = any(f"{kind}.encoder.layer." in name for name in given)
    return _table_of(kind, _STORED_BLOCKS if is_stored else _LIVE_BLOCKS, with_teacher)


def _table_of(kind: str, blocks: Table, with_teacher: bool) -> Table:
    # Without a head of its own the distillation token is what timm calls a register.
    token = "dist_token" if with_teacher else "reg_token"
    inside = (*_EMBEDDINGS, *blocks)
    if kind == "deit":
        inside += ((token, "embeddings.distillation_token"),)
    heads = _TEACHER_HEADS if with_teacher else (("head.*", "classifier.*"),)
    return (*((ours, f"{kind}.{theirs}") for ours, theirs in inside), *heads)


def _require_plain(state: Mapping[str, Tensor], program: str) -> None:
    if "reg_token" in state:
        raise UserError(
            f"{program} has no register tokens. Found: {state['reg_token'].shape[1]} of them. "
            "Export to timm instead."
        )


def _turned(table: Table) -> Table:
    return tuple((theirs, ours) for ours, theirs in table)


def _pattern(template: str) -> re.Pattern[str]:
    """What the names of a template look like."""
    text = re.escape(template).replace(r"\#", r"(?P<block>\d+)")
    return re.compile(text.replace(r"\*", r"(?P<kind>\w+)"), re.ASCII)


def _rename(
    state: Mapping[str, Tensor], table: Table, form: str, keep_others: bool = False
) -> dict[str, Tensor]:
    rules = [(_pattern(old), new) for old, new in table]
    renamed: dict[str, Tensor] = {}
    unknown, twice = [], []
    for name, value in state.items():
        target = name if keep_others else None
        for pattern, template in rules:
            if match := pattern.fullmatch(name):
                groups = match.groupdict()
                target = template.replace("#", groups.get("block", ""))
                target = target.replace("*", groups.get("kind", ""))
                break
        if target is None:
            unknown.append(name)
        elif target in renamed:
            twice.append(name)
        else:
            renamed[target] = value
    if unknown or twice:
        what = "no unknown names" if unknown else "each weight once"
        raise UserError(
            f"weights of {form} must have {what}. Found: {first_few(unknown or twice)}. "
            "Give another --format, or a file that holds a DeiT or ViT classifier alone."
        )
    return renamed


def _join(parted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put queries, keys and values on top of each other, as timm has them."""
    state: dict[str, Tensor] = {}
    for name, value in parted.items():
        match = re.fullmatch(r"(blocks\.\d+\.attn\.)([qkv])(\.\w+)", name)
        if match is None:
            state[name] = value
            continue
        names = [f"{match[1]}{part}{match[3]}" for part in _PARTS]
        missing = [each for each in names if each not in parted]
        if missing:
            raise UserError(
                "queries, keys and values must all be there. Found: no "
                f"{first_few(missing)} beside {name}. Give a file that is whole."
            )
        if match[2] == "q":
            state[f"{match[1]}qkv{match[3]}"] = torch.cat([parted[each] for each in names])
    return state
