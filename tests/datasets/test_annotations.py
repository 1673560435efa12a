"""Reading a whole annotation file: all problems at once, or skipped and listed."""

import logging

import pytest

from bit_backbone.datasets.coco import CocoFolder
from bit_backbone.datasets.coco.annotations import read_annotations
from bit_backbone.datasets.coco.problems import AnnotationError


def test_a_sound_file(coco_files) -> None:
    coco_files.write()
    found = read_annotations(coco_files.file, coco_files.images, masks=True, keypoints=True)
    assert [record["id"] for record in found.images] == [7, 9]
    assert [record["name"] for record in found.categories] == ["cat", "dog"]
    assert {image_id: len(records) for image_id, records in found.by_image.items()} == {7: 2, 9: 0}
    first, second = found.objects()
    assert (first["area"], second["area"], second["iscrowd"]) == (60, 40 * 30, 0)


def test_keypoints_are_counted_and_those_of_crowds_filled_in(coco_files) -> None:
    dog, cat = coco_files.content["annotations"]
    dog |= {"iscrowd": 1, "keypoints": None}
    cat["num_keypoints"] = 2
    coco_files.write()
    found = read_annotations(coco_files.file, coco_files.images, keypoints=True)
    told = [(record["keypoints"], record["num_keypoints"]) for record in found.objects()]
    assert told == [([0] * 6, 0), ([0, 0, 0, 20, 10, 2], 1)]
    found = read_annotations(coco_files.file, coco_files.images)
    assert [record.get("num_keypoints") for record in found.objects()] == [None, 2]


@pytest.fixture
def damaged(coco_files):
    """One image missing, one good object, one object with two problems, one of a lost image."""
    content = coco_files.content
    content["images"][1]["file_name"] = "lost.png"
    content["annotations"][1] |= {"bbox": [0, 0, 0, 30], "category_id": 5}
    content["annotations"].append(content["annotations"][0] | {"id": 3, "image_id": 9})
    coco_files.write()
    return coco_files


def test_every_problem_is_raised_at_once(damaged) -> None:
    with pytest.raises(AnnotationError) as caught:
        read_annotations(damaged.file, damaged.images, on_invalid="raise")
    told = [(p.kind, p.file, p.image_id, p.annotation_id) for p in caught.value.problems]
    assert told == [
        ("missing file", "lost.png", 9, None),
        ("unknown category", "a.png", 7, 2),
        ("empty box", "a.png", 7, 2),
    ]
    assert 'pass on_invalid="skip" to continue without these records' in str(caught.value)
    assert 'pass on_invalid="repair"' in str(caught.value)
    with pytest.raises(AnnotationError) as caught:
        read_annotations(damaged.file, damaged.images)
    assert [p.kind for p in caught.value.problems] == ["missing file"]  # the empty box is left out
    assert "repair" not in str(caught.value)


def test_skipping_drops_the_records_and_lists_them(damaged, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        folder = CocoFolder(damaged.root, on_invalid="skip")
    assert len(folder) == 1
    assert folder[0][1]["labels"].tolist() == [2]
    assert [problem.annotation_id for problem in folder.problems] == [None, 2, 2]
    assert "3 problems (1 x missing file, 1 x unknown category, 1 x empty box)" in caplog.text


def test_the_first_of_two_equal_ids_is_kept(coco_files) -> None:
    content = coco_files.content
    content["images"].append(content["images"][1] | {"id": 7})
    content["annotations"].append(content["annotations"][1] | {"id": 1})
    coco_files.write()
    found = read_annotations(coco_files.file, coco_files.images, on_invalid="skip")
    assert [record["file_name"] for record in found.images] == ["a.png", "b.png"]
    assert [record["category_id"] for record in found.objects()] == [90, 3]
    assert [problem.kind for problem in found.problems] == ["duplicate id", "duplicate id"]


@pytest.mark.parametrize("on_invalid", ["raise", "skip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no JSON: "),
        (b'{"images": [', "no JSON: "),
        (b"[" * 100_000, "no JSON: "),
        (b"\xff\xfe\x00", "no JSON: "),
        (b"[]", "no COCO file: should be an object with a list of objects 'images'"),
        (b'{"images": []}', "no COCO file: .* 'annotations'"),
        (None, "unreadable file: .*No such file"),
    ],
)
def test_files_that_no_policy_can_read(data, message, on_invalid, coco_files) -> None:
    if data is not None:
        coco_files.file.write_bytes(data)
    with pytest.raises(AnnotationError, match=message):
        read_annotations(coco_files.file, coco_files.images, on_invalid=on_invalid)


def test_a_wrong_category_is_never_skipped(coco_files) -> None:
    coco_files.content["categories"][0]["id"] = 3
    coco_files.write()
    with pytest.raises(AnnotationError, match=r"duplicate id.*\n.*A category cannot be skipped"):
        read_annotations(coco_files.file, coco_files.images, on_invalid="skip")


def test_another_policy_is_rejected(coco_files) -> None:
    coco_files.write()
    with pytest.raises(ValueError, match='should be one of "repair", "raise", "skip"; got'):
        read_annotations(coco_files.file, coco_files.images, on_invalid="ignore")
