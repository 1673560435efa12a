"""Gives a data set the labels of another one; categories are matched by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bit_backbone.datasets.coco.annotations import Annotations
from bit_backbone.datasets.coco.problems import AnnotationError, Problem


def align(file: Path, found: Annotations, names: Sequence[str]) -> None:
    """Orders the categories of a data set by a list of names.

    Missing categories get unused ids. Objects of other categories are left out. Both are listed in
    ``found.problems``.

    Args:
        file: The data set's name in messages.
        found: The annotations, changed in place.
        names: Names of the categories, label 1 first.

    Raises:
        AnnotationError: The data set has none of the names, or several categories share one.
    """
    own = {category["name"]: category for category in found.categories}
    if list(names) == [category["name"] for category in found.categories]:
        return  # categories may share a name here
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
