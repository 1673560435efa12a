"""Names of the classes of published heads."""

from __future__ import annotations

from pathlib import Path

from bit_backbone.config import BitConfig

IMAGENET_CLASSES = 1000


def imagenet_labels() -> tuple[str, ...]:
    """Returns the 1000 names of ImageNet-1k (ILSVRC-2012), in the order of every BiT head.

    They ship with torchvision, as metadata of its weights.
    """
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads names from a text file, one per line in the order of the classes.

    A byte-order mark and blank lines at the end are left out.

    Raises:
        ValueError: The file holds none, or a line before the last name is blank.
    """
    text = path.read_text(encoding="utf-8-sig").rstrip()
    names = tuple(line.strip() for line in text.splitlines())
    if not names:
        raise ValueError(f"{path} should hold one class name per line, and is empty")
    if "" in names:
        raise ValueError(
            f"{path} should hold one class name per line; line {names.index('') + 1} is blank: "
            "write a name there, or take the line out"
        )
    return names


def class_names(config: BitConfig, names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Returns a name for each class of a head.

    Args:
        config: The classifier's.
        names: Given ones; None for those of the configuration, or else of ImageNet-1k where there
            are 1000 classes, or else "class 0", "class 1", ...

    Raises:
        ValueError: The head has another number of classes than there are names, or none.
    """
    count = config.num_labels
    if not count:
        raise ValueError("classes are named for a checkpoint with a head, and this one has none")
    if names is None and config.id2label is not None:
        names = tuple(config.id2label[i] for i in range(count))
    if names is None and count == IMAGENET_CLASSES:
        names = imagenet_labels()
    if names is None:
        names = tuple(f"class {i}" for i in range(count))
    if len(names) != count:
        raise ValueError(f"a head of {count} classes needs {count} names, got {len(names)}")
    return names
