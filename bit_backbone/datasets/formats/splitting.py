"""Splits a test set off a data set that has none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bit_backbone.datasets.coco.document import Document

_SPLIT = 18  # makes these draws independent of others from the same seed


def split_document(document: Document, share: float, seed: int) -> tuple[Document, Document]:
    """Divides a data set by image.

    The division depends on the seed and the images' names, but not on their order.

    Args:
        document: The whole data set.
        share: Fraction of the images in the test set, between 0 and 1.
        seed: Chooses the test images.

    Returns:
        The training and the test set; each has at least one image.

    Raises:
        ValueError: ``share`` is out of range, or there are fewer than two images.
    """
    images = document.content["images"]
    if not 0 < share < 1:
        raise ValueError(f"the share of the test set must lie between 0 and 1, got {share}")
    if len(images) < 2:
        raise ValueError(
            f"{document.file} has {len(images)} image to divide: at least 2 are needed"
        )
    order = sorted(range(len(images)), key=lambda i: str(images[i].get("file_name")))
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    drawn = np.random.default_rng([seed, _SPLIT]).permutation(len(images))[:count]
    test = {order[position] for position in drawn}
    return _only(document, set(range(len(images))) - test), _only(document, test)


def _only(document: Document, kept: set[int]) -> Document:
    content = document.content
    images = [image for i, image in enumerate(content["images"]) if i in kept]
    lost = {_key(image.get("id")) for i, image in enumerate(content["images"]) if i not in kept}
    # Annotations of unknown images are kept, so that the checks report them.
    own = [o for o in content["annotations"] if _key(o.get("image_id")) not in lost]
    problems = tuple(p for p in document.problems if _key(p.image_id) not in lost)
    return replace(
        document, content=content | {"images": images, "annotations": own}, problems=problems
    )


def _key(value: Any) -> str:
    """Returns the same key for an id written as a number or as a string."""
    return str(value)
