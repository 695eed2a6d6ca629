"""Configuration: frozen dataclasses that refuse what cannot work when they are made.

Every field's docstring is its help on the command line. Nothing is written after parsing: the
configuration that is saved is the one that ran. Nothing here imports torch.
"""

from fastdeit.config.augment import AugmentConfig
from fastdeit.config.data import DataConfig
from fastdeit.config.distill import DistillConfig
from fastdeit.config.model import ModelConfig
from fastdeit.config.optim import OptimConfig
from fastdeit.config.run import RunConfig
from fastdeit.config.whole import TrainConfig

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "DistillConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "TrainConfig",
]
