"""The teacher: a frozen model that is shown the student's images, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdeit.augment import AugmentedBatch
from fastdeit.augment.compose import MEAN, STD
from fastdeit.checkpoints.classes import Classes, numbered_classes, read_classes, require_classes
from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
from fastdeit.config import DistillConfig, TrainConfig
from fastdeit.errors import UserError
from fastdeit.machine.device import Compute
from fastdeit.machine.distributed import say
from fastdeit.models.initialise import grid_of, take_classes


class Teacher(nn.Module):
    """A frozen model, given images in the student's size and normalisation."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: nn.Module,
        image_size: int,
        mean: tuple[float, ...] = MEAN,
        std: tuple[float, ...] = STD,
        name: str = "",
    ) -> None:
        """Freeze any classifier of images of a size in pixels, with its normalisation by colour.

        `name` is timm's, of its architecture.
        """
        super().__init__()
        self.name = name
        self.model = model.eval().requires_grad_(False)
        self.image_size = image_size
        self.is_normalised_alike = (tuple(mean), tuple(std)) == (MEAN, STD)
        scale = torch.tensor(STD) / torch.tensor(std)
        shift = (torch.tensor(MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Its logits, (B, K) in the precision of the run.

        The images (B, 3, H, W) are float, augmented and mixed, and normalised as the student's.
        """
        if images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            images = F.interpolate(images, size, mode="bicubic", antialias=True)
        if not self.is_normalised_alike:
            images = images * self.scale + self.shift
        logits: Tensor = self.model(images)
        return logits

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode."""
        del mode
        return super().train(False)


def soften(logits: Tensor, config: DistillConfig) -> Tensor:
    """Probabilities at the temperature: (B, K) float32."""
    return (logits.float() / config.temperature).softmax(1)


class Answers(Protocol):
    """What a teacher said before of the images of a run."""

    model: str
    """timm's name of the teacher."""

    def read(self, epoch: int, step: int) -> Tensor:
        """What it said of this process's share of a step, as `answer` gives it, on the CPU."""
        ...


def answer(logits: Tensor, config: DistillConfig) -> Tensor:
    """What a student learns of the teacher's logits (B, K).

    (B,) int64, the decisions, or (B, K) float32, the probabilities at the temperature.
    """
    if config.distillation == "hard":
        return logits.argmax(1)
    probs = soften(logits, config)
    if config.teacher_top_k == 0:
        return probs
    return dense_probs(*likeliest(probs, config.teacher_top_k), probs.shape[1])


def answered(batches: Iterable[AugmentedBatch], answers: Answers) -> Iterator[AugmentedBatch]:
    """Batches with what the teacher said of them, on their device."""
    for batch in batches:
        said, device = answers.read(batch.epoch, batch.step), batch.images.device
        if device.type == "cuda":  # from other memory the host would wait for the copy
            said = said.pin_memory()
        yield replace(batch, answer=said.to(device, non_blocking=True))


def likeliest(probs: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The likeliest classes of (B, K) float32, `top_k` or all, as they are stored.

    Returns:
        (classes (B, k) int64, the likeliest first; their probabilities (B, k) float16)
    """
    top = probs.topk(min(top_k, probs.shape[1]), dim=1)
    return top.indices, top.values.half()


def dense_probs(classes: Tensor, probs: Tensor, num_classes: int) -> Tensor:
    """Probabilities of all classes from those of the likeliest, (B, k), the rest spread evenly.

    (B, num_classes) float32; a row adds up to 1 but for the rounding of float16.
    """
    known = probs.float()
    num_others = num_classes - known.shape[1]
    rest = (1 - known.sum(1, keepdim=True)).clamp_min(0) / max(1, num_others)
    return rest.expand(-1, num_classes).scatter(1, classes, known)


def load_teacher(
    config: TrainConfig, classes: Classes, compute: Compute, is_main: bool = True
) -> Teacher | None:
    """Load the teacher of a distilled run, a checkpoint or a model of timm, frozen, on the device.

    Its logits are those of `classes`, the training set's, in their order. `is_main` tells whether
    to say how they were matched. Raises UserError if it cannot be had, knows other classes, or
    takes no images of the size.
    """
    distill, size = config.distill, config.data.image_size
    if distill.teacher is None:
        return None
    if distill.timm_teacher is not None:
        model, own_size, mean, std = fetch(distill.timm_teacher, len(classes))
        name, known = distill.timm_teacher.split(".")[0], classes_of_timm(len(classes))
    else:
        content = load_checkpoint(distill.teacher)
        known = read_classes(content)
        model, own_size = model_from_checkpoint(content), content["image_size"]
        mean, std, name = MEAN, STD, content["model_config"]["model"]
    located = require_classes(
        classes,
        known,
        f"teacher must know the classes of the training set ({len(classes)})",
        ("the training set", str(distill.teacher)),
        "Train the teacher on the same data.",
    )
    if is_main and located.explain("the training set"):
        say(f"{distill.teacher}: {located.explain('the training set')}")
    take_classes(model, located)
    has_grid = grid_of(model) is not None
    # A convnet takes any size, as the paper's teacher does when the student is fine-tuned.
    shown = distill.teacher_image_size or (own_size if has_grid else size)
    if has_grid and shown != own_size:
        raise UserError(
            f"teacher_image_size must be the transformer's own ({own_size}). Found: {shown}. Leave "
            f"out --teacher-image-size, or fine-tune the teacher at {shown}."
        )
    teacher = Teacher(model, shown, mean, std, name)
    compute.place(teacher)
    return teacher


def classes_of_timm(count: int) -> Classes:
    """What the outputs of a model of timm stand for, which only their number tells."""
    if timm.data.infer_imagenet_subset({"num_classes": count}) != "imagenet-1k":
        return Classes(numbered_classes(count))
    return Classes(numbered_classes(count), tuple(timm.data.ImageNetInfo().label_names()))


def fetch(
    name: str, num_classes: int
) -> tuple[nn.Module, int, tuple[float, ...], tuple[float, ...]]:
    """A model of timm with the weights that timm fetches."""
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # of any of the libraries that timm fetches with
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"teacher must be a model whose weights timm can fetch. Found: {name} ({reason}). "
            "Give a checkpoint, or a name of timm.list_pretrained()."
        ) from error
    settings: Any = model.pretrained_cfg
    found = int(settings["num_classes"])
    if found != num_classes:
        raise UserError(
            f"teacher must know the classes of the training set ({num_classes}). Found: {name} "
            f"with {found}. Give another teacher, or fine-tune it on the same data."
        )
    size = int(settings["input_size"][-1])
    return model, size, tuple(settings["mean"]), tuple(settings["std"])
