"""A data set with the labels of another: categories are the same where their names are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bit_backbone.datasets.coco.annotations import Annotations
from bit_backbone.datasets.coco.problems import AnnotationError, Problem


def align(file: Path, found: Annotations, names: Sequence[str]) -> None:
    """Puts the categories of a data set into an order of names.

    Those that it lacks get ids that it does not use. Objects of other categories are left out. Both
    are listed in ``found.problems``.

    Args:
        file: What messages call the data set.
        found: What was read, which is changed.
        names: Label 1 first.

    Raises:
        AnnotationError: No name is the data set's, or one stands for several categories.
    """
    own = {category["name"]: category for category in found.categories}
    if list(names) == [category["name"] for category in found.categories]:
        return  # of which some may share a name
    shared = [name for name, count in Counter(c["name"] for c in found.categories).items()
              if count > 1]  # fmt: skip
    if shared or len(set(names)) < len(names) or not own.keys() & set(names):
        detail = f"the categories should have the names {list(names)}, each once; got {list(own)}"
        raise AnnotationError(file, [Problem("other categories", detail, file.name)],
                              "Give a data set of the same categories.")  # fmt: skip
    _note_missing(file, found, [name for name in names if name not in own])
    found.others = [category for name, category in own.items() if name not in names]
    _leave_out_others(file, found)
    free = max(category["id"] for category in found.categories) + 1
    points = next((c["keypoints"] for c in found.categories if "keypoints" in c), None)
    extra = {} if points is None else {"keypoints": points}
    found.categories = [
        own.get(name) or {"id": free + place, "name": name, **extra}
        for place, name in enumerate(names)
    ]


def _note_missing(file: Path, found: Annotations, names: list[str]) -> None:
    if names:
        detail = f"no category is called {', '.join(names)}"
        found.problems.append(Problem("missing category", detail, file.name, action="not counted"))


def _leave_out_others(file: Path, found: Annotations) -> None:
    others = {category["id"]: category["name"] for category in found.others}
    counts = Counter(dict.fromkeys(others.values(), 0))
    for image_id, objects in found.by_image.items():
        counts.update(others[o["category_id"]] for o in objects if o["category_id"] in others)
        found.by_image[image_id] = [o for o in objects if o["category_id"] not in others]
    for name, count in counts.items():
        detail = f"the model has no {name}: {count} objects"
        found.problems.append(Problem("other category", detail, file.name, action="left out"))
