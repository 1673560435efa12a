"""The content of a data set of any format, in COCO's structure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bit_backbone.datasets.coco.problems import Problem


@dataclass(frozen=True)
class Document:
    """Unchecked images, annotations and categories.

    Attributes:
        file: Its name in messages: the annotation file, or the folder of many such files.
        folder: The folder that each image's ``file_name`` is relative to.
        content: "images", "annotations" and "categories", as in a COCO file.
        problems: Problems found by the reader that COCO's structure cannot express.
    """

    file: Path
    folder: Path
    content: dict[str, Any]
    problems: tuple[Problem, ...] = ()
