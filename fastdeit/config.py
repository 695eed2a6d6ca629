"""Configuration: frozen dataclasses that refuse what cannot work when they are made.

Every field's docstring is its help on the command line. Nothing is written after parsing: the
configuration that is saved is the one that ran.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastdeit.augment_config import AugmentConfig
from fastdeit.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read, and how it is cut into batches."""

    train: Path
    """Training set: a .beton, a folder of WebDataset shards or an ImageFolder."""
    val: Path
    """Validation set, in any of the same containers."""
    engine: Literal["auto", "ffcv", "dali", "pil", "synthetic"] = "auto"
    """What decodes: ffcv (.beton only), dali, pil, or the fastest that is installed; synthetic
    is noise, to see how fast the rest is."""
    image_size: int = 224
    """Side of the square images that the model sees, in pixels."""
    batch_size: int = 1024
    """Images a step over all processes, repeats counted (the paper's 1,024)."""
    repeats: int = 3
    """Repeated augmentation: how often an image is shown in an epoch, 1 to switch it off."""
    train_crop: Literal["auto", "resized", "padded"] = "auto"
    """resized (RandomResizedCrop), padded (a random part of the image with a black border of 4
    pixels), or auto: padded up to 32 pixels, as DeiT does."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and greatest part of the image's area in a resized crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Least and greatest width over height of a resized crop."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How pixels are resampled, in training and evaluation."""
    eval_crop_ratio: float = 0.875
    """Evaluation resizes the shorter side to image_size divided by this, then cuts the centre."""
    bad_images: Literal["stop", "skip"] = "stop"
    """stop at an image that does not decode, or show its neighbour in its place, and log it."""
    threads: int = 0
    """Decoding threads; 0 takes this process's share of the cores that it may use."""
    dali_device: Literal["cpu", "gpu"] = "cpu"
    """Where DALI decodes: cpu gives PIL's pixels; gpu (with the JPEG engine) differs a little."""
    hw_decoder_load: float = 0.65
    """Part of the images for the GPU's JPEG engine, with --dali-device gpu."""

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        require(
            0 < low <= high <= 1,
            "crop_scale",
            self.crop_scale,
            "must be two numbers above 0 and at most 1, the smaller first",
            "Pass --crop-scale 0.08 1, say.",
        )
        low, high = self.crop_ratio
        require(
            0 < low <= high,
            "crop_ratio",
            self.crop_ratio,
            "must be two numbers above 0, the smaller first",
            "Pass --crop-ratio 0.75 1.333, say.",
        )
        require(
            0 <= self.hw_decoder_load <= 1,
            "hw_decoder_load",
            self.hw_decoder_load,
            "must be from 0 to 1",
            "Pass --hw-decoder-load 0.65, say.",
        )
        require(
            self.batch_size > 0,
            "batch_size",
            self.batch_size,
            "must be at least 1",
            "Pass --batch-size 128, say.",
        )
        require(
            self.image_size >= 16,
            "image_size",
            self.image_size,
            "must be at least 16 pixels",
            "Pass --image-size 224, say.",
        )
        require(
            1 <= self.repeats <= 255,
            "repeats",
            self.repeats,
            "must be from 1 to 255",
            "Pass --repeats 3 (the paper) or 1 (off).",
        )
        require(
            0 < self.eval_crop_ratio <= 1,
            "eval_crop_ratio",
            self.eval_crop_ratio,
            "must be above 0 and at most 1",
            "Pass --eval-crop-ratio 0.875, say.",
        )
        require(
            self.threads >= 0,
            "threads",
            self.threads,
            "must be 0 or more",
            "Pass --threads 0 for this process's share.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A timm model, and how it differs from timm's defaults."""

    model: str
    """Name of a timm model; the *_distilled_* ones carry a distillation token."""
    drop_path: float = 0.0
    """Stochastic depth of the deepest block, growing linearly from 0 (Table 9: 0.1)."""
    patch_size: int | None = None
    """Side of a patch in pixels; None as in timm (transformers only)."""
    embed_dim: int | None = None
    """Width; None as in timm (transformers only)."""
    depth: int | None = None
    """Number of blocks; None as in timm (transformers only)."""
    num_heads: int | None = None
    """Attention heads; None as in timm (transformers only)."""

    def __post_init__(self) -> None:
        require(
            0 <= self.drop_path < 1,
            "drop_path",
            self.drop_path,
            "must be at least 0 and below 1",
            "Pass --drop-path 0.1, say.",
        )
        for name in ("patch_size", "embed_dim", "depth", "num_heads"):
            value = getattr(self, name)
            require(
                value is None or value > 0,
                name,
                value,
                "must be above 0",
                f"Leave --{name.replace('_', '-')} out, or pass None for timm's value.",
            )

    @property
    def is_distilled(self) -> bool:
        """Whether the architecture has a distillation token and head."""
        return "distilled" in self.model


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW with a linear warm-up and a cosine (Table 9)."""

    epochs: int = 300
    """How many epochs to train."""
    base_lr: float = 5e-4
    """Learning rate at a batch of 512; the one used is base_lr x batch_size / 512."""
    min_lr: float = 1e-5
    """Where the cosine ends (not scaled by the batch, as upstream)."""
    warmup_epochs: float = 5
    """Length of the linear warm-up from warmup_lr."""
    warmup_lr: float = 1e-6
    """Where the warm-up starts (not scaled by the batch, as upstream)."""
    weight_decay: float = 0.05
    """AdamW's decoupled weight decay, on matrices only."""
    loss: Literal["ce", "bce"] = "ce"
    """ce: cross-entropy against mixed, smoothed labels; bce: binary cross-entropy in which each
    mixed label counts fully (DeiT-III), without smoothing."""
    clip_grad: float = 0.0
    """Greatest norm of all gradients together; larger ones are scaled down. 0 switches it off."""
    ema_decay: float = 0.99996
    """How much of the moving average of the weights a step keeps; 0 for no average (DeiT: 0.99996).
    Its accuracy is evaluated and its weights are saved beside the model's."""

    def __post_init__(self) -> None:
        require(
            self.epochs > 0, "epochs", self.epochs, "must be at least 1", "Pass --epochs 300, say."
        )
        require(
            self.base_lr > 0,
            "base_lr",
            self.base_lr,
            "must be above 0",
            "Pass --base-lr 5e-4, say.",
        )
        require(
            0 <= self.warmup_epochs < self.epochs,
            "warmup_epochs",
            self.warmup_epochs,
            f"must be at least 0 and below epochs ({self.epochs})",
            f"Pass --warmup-epochs {self.epochs / 10:g}, say.",
        )
        require(
            0 <= self.ema_decay < 1,
            "ema_decay",
            self.ema_decay,
            "must be at least 0 and below 1",
            "Pass --ema-decay 0.99996 (DeiT) or 0 (off).",
        )
        for name in ("min_lr", "warmup_lr", "weight_decay", "clip_grad"):
            value = getattr(self, name)
            require(
                value >= 0,
                name,
                value,
                "must be 0 or more",
                f"Pass --{name.replace('_', '-')} 0, say.",
            )

    def lr(self, batch_size: int) -> float:
        """The peak learning rate at a batch size (DeiT: linear in the batch, over 512)."""
        return self.base_lr * batch_size / 512


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """Distillation through the token (section 4 of the paper)."""

    distillation: Literal["none", "hard"] = "none"
    """hard: the distillation head learns the teacher's decision (equation 3)."""
    teacher: Path | None = None
    """Checkpoint of the teacher, written by `fastdeit train`."""

    def __post_init__(self) -> None:
        if self.distillation == "none":
            require(
                self.teacher is None,
                "teacher",
                self.teacher,
                "has no effect without distillation",
                "Pass --distillation hard, or no teacher.",
            )
        else:
            require(
                self.teacher is not None,
                "teacher",
                None,
                f"is needed for --distillation {self.distillation}",
                "Pass --teacher RUN/checkpoint.pt.",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Where and how a run computes."""

    out: Path
    """Folder of the run: configuration, metrics, checkpoint."""
    seed: int = 0
    """Seed of the order, the crops, the augmentation and the initial weights."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto is bf16 autocast on a GPU and fp32 on a CPU."""
    compat: Literal["none", "upstream"] = "none"
    """upstream: do what the published code really did where it differs; so far the order of the
    samples, which then depends on the number of processes and not on the seed."""
    compile: bool = False
    """Run the model through torch.compile."""
    log_every_steps: int = 10
    """How often the loss is read from the device; each reading waits for it."""
    overwrite: bool = False
    """Replace a run that is already in the folder."""
    resume: Literal["never", "auto"] = "never"
    """auto: go on with the run in the folder after its last finished epoch, to the same weights as
    without the stop; begin it if there is none."""

    def __post_init__(self) -> None:
        require(
            0 <= self.seed < 1 << 63,
            "seed",
            self.seed,
            "must be from 0 to 2^63 - 1",
            "Pass --seed 0, say.",
        )
        require(
            not (self.overwrite and self.resume == "auto"),
            "overwrite",
            self.overwrite,
            "must not be given with --resume auto, which keeps what is there",
            "Leave one out.",
        )
        require(
            self.log_every_steps > 0,
            "log_every_steps",
            self.log_every_steps,
            "must be at least 1",
            "Pass --log-every-steps 10, say.",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that decides a run."""

    data: DataConfig
    model: ModelConfig
    run: RunConfig
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    dry_run: bool = False
    """Print the resolved configuration and stop."""

    def __post_init__(self) -> None:
        if self.augment.cutmix_minmax is not None:
            low, high = (int(self.data.image_size * side) for side in self.augment.cutmix_minmax)
            require(
                low < high,
                "cutmix_minmax",
                self.augment.cutmix_minmax,
                f"must leave a side to choose at {self.data.image_size} pixels",
                "Pass --cutmix-minmax 0.2 0.8, say.",
            )
        require(
            self.optim.loss != "bce" or self.augment.smoothing == 0,
            "smoothing",
            self.augment.smoothing,
            "must be 0 with --loss bce, for which every label above 0 is a whole one",
            "Pass --smoothing 0.",
        )
        if self.distill.distillation != "none":
            require(
                self.model.is_distilled,
                "model",
                self.model.model,
                "must have a distillation token when --distillation is on",
                "Pass --model deit_small_distilled_patch16_224, say.",
            )
        require(
            not (self.model.is_distilled and self.distill.distillation == "none"),
            "distillation",
            "none",
            f"must be on for the distilled model {self.model.model}",
            "Pass --distillation hard --teacher PATH, or a model without the token.",
        )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as nested plain types, as saved in a run's config.json."""
        return jsonable(dataclasses.asdict(self))  # type: ignore[no-any-return]


def jsonable(value: Any) -> Any:
    """Turn nested dicts, sequences and paths into what JSON holds."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return str(value) if isinstance(value, Path) else value
