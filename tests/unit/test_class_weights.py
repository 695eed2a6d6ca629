"""Classes weighed in the loss: torch's numbers, in parts and over processes too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from augment_batches import NUM_CLASSES, make_batch
from torch import Tensor, nn

from fastdeit import UserError
from fastdeit.augment import AugmentedBatch, augment
from fastdeit.augment.mix import MixedTargets, dense_targets
from fastdeit.checkpoints.classes import Classes, numbered_classes
from fastdeit.config import TrainConfig
from fastdeit.machine.distributed import World
from fastdeit.models import forward_train
from fastdeit.pipelines.engines.synthetic import synthetic_index
from fastdeit.recipes import fill_recipe
from fastdeit.recipes.entry import changed
from fastdeit.tools.train.command import weigh_session
from fastdeit.training.loop import loss_of, train_step
from fastdeit.training.losses import image_weights, weigh_classes
from fastdeit.training.session import Session, make_session

BATCH = 12
MIXED = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_mode": "elem"}
NO_MIX = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
WEIGHTS = torch.linspace(0.2, 3, NUM_CLASSES)


def config_of(**parts: dict[str, Any]) -> TrainConfig:
    """A convnet without its own randomness, for steps of twelve images."""
    config = changed(fill_recipe("demo-teacher", Path("x")), data={"batch_size": BATCH})
    return changed(config, **{"run": {"device": "cpu"}, **parts})


def session_of(config: TrainConfig, weights: Tensor | None = WEIGHTS) -> Session:
    """Its session, in which batch norm does not know of the batch."""
    session = make_session(config, Classes(numbered_classes(NUM_CLASSES)))
    session.model.eval()
    return replace(session, class_weights=weights)


def batch_of(config: TrainConfig) -> AugmentedBatch:
    """Twelve images, augmented."""
    return augment(make_batch(BATCH, 64), config.augment, 0)


def gradient(session: Session) -> Tensor:
    """Of all parameters."""
    return torch.cat([p.grad.flatten() for p in session.model.parameters() if p.grad is not None])


def of_batch(session: Session, batch: AugmentedBatch) -> Tensor:
    """Logits, with gradients."""
    return forward_train(session.model, batch.images)[0]


def test_weights_from_counts() -> None:
    """N over (K n), K without the classes that have no image, which weigh nothing."""
    labels = np.repeat([0, 1, 3], [6, 3, 1])
    balanced = weigh_classes(labels, 5, "balanced")
    assert balanced.tolist() == pytest.approx([10 / 18, 10 / 9, 0, 10 / 3, 0])
    assert torch.allclose(weigh_classes(labels, 5, "sqrt"), balanced.sqrt())
    assert balanced[labels].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("accumulate", [1, 5])
def test_hard_labels_are_torchs(smoothing: float, accumulate: int) -> None:
    """Loss and gradients of CrossEntropyLoss(weight=...) over the step, in parts too."""
    augmentation = {**NO_MIX, "smoothing": smoothing}
    config = config_of(augment=augmentation, optim={"accumulate": accumulate})
    session, batch = session_of(config), batch_of(config)
    right = nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=smoothing)
    expected = right(of_batch(session, batch), batch.targets.labels)
    expected.backward()
    expected_gradient = gradient(session)
    assert train_step(config, session, batch, 0).item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(gradient(session), expected_gradient, rtol=1e-3, atol=1e-5)
    plain = train_step(config, session_of(config, None), batch, 0).item()
    assert plain != pytest.approx(expected.item(), rel=1e-3)


def test_mixed_labels_are_torchs_probabilities() -> None:
    """Each class's term is weighed, and the sum divided by the weights of the images."""
    config = config_of(augment={**MIXED, "smoothing": 0.1})
    session, batch = session_of(config), batch_of(config)
    dense = dense_targets(batch.targets, NUM_CLASSES, 0.1)
    terms = nn.CrossEntropyLoss(weight=WEIGHTS, reduction="none")(of_batch(session, batch), dense)
    expected = terms.sum() / image_weights(batch.targets, WEIGHTS).sum()
    found = train_step(config, session, batch, 0).item()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_binary_cross_entropy() -> None:
    """All terms of an image are weighed by its labels."""
    config = config_of(augment={**MIXED, "smoothing": 0.0}, optim={"loss": "bce"})
    session, batch = session_of(config), batch_of(config)
    weights = image_weights(batch.targets, WEIGHTS)
    dense = (dense_targets(batch.targets, NUM_CLASSES, 0) > 0).float()
    right = nn.BCEWithLogitsLoss(weight=(weights / weights.mean())[:, None])
    expected = right(of_batch(session, batch), dense)
    found = train_step(config, session, batch, 0).item()
    assert found == pytest.approx(expected.item(), rel=1e-5)


def test_processes_share_the_mean() -> None:
    """Halves of a step in two processes add up to the whole, though one has the rare classes."""

    class OneOfTwo(World):
        """Adds what the other process would."""

        def sum_(self, tensor: Tensor) -> Tensor:
            """The same in both."""
            return tensor.copy_(image_weights(batch.targets, WEIGHTS).sum())

    config = config_of(augment=NO_MIX)
    session, batch = session_of(config), batch_of(config)
    order = batch.targets.labels.argsort()
    batch = replace(
        batch,
        images=batch.images[order],
        targets=MixedTargets(
            *(
                each[order]
                for each in (
                    batch.targets.labels,
                    batch.targets.partner_labels,
                    batch.targets.weight,
                )
            )
        ),
    )
    whole = train_step(config, session, batch, 0).item()
    halves = [
        train_step(config, replace(session, world=OneOfTwo(rank)), half, 0).item()
        for rank, half in enumerate(batch.parts(2))
    ]
    assert sum(halves) == pytest.approx(whole, rel=1e-5)


def test_the_teacher_is_not_weighed() -> None:
    """Of the two terms of a distilled loss the label's alone."""
    distill = {"distillation": "hard", "teacher": Path("unused.pt")}
    config = config_of(augment=NO_MIX)
    session, batch = session_of(config), batch_of(config)
    answer = batch.targets.labels.flip(0)
    label = loss_of(config, session, batch, WEIGHTS)
    taught = nn.functional.cross_entropy(of_batch(session, batch), answer)
    config = changed(config, distill=distill)
    with pytest.raises(UserError, match="class_weights has no effect with --teacher-weight 1"):
        changed(config, distill={"teacher_weight": 1.0}, optim={"class_weights": "sqrt"})
    found = loss_of(config, session, replace(batch, answer=answer), WEIGHTS)
    assert found.item() == pytest.approx(0.5 * (label + taught).item(), rel=1e-5)


def test_from_the_training_set(capsys: pytest.CaptureFixture[str]) -> None:
    """The session gets weights only if they are asked for; beside --sampling it is said."""
    index = synthetic_index(20, NUM_CLASSES)
    index = replace(index, labels=np.minimum(index.labels, 2))

    def weighed(**parts: dict[str, Any]) -> Session:
        config = config_of(**parts)
        return weigh_session(config, session_of(config, None), index)

    assert weighed().class_weights is None
    weights = weighed(optim={"class_weights": "sqrt"}).class_weights
    assert weights is not None and torch.equal(
        weights, weigh_classes(index.labels, NUM_CLASSES, "sqrt")
    )
    assert capsys.readouterr().err == ""
    weighed(optim={"class_weights": "balanced"}, data={"sampling": "sqrt"})
    assert "evened out twice: by --sampling sqrt and --class-weights" in capsys.readouterr().err
