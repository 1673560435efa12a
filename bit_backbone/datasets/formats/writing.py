"""Writes a data set as a folder in COCO's format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.utils.files import atomic_path

ANNOTATIONS, IMAGES = "instances.json", "images"


def write_document(dataset: CocoFolder, folder: Path) -> None:
    """Writes ``instances.json`` and copies the images beside it into ``images/``.

    Args:
        dataset: The data set, whose valid and repaired records are written.
        folder: The folder to make.

    Raises:
        ValueError: The folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"a data set needs a new or empty folder; {folder} is not empty")
    for index in range(len(dataset)):
        name = dataset.file_name(index)
        target = folder / IMAGES / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.folder / name, target)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / ANNOTATIONS) as temporary:
        temporary.write_text(json.dumps(dataset.document()))
