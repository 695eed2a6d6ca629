"""Distillation: the equations in float64, the published arithmetic, teachers of all kinds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from fastdeit import UserError
from fastdeit.augment.compose import MEAN, STD
from fastdeit.checkpoints.classes import Classes
from fastdeit.checkpoints.file import checkpoint_content, save_checkpoint
from fastdeit.config import DistillConfig, ModelConfig
from fastdeit.machine.device import Compute
from fastdeit.models import make_model
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.training.losses import distilled_loss
from fastdeit.training.teacher import Teacher, answer, classes_of_timm, fetch, load_teacher

NUM_CLASSES = 11
SOMEWHERE = Path("somewhere")
CPU = Compute(torch.device("cpu"), None, "a test")


def config_of(kind: Literal["hard", "soft"], **changes: Any) -> DistillConfig:
    """A teacher that need not exist."""
    return DistillConfig(distillation=kind, teacher=SOMEWHERE, **changes)


def probs_of(logits: torch.Tensor, temperature: float = 1.0) -> NDArray[np.float64]:
    """Softmax in float64."""
    values = np.exp(logits.double().numpy() / temperature)
    result: NDArray[np.float64] = values / values.sum(1, keepdims=True)
    return result


@pytest.fixture
def logits() -> torch.Tensor:
    """Class head, distillation head, teacher: (3, 4, K)."""
    return 3 * torch.randn(3, 4, NUM_CLASSES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, 0.3, 1.0])
def test_hard_is_equation_3(logits: torch.Tensor, weight: float | None, smoothing: float) -> None:
    """Half the label's loss and half the cross-entropy with the decision, or the shares given."""
    _, learner, teacher = logits
    config = config_of("hard", teacher_weight=weight, teacher_smoothing=smoothing)
    found = distilled_loss(torch.tensor(1.7), learner, answer(teacher, config), config)
    log_probs, decision = np.log(probs_of(learner)), probs_of(teacher).argmax(1)
    own = log_probs[np.arange(4), decision]
    taught = -((1 - smoothing) * own + smoothing * log_probs.mean(1)).mean()
    share = 0.5 if weight is None else weight
    assert found.item() == pytest.approx((1 - share) * 1.7 + share * taught, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("weight", [None, 0.6])
def test_soft_is_equation_2(logits: torch.Tensor, weight: float | None, temperature: float) -> None:
    """Tau squared times the divergence of the student's from the teacher's probabilities."""
    _, learner, teacher = logits
    config = config_of("soft", teacher_weight=weight, temperature=temperature)
    found = distilled_loss(torch.tensor(1.7), learner, answer(teacher, config), config)
    theirs, own = probs_of(teacher, temperature), probs_of(learner, temperature)
    taught = temperature**2 * (theirs * np.log(theirs / own)).sum(1).mean()
    share = 0.1 if weight is None else weight
    assert found.item() == pytest.approx((1 - share) * 1.7 + share * taught, abs=1e-6)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_upstream_is_the_published_arithmetic(
    logits: torch.Tensor, kind: Literal["hard", "soft"]
) -> None:
    """Deit losses.py: the sum over all numbers, divided by batch times classes."""
    _, learner, teacher = logits
    config = config_of(kind, teacher_weight=0.4)
    found = distilled_loss(torch.tensor(1.7), learner, answer(teacher, config), config, "upstream")
    if kind == "soft":
        tau = config.temperature
        taught = (
            F.kl_div(
                F.log_softmax(learner / tau, dim=1),
                F.log_softmax(teacher / tau, dim=1),
                reduction="sum",
                log_target=True,
            )
            * (tau * tau)
            / learner.numel()
        )
    else:
        taught = F.cross_entropy(learner, teacher.argmax(dim=1))
    assert found.item() == pytest.approx(0.6 * 1.7 + 0.4 * taught.item(), abs=1e-6)


def save(tmp_path: Path, model: str, image_size: int, num_classes: int = 4) -> Path:
    """A checkpoint with random weights."""
    config = ModelConfig(model=model)
    net = make_model(config, num_classes, image_size)
    classes = Classes(tuple(f"class{number}" for number in range(num_classes)))
    path = tmp_path / "teacher.pt"
    save_checkpoint(path, checkpoint_content(net, config, image_size, classes))
    return path


CLASSES = Classes(tuple(f"class{number}" for number in range(4)))


def train_config(teacher: Path, **distill: Any) -> Any:
    """A student of 48 pixels."""
    config = fill_recipe("demo", SOMEWHERE)
    return changed(
        config, data={"image_size": 48}, distill={"teacher": teacher, **distill}, model={}
    )


def test_a_convnet_sees_what_the_student_sees(tmp_path: Path) -> None:
    """The same pixels, unless it is given another size."""
    path = save(tmp_path, "test_resnet", 64)
    images = torch.randn(2, 3, 48, 48)
    teacher = load_teacher(train_config(path), CLASSES, CPU)
    assert teacher is not None and teacher.image_size == 48
    assert torch.equal(teacher(images), teacher.model(images))
    larger = load_teacher(train_config(path, teacher_image_size=96), CLASSES, CPU)
    assert larger is not None
    expected = F.interpolate(images, (96, 96), mode="bicubic", antialias=True)
    assert torch.equal(larger(images), larger.model(expected))
    assert not torch.equal(larger(images), teacher(images))


def test_a_transformer_sees_its_own_size(tmp_path: Path) -> None:
    """It takes no other, and says so."""
    path = save(tmp_path, "test_vit", 64)
    teacher = load_teacher(train_config(path), CLASSES, CPU)
    assert teacher is not None and teacher.image_size == 64
    assert teacher(torch.randn(2, 3, 48, 48)).shape == (2, 4)
    with pytest.raises(UserError, match=r"must be the transformer's own \(64\). Found: 48"):
        load_teacher(train_config(path, teacher_image_size=48), CLASSES, CPU)


def test_it_is_frozen_and_stays_in_evaluation(tmp_path: Path) -> None:
    """Its batch norm does not move, whoever calls train."""
    teacher = load_teacher(train_config(save(tmp_path, "test_resnet", 64)), CLASSES, CPU)
    assert teacher is not None
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()
    teacher(torch.randn(4, 3, 48, 48))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(value.requires_grad for value in teacher.parameters())


def test_another_normalisation() -> None:
    """Pixels arrive as the teacher would have them from its own."""

    class Same(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    pixels = torch.rand(2, 3, 8, 8)
    mean, std = (0.5, 0.4, 0.3), (0.5, 0.25, 1.0)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)

    found = Teacher(Same(), 8, mean, std)(normalised(MEAN, STD))
    torch.testing.assert_close(found, normalised(mean, std), rtol=1e-5, atol=1e-6)
    own = normalised(MEAN, STD)
    assert torch.equal(Teacher(Same(), 8)(own), own)


def test_a_teacher_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timm fetches the weights; size and normalisation are those of its configuration."""
    model = timm.create_model("test_vit", num_classes=4)
    asked: list[tuple[str, bool]] = []

    def create(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", create)
    model.pretrained_cfg = {
        **model.pretrained_cfg,
        "num_classes": 4,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    teacher = load_teacher(train_config(Path("timm:test_vit.a1")), CLASSES, CPU)
    assert asked == [("test_vit.a1", True)]
    assert teacher is not None
    assert teacher.image_size == 160 and not teacher.is_normalised_alike
    with pytest.raises(UserError, match=r"classes of the training set \(3\). Found: test_vit.a1 "):
        fetch("test_vit.a1", 3)


def test_outputs_of_timm() -> None:
    """A thousand are ImageNet's, in the order of the WordNet ids; of others nothing is known."""
    known = classes_of_timm(1000)
    assert known.ids[:2] == ("n01440764", "n01443537") and list(known.ids) == sorted(known.ids)
    assert known.are_numbered and len(known) == 1000
    assert classes_of_timm(4).ids == ()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError("Unknown model (foo)"), "Unknown model (foo)"),
        (OSError("We couldn't connect\nto it"), "We couldn't connect"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_teacher_that_timm_cannot_fetch(
    error: Exception, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, with its reason."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(UserError) as raised:
        fetch("foo", 4)
    assert f"Found: foo ({text})." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_teacher_of_other_classes(tmp_path: Path) -> None:
    """It is refused, with how many it knows."""
    path = save(tmp_path, "test_resnet", 64, 5)
    with pytest.raises(UserError, match=r"classes of the training set \(4\)"):
        load_teacher(train_config(path), CLASSES, CPU)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"temperature": 2.0}, "temperature has no effect without --distillation soft"),
        ({"teacher_weight": 0.2}, "teacher_weight has no effect without --distillation hard"),
        ({"teacher_image_size": 64}, "teacher_image_size has no effect without"),
        (
            {"distillation": "hard", "teacher": SOMEWHERE, "temperature": 2.0},
            "temperature has no effect without --distillation soft",
        ),
        (
            {"distillation": "soft", "teacher": SOMEWHERE, "teacher_smoothing": 0.1},
            "teacher_smoothing has no effect without --distillation hard",
        ),
        (
            {"distillation": "soft", "teacher": SOMEWHERE, "temperature": 0.0},
            "temperature must be above 0. Found: 0.0",
        ),
        (
            {"distillation": "hard", "teacher": SOMEWHERE, "teacher_weight": 1.5},
            "teacher_weight must be above 0 and at most 1. Found: 1.5",
        ),
        (
            {"distillation": "hard", "teacher": SOMEWHERE, "teacher_smoothing": 1.0},
            "teacher_smoothing must be at least 0 and below 1. Found: 1.0",
        ),
        (
            {"distillation": "hard", "teacher": SOMEWHERE, "teacher_image_size": 8},
            "teacher_image_size must be at least 16. Found: 8",
        ),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], text: str) -> None:
    """An option that cannot act, or a number that makes no sense, is refused."""
    with pytest.raises(UserError, match=text):
        DistillConfig(**changes)


def test_the_head_that_learns(tmp_path: Path) -> None:
    """The distillation head where there is one, else the only head (the paper's usual and hard)."""
    from fastdeit.training.loop import loss_of

    logits = torch.randn(2, 2, 4)
    path = save(tmp_path, "test_resnet", 64)
    for kind in ("hard", "soft"):
        config = train_config(path, distillation=kind)
        said = torch.randn(2, 4)
        losses = []
        for head in (None, logits[1]):
            batch = SimpleNamespace(
                images=torch.zeros(2, 3, 48, 48),
                answer=None,
                targets=SimpleNamespace(
                    labels=torch.tensor([0, 1]),
                    partner_labels=torch.tensor([0, 1]),
                    weight=torch.ones(2),
                ),
            )
            output = logits[0] if head is None else (logits[0], head)
            session: Any = SimpleNamespace(
                forward=lambda _, output=output: output, teacher=lambda _, said=said: said
            )
            losses.append(loss_of(config, session, batch).item())  # type: ignore[arg-type]
        label = F.cross_entropy(logits[0], torch.tensor([0, 1]), label_smoothing=0.1)
        for found, learner in zip(losses, logits, strict=True):
            expected = distilled_loss(label, learner, answer(said, config.distill), config.distill)
            assert found == pytest.approx(expected.item(), abs=1e-6)
