"""Whether a model and a dataset mean the same classes."""

from __future__ import annotations


def numbered_classes(count: int) -> tuple[str, ...]:
    """The names of classes of which only the number is known: 0 to count - 1."""
    return tuple(map(str, range(count)))


def are_numbered(class_names: tuple[str, ...]) -> bool:
    """Whether a model's classes are only numbered, as after an import without names."""
    return class_names == numbered_classes(len(class_names))


def knows_classes(of_model: tuple[str, ...], of_data: tuple[str, ...]) -> bool:
    """Whether a model's outputs stand for the classes of a dataset.

    Names that are only numbered are taken for the dataset's classes in their order.
    """
    return of_model == of_data or (len(of_model) == len(of_data) and are_numbered(of_model))
