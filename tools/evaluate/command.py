"""`fastdeit evaluate`: accuracy of a checkpoint, head by head, beside the paper's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from fastdeit.errors import require
from fastdeit.files import replace_file
from fastdeit.measured.run import BY_CLASS, EVALUATION, MOST_CLASSES
from fastdeit.tools.evaluate.by_class import (
    check_confusion,
    check_drawable,
    class_facts,
    explain_classes,
    titles_of,
    write_confusion,
)
from fastdeit.tools.evaluate.paper_rows import (
    evaluation_table,
    explain,
    model_facts,
    paper_facts,
    papers_rows,
    training_of,
    which_set,
)
from fastdeit.tools.evaluate.validation import (
    DEFAULT_PASS,
    PassOptions,
    joined_reader,
    locate_set,
)


def evaluate(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    dataset: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DATASET")],
    /,
    weights: Literal["raw", "ema", "both"] = "raw",
    image_size: int | None = None,
    classes: Literal["all", "subset"] = "all",
    real: Path | None = None,
    confusion: Path | None = None,
    paper: Literal["auto", "imagenet", "v2", "none"] = "auto",
    reading: PassOptions = DEFAULT_PASS,
) -> int:
    """Evaluate a checkpoint: top-1, top-5 and loss of each head, beside the paper's rows.

    Also top-1 as the mean over the classes, and the worst of them. The last line on stdout is one
    JSON object; evaluation.json beside the checkpoint holds it, and how each class did. Several
    GPUs: torchrun --nproc-per-node=8 --no-python fastdeit evaluate ...

    Args:
        checkpoint: RUN/checkpoint.pt of `fastdeit train`.
        dataset: a .beton, a folder of shards or an ImageFolder; every image counts once.
        weights: raw, as trained, ema, their moving average, or both in one pass.
        image_size: side of the images in pixels, for which position embeddings are resized; unless
            given the checkpoint's.
        classes: all, those of the model, whatever their order; or subset for a set with some of
            them, such as ImageNet-A and -R, among which alone the model chooses then.
        real: real.json of ImageNet-ReaL, for its top-1 too; DATASET is ImageNet's val then.
        confusion: FILE.csv or, for up to 200 classes, FILE.png: how often each class (rows) was
            taken for each (columns) by the last head, and by raw weights where there are both.
        paper: which of the paper's columns stands beside: auto knows ImageNet's val and ImageNet-V2
            by their images and classes (V2's are folders named 0 to 999), and the test set of the
            model's own dataset.
        reading: how images are read and models computed.

    Returns:
        0.
    """
    from fastdeit.checkpoints.classes import read_classes
    from fastdeit.checkpoints.file import load_checkpoint, model_from_checkpoint
    from fastdeit.models.initialise import take_classes
    from fastdeit.pipelines.datasets.index import open_dataset
    from fastdeit.pipelines.datasets.real_labels import read_real_labels
    from fastdeit.training.evaluate import evaluate_all

    require(
        real is None or classes == "all",
        "real",
        real,
        "counts all of ImageNet's classes, and has no effect with classes subset",
        "Leave --real or --classes out.",
    )
    if confusion is not None:
        check_confusion(confusion)
    with joined_reader(reading, image_size) as reader:
        content = load_checkpoint(checkpoint)
        index = open_dataset(dataset)
        num_classes = len(index.class_names)
        if confusion is not None:
            check_drawable(confusion, num_classes)
        located = locate_set(index, content, checkpoint, classes == "subset")
        training = training_of(content)
        which = which_set(index, paper, training.dataset)
        right_labels = None if real is None else read_real_labels(real, index)
        kinds: tuple[Literal["raw", "ema"], ...] = (
            ("raw", "ema") if weights == "both" else (weights,)
        )
        device, size = reader.compute.device, image_size or content["image_size"]
        models = [model_from_checkpoint(content, kind, image_size) for kind in kinds]
        for model in models:
            take_classes(model, located)
            model.to(device)
        with reader.one_pass(index, size, "evaluating") as (shown, batches):
            results = evaluate_all(
                models,
                shown,
                reader.compute,
                right_labels,
                reader.world,
                num_classes,
                with_confusion=confusion is not None or num_classes <= MOST_CLASSES,
            )
            replaced = batches.replacements.num_samples(reader.world)
    if not reader.world.is_main:
        return 0
    facts: dict[str, Any] = model_facts(content)
    rows = papers_rows(facts, training, size, which)
    print(evaluation_table(dict(zip(kinds, results, strict=True)), rows, which), file=sys.stderr)
    print(explain(facts, size, rows, which), file=sys.stderr)
    counts = results[0].classes
    assert counts is not None
    titles = titles_of(index.classes, read_classes(content), located)
    print(explain_classes(counts, titles, kinds[0]), file=sys.stderr)
    facts = {
        "checkpoint": str(checkpoint),
        **facts,
        "dataset": str(dataset),
        "set": which.name,
        "num_classes": num_classes,
        "image_size": size,
        "eval_crop_ratio": reading.eval_crop_ratio,
        "weights": weights,
        "compute": reader.compute.reason,
        **results[0].to_dict(),
        **({"ema_heads": results[1].to_dict()["heads"]} if weights == "both" else {}),
        "paper": paper_facts(rows, which),
    }
    if replaced:
        facts["images_replaced"] = replaced
    print(json.dumps(facts))
    facts[BY_CLASS] = class_facts(counts, titles, kinds[0])
    replace_file(checkpoint.with_name(EVALUATION), (json.dumps(facts) + "\n").encode())
    if confusion is not None and counts.confusion is not None:
        write_confusion(confusion, counts.confusion, titles)
    return 0
