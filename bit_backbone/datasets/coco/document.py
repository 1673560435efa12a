"""What a data set holds, in COCO's structure, whichever format it was written in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.problems import Problem


@dataclass(frozen=True)
class Document:
    """Images, annotations and categories, not yet checked.

    Attributes:
        file: What messages call it: the annotation file, or the folder of many.
        folder: The folder that the images' ``file_name`` is below.
        content: "images", "annotations" and "categories" as a COCO file has them.
        problems: What the reader has found that COCO's structure cannot hold.
    """

    file: Path
    folder: Path
    content: dict[str, Any]
    problems: tuple[Problem, ...] = ()
