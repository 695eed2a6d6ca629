"""What `fastdeit bench table5` and `resolutions` measure: architectures at a size of image."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from fastdeit import UserError
from fastdeit.paper import resolutions, rows_of_architecture, table5

DEIT_B = "deit_base_patch16_224"
USUAL_SIZE = 224
"""Of a timm model that does not say what it was made for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A model at a size of image, whatever its weights."""

    label: str
    """What its rows are called."""
    model: str
    """timm's name."""
    image_size: int
    """Side of its images in pixels."""
    paper: float | None = None
    """Images a second that the paper gives."""
    paper_what: str | None = None
    """Where in the paper, and on what."""
    also: tuple[str, ...] = ()
    """Other rows of the paper that the same measurement stands for."""

    @property
    def is_deit(self) -> bool:
        """Whether it is one of the paper's own models."""
        return self.label.startswith("DeiT")


def table5_architectures() -> list[Architecture]:
    """The architectures of Table 5, in its order; rows that differ in their training are one."""
    shared = dict.fromkeys(row.architecture for row in table5())
    return [_in_table5(model, image_size) for model, image_size in shared]


def _in_table5(model: str, image_size: int) -> Architecture:
    """An architecture of Table 5; its label and rate are those of the first row that is it."""
    rows = rows_of_architecture(model, image_size)
    first = next(row for row in rows if row.timm == row.architecture[0])
    return Architecture(
        label=first.name,
        model=first.timm,
        image_size=first.image_size,
        paper=first.throughput,
        paper_what="Table 5, one V100 16 GB, fp32",
        also=tuple(row.name for row in rows if row != first),
    )


def find_architecture(name: str) -> Architecture:
    """The architecture that a user names: a row of Table 5, in whatever case, or a timm model.

    A timm model is measured at the size of Table 5 if it is there, otherwise at timm's.

    Raises:
        UserError: neither knows it.
    """
    for row in table5():
        if name.casefold() in (row.name.casefold(), row.timm):
            return _in_table5(*row.architecture)
    import timm

    if timm.is_model(name):
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        size = config.input_size[-1] if config is not None else USUAL_SIZE
        return Architecture(label=name, model=name, image_size=size)
    papers = {row.name.casefold(): row.name for row in table5()}
    near = difflib.get_close_matches(name.casefold(), papers, n=3, cutoff=0.6)
    near += difflib.get_close_matches(name.lower(), timm.list_models(), n=3, cutoff=0.6)
    names = ", ".join(papers.get(each, each) for each in near) or "nothing"
    raise UserError(
        f"model must be of the paper's Table 5 or of timm {timm.__version__}. Found: {name}. "
        f"Near it: {names}."
    )


def at_resolution(image_size: int) -> Architecture:
    """DeiT-B for a size of image; sizes that Table 10 has not have no rate there."""
    found = {row.image_size: row.throughput for row in resolutions()}.get(image_size)
    return Architecture(
        label=f"DeiT-B at {image_size} px",
        model=DEIT_B,
        image_size=image_size,
        paper=found,
        paper_what=None if found is None else "Table 10, one V100 16 GB, fp32",
    )
