"""Models come from timm; here they are made, initialised, and all their heads are read."""

from fastdeit.models.build import (
    forward_heads,
    forward_train,
    head_names,
    make_model,
    num_parameters,
    set_distilled_training,
)

__all__ = [
    "forward_heads",
    "forward_train",
    "head_names",
    "make_model",
    "num_parameters",
    "set_distilled_training",
]
