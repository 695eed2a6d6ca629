"""The paper's rows beside an evaluation: which set, which model, which head."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fastdeit import UserError
from fastdeit.paper.heads import table4_part, table4_rate, token_cosines
from fastdeit.paper.published import Training, published
from fastdeit.tools.evaluate.paper_rows import (
    Which,
    evaluation_table,
    explain,
    model_facts,
    paper_facts,
    papers_rows,
    training_of,
    which_set,
)
from fastdeit.training.evaluate import Evaluation, HeadScore

NUMBERS = tuple(map(str, range(1000)))
WORDNET = tuple(f"n{number:08d}" for number in range(1000))


def dataset(num_images: int, classes: tuple[str, ...]) -> Any:
    """A set with so many images."""

    class Some(SimpleNamespace):
        def __len__(self) -> int:
            return num_images

    return Some(class_ids=classes, class_names=classes, path=Path("val.beton"))


@pytest.mark.parametrize(
    ("num_images", "classes", "name"),
    [
        (50_000, WORDNET, "imagenet"),
        (50_000, NUMBERS, "imagenet"),  # a .beton of FFCV's, which keeps no names
        (10_000, NUMBERS, "v2"),
        (10_000, WORDNET, "v2"),  # numbered folders beside LOC_synset_mapping.txt
        (500, NUMBERS, "v2"),
        (500, WORDNET, "imagenet"),
        (50_000, NUMBERS[:20], "none"),
        (500, tuple(f"class {number}" for number in range(1000)), "none"),
    ],
)
def test_sets_are_recognised(num_images: int, classes: tuple[str, ...], name: str) -> None:
    """ImageNet's val, ImageNet-V2, parts of them, and others."""
    assert which_set(dataset(num_images, classes), "auto").name == name


def test_named_classes_are_no_numbered_folders() -> None:
    """Parquet keeps words and no ids: such a set is not ImageNet-V2."""
    index = dataset(500, NUMBERS)
    index.class_names = tuple(f"class {number}" for number in range(1000))
    assert which_set(index, "auto").name == "none"


def test_a_set_can_be_told() -> None:
    """What is asked for holds, but not for other classes."""
    assert which_set(dataset(10_000, NUMBERS), "imagenet").name == "imagenet"
    assert which_set(dataset(50_000, WORDNET), "none").name == "none"
    with pytest.raises(UserError, match=r"Found: v2, and 20 classes in val.beton\. Leave --paper"):
        which_set(dataset(10_000, NUMBERS[:20]), "v2")


def names(timm: str, image_size: int, **training: Any) -> list[tuple[str, str, str, float]]:
    """What the paper has."""
    rows = published(timm, image_size, Training(**training))
    return [(row.table, row.name, row.head, row.top1_pct) for row in rows]


def test_rows_of_a_model() -> None:
    """Table 5 by model and resolution, Table 10 where it has no row, Table 3 for single heads."""
    assert names("resnet50", 224) == [("Table 5", "ResNet-50", "class", 76.2)]
    assert names("deit_base_patch16_224", 384) == [("Table 5", "DeiT-B 384", "class", 83.1)]
    assert names("deit_base_patch16_384", 160) == [("Table 10", "DeiT-B at 160", "class", 79.9)]
    assert names("deit_small_patch16_224", 160) == []
    assert names("test_resnet", 224) == []
    assert names("deit_tiny_distilled_patch16_224", 224) == [
        ("Table 5", "DeiT-Ti distilled", "joint", 74.5),
        ("Table 5", "DeiT-Ti distilled, 1000 epochs", "joint", 76.6),
        ("Table 3", "DeiT-Ti distilled, class embedding", "class", 73.9),
        ("Table 3", "DeiT-Ti distilled, distillation embedding", "dist", 74.6),
    ]
    assert [row.epochs for row in published("deit_tiny_distilled_patch16_224", 224)] == [
        300,
        1000,
        300,
        300,
    ]
    assert {row.epochs for row in published("deit_base_distilled_patch16_384", 384)} == {None}


def test_rows_by_teacher_and_method() -> None:
    """Table 3 without the token, Table 2 by the teacher's model and for the teacher itself."""
    plain, distilled = "deit_base_patch16_224", "deit_base_distilled_patch16_224"
    table5 = ("Table 5", "DeiT-B", "class", 81.8)
    assert names(plain, 224) == [table5]
    assert names(plain, 224, distillation="hard") == [
        table5,
        ("Table 3", "DeiT-B, hard distillation", "class", 83.0),
    ]
    assert names("deit_small_patch16_224", 224, distillation="soft")[1:] == [
        ("Table 3", "DeiT-S, usual distillation", "class", 79.8)
    ]
    assert names(plain, 384, distillation="hard") == [("Table 5", "DeiT-B 384", "class", 83.1)]

    taught = {"distillation": "hard", "teacher": "regnety_080"}
    student = ("Table 2", "DeiT-B, student of RegNetY-8GF", "joint", 82.7)
    assert names(distilled, 224, **taught)[-1] == student
    assert [row[0] for row in names(distilled, 224, **taught)] == [
        *["Table 5"] * 2,
        *["Table 3"] * 2,
        "Table 2",
    ]
    assert names("deit_base_distilled_patch16_384", 384, **taught)[-1][-1] == 83.8
    assert student not in names(distilled, 224, distillation="hard", teacher="resnet50")
    assert all(row[0] != "Table 2" for row in names("deit_tiny_distilled_patch16_224", 224))
    assert names("regnety_120", 224) == [("Table 2", "RegNetY-12GF", "class", 82.4)]
    assert [row[0] for row in names("regnety_160", 224)] == ["Table 5"]


def test_rows_of_other_datasets() -> None:
    """Table 7 by model, resolution and dataset; section 5.4 for CIFAR-10 alone."""
    plain, distilled = "deit_base_patch16_224", "deit_base_distilled_patch16_224"
    there = {"dataset": "cifar10", "is_finetuned": True}
    assert names(plain, 224, **there) == [("Table 7", "DeiT-B", "class", 99.1)]
    assert names(distilled, 384, dataset="inat18", is_finetuned=True) == [
        ("Table 7", "DeiT-B distilled 384", "joint", 80.1)
    ]
    assert names(plain, 32, **there) == names("regnety_160", 224, **there) == []
    assert names(plain, 224, dataset="cifar10") == [("section 5.4", "DeiT-B", "class", 97.5)]
    assert names("regnety_160", 224, dataset="cifar10")[0][-1] == 98.0
    assert names(plain, 224, dataset="cifar100") == []


def test_test_sets_of_other_datasets() -> None:
    """A model of CIFAR-10 is compared on CIFAR-10's test set, by its images and classes."""
    ten = NUMBERS[:10]
    assert which_set(dataset(10_000, ten), "auto", "cifar10") == Which(
        "cifar10", "the model's dataset, and 10,000 images"
    )
    other = which_set(dataset(50_000, ten), "auto", "cifar10")
    assert other == Which("none", "it is not the test set of CIFAR-10, 10,000 images of 10 classes")
    assert which_set(dataset(10_000, NUMBERS), "auto", "cifar10").name == "none"
    assert which_set(dataset(10_000, ten), "none", "cifar10").name == "none"
    which, training = Which("cifar10", ""), Training(dataset="cifar10", is_finetuned=True)
    rows = papers_rows({"model": "deit_base_patch16_224"}, training, 224, which)
    assert paper_facts(rows, which)[0] == {
        "name": "DeiT-B",
        "table": "Table 7",
        "head": "class",
        "set": "cifar10",
        "top1_pct": 99.1,
    }
    assert explain({}, 224, rows, which).startswith("taken for CIFAR-10 (")


def test_what_a_checkpoint_says_of_its_training() -> None:
    """The fields of the run; nothing is known of an imported model."""
    assert training_of({"imported": {}}) == Training()
    config = {
        "data": {"dataset": "cars"},
        "init_from": "b.pt",
        "distill": {"distillation": "hard"},
    }
    assert training_of({"config": config, "teacher_model": "regnety_160"}) == Training(
        dataset="cars", is_finetuned=True, distillation="hard", teacher="regnety_160"
    )


def test_table_of_an_evaluation() -> None:
    """The paper's rows stand below the head they are of, in the column of the set."""
    content = {"model_config": {"model": "deit_tiny_distilled_patch16_224", "depth": None}}
    facts = model_facts(content)
    assert facts == {"model": "deit_tiny_distilled_patch16_224"}
    scores = {
        head: HeadScore(top1, 92.0, 1.25, top1 + 8)
        for head, top1 in (("class", 73.0), ("dist", 74.0), ("joint", 74.25))
    }
    which = Which("imagenet", "as asked")
    rows = papers_rows(facts, Training(), 224, which)
    lines = evaluation_table({"raw": Evaluation(50_000, scores)}, rows, which).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "head of ImageNet top-1 % ReaL top-1 % top-5 % loss",
        "class raw weights 73.00 81.00 92.00 1.2500",
        "class Table 3: DeiT-Ti distilled, class embedding 73.9 n/a",
        "dist raw weights 74.00 82.00 92.00 1.2500",
        "dist Table 3: DeiT-Ti distilled, distillation embedding 74.6 n/a",
        "joint raw weights 74.25 82.25 92.00 1.2500",
        "joint Table 5: DeiT-Ti distilled 74.5 82.1",
        "joint Table 5: DeiT-Ti distilled, 1000 epochs 76.6 83.9",
    ]
    assert explain(facts, 224, rows, which).startswith("taken for ImageNet (as asked); tables:")
    v2 = Which("v2", "as asked")
    assert [
        row["top1_pct"] for row in paper_facts(papers_rows(facts, Training(), 224, v2), v2)
    ] == [62.9, 65.4]
    assert paper_facts(rows, which)[0] == {
        "name": "DeiT-Ti distilled",
        "table": "Table 5",
        "head": "joint",
        "set": "imagenet",
        "top1_pct": 74.5,
        "real_top1_pct": 82.1,
    }


def test_another_shape_is_another_model() -> None:
    """A model of another depth than timm's has no row, and the line says so."""
    content = {"model_config": {"model": "deit_base_patch16_224", "depth": 4}}
    facts, which = model_facts(content), Which("imagenet", "as asked")
    assert papers_rows(facts, Training(), 224, which) == []
    assert "the paper has no deit_base_patch16_224 with depth 4 at 224 pixels" in explain(
        facts, 224, [], which
    )
    assert papers_rows({"model": "deit_base_patch16_224"}, Training(), 224, Which("none", "")) == []


def test_parts_of_table_4() -> None:
    """Who stands where, and what the paper's matrix says of two parts."""
    distilled = "deit_base_distilled_patch16_224"
    assert table4_part("regnety_160", "class") == table4_part("test_resnet", "class") == "convnet"
    assert table4_part("deit_small_patch16_224", "class") == "deit"
    assert table4_part("vit_base_patch16_224", "class") is None
    heads = [table4_part(distilled, head) for head in ("class", "dist", "joint")]
    assert table4_rate(heads[1], heads[2]) == 0.019
    assert table4_rate("groundtruth", "convnet") == table4_rate("convnet", "groundtruth") == 0.171
    assert table4_rate("deit", heads[0]) == 0.109
    assert table4_rate("deit", "deit") is None
    assert table4_rate("deit", None) is None
    assert (token_cosines().learned, token_cosines().last) == (0.06, 0.93)
