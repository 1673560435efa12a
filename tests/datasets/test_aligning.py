"""Test sets with the training set's categories in another order, with other ids, or not all."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bit_backbone.datasets import AnnotationError, CocoFolder, SemanticFolder


def write(coco_files, *categories: tuple[int, str]) -> Path:
    """Write the file with these categories; the objects are of the first and the last."""
    coco_files.content["categories"] = [{"id": i, "name": name} for i, name in categories]
    for record, (id_, _) in zip(
        coco_files.content["annotations"], (categories[0], categories[-1]), strict=True
    ):
        record |= {"category_id": id_, "area": 9, "iscrowd": 0}
    return coco_files.write()


@pytest.mark.parametrize(
    ("categories", "labels", "ids", "kinds"),
    [
        ([(1, "cat"), (2, "dog")], [1, 2], (1, 2), []),
        ([(2, "cat"), (1, "dog")], [1, 2], (2, 1), []),
        ([(30, "dog"), (7, "cat")], [2, 1], (7, 30), []),
        ([(5, "dog")], [2, 2], (6, 5), ["missing category"]),
        ([(5, "dog"), (9, "ape")], [2], (10, 5), ["missing category", "other category"]),
        ([(5, "dog"), (8, "ape"), (6, "cat")], [2, 1], (6, 5), ["other category"]),
    ],
)
def test_categories_are_aligned_by_name(categories, labels, ids, kinds, coco_files) -> None:
    folder = CocoFolder(write(coco_files, *categories), categories=("cat", "dog"))
    assert folder.categories == ("cat", "dog")
    assert folder[0][1]["labels"].tolist() == labels
    assert folder.category_ids == ids
    assert [problem.kind for problem in folder.problems] == kinds
    document = folder.document()
    assert [c["id"] for c in document["categories"]] == list(ids)
    assert {a["category_id"] for a in document["annotations"]} <= set(ids)


@pytest.mark.parametrize(
    "categories", [[(1, "bird"), (2, "fish")], [(1, "cat"), (2, "cat"), (3, "dog")]]
)
def test_categories_that_cannot_be(categories, coco_files) -> None:
    root = write(coco_files, *categories)
    with pytest.raises(AnnotationError, match=r"should have the names \['cat', 'dog'\], each once"):
        CocoFolder(root, categories=("cat", "dog"))


def test_pixels_of_other_categories_are_ignored(coco_files) -> None:
    root = write(coco_files, (5, "dog"), (8, "ape"), (6, "cat"))
    ids = np.zeros((30, 40), np.uint8)
    ids[:5], ids[5:9], ids[9:12] = 5, 8, 6
    (root / "maps").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(ids).save(root / "maps" / name)
    data = SemanticFolder(root, maps="maps", categories=("cat", "dog"))
    column = data[0][1]["semantic"][:, 0].tolist()
    assert column == [2] * 5 + [255] * 4 + [1] * 3 + [0] * 18


def test_keypoints_of_a_missing_category(coco_files) -> None:
    content = coco_files.content
    content["categories"] = content["categories"][:1]
    content["annotations"] = content["annotations"][:1]
    folder = CocoFolder(coco_files.write(), keypoints=True, categories=("cat", "dog"))
    assert folder.keypoint_names == ("nose", "tail")


def test_what_coco_2017_holds_trains(coco_files) -> None:
    """Boxes of no height, as images 200365 and 550395 have, and images without an annotation."""
    box = {"bbox": [16.65, 8.33, 1.03, 0.0], "area": 0.0, "iscrowd": 0, "segmentation": [
        [16.65, 8.33, 17.68, 8.33, 17.68, 8.33, 16.65, 8.33]]}  # fmt: skip
    empty = coco_files.content["annotations"][0] | {"id": 918} | box
    coco_files.content["annotations"][1] |= {"area": 9, "iscrowd": 0}
    coco_files.content["annotations"].append(empty)
    for options in ({}, {"masks": True}):
        folder = CocoFolder(coco_files.write(), **options)
        assert len(folder) == 2
        assert [len(folder[i][1]["labels"]) for i in range(2)] == [2, 0]
        assert [(p.kind, p.action, p.annotation_id) for p in folder.problems] == [
            ("empty box", "left out", 918)
        ]
    assert json.loads(coco_files.file.read_text())["annotations"][2]["id"] == 918
