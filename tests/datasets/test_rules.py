"""Every rule by table: a sound file with one value changed, and what is said of it."""

import copy

import pytest
from pycocotools import mask as api

from bit_backbone.datasets.coco import annotations
from bit_backbone.datasets.coco.problems import AnnotationError

FULL_RUNS = [0, 1200]
TOO_SHORT = api.frPyObjects({"size": [30, 40], "counts": [0, 600, 599]}, 30, 40)["counts"].decode()

# Path into the file, value put there, the line of the error.
WRONG = [
    # images
    (("images", 0, "file_name"), "c.png", "c.png (image 7): missing file: "),
    (("images", 0, "file_name"), "x" * 5000, "(image 7): missing file: "),
    (("images", 0, "file_name"), "a\0.png", "(image 7): missing file: "),
    (("images", 0, "file_name"), "", "(image 7): bad image: file_name should be a string; got ''"),
    (("images", 0, "file_name"), None, "(image 7): bad image: file_name should be a string"),
    (("images", 0, "file_name"), "../a.png", "(image 7): bad image: file_name should lie below"),
    (("images", 0, "file_name"), "/etc/passwd", "bad image: file_name should lie below"),
    (("images", 0, "width"), 0, "a.png (image 7): bad image: width and height should be integers"),
    (
        ("images", 0, "width"),
        41,
        "a.png (image 7): wrong size: annotated as 41x30, the file is 40x",
    ),
    (("images", 0, "height"), 30.5, "integers above 0; got (40, 30.5)"),
    (("images", 0, "id"), "7", "a.png (image '7'): bad id: id should be an integer; got '7'"),
    (("images", 1, "id"), 7, "b.png (image 7): duplicate id: id 7 is used more than once"),
    # annotations
    (("annotations", 1, "id"), 1, "a.png (image 7, annotation 1): duplicate id"),
    (("annotations", 0, "id"), None, "a.png (image 7): bad id: id should be an integer; got None"),
    (("annotations", 0, "id"), True, "(image 7, annotation True): bad id"),
    (("annotations", 0, "image_id"), 8, "(image 8, annotation 1): unknown image: image_id 8"),
    (("annotations", 0, "image_id"), [7], "(image [7], annotation 1): unknown image"),
    (("annotations", 0, "category_id"), 4, "category_id 4 should be one of [3, 90]"),
    (("annotations", 0, "category_id"), {}, "unknown category: category_id {}"),
    # boxes
    (("annotations", 0, "bbox"), [5, 6, 0, 12], "a.png (image 7, annotation 1): empty box"),
    (("annotations", 0, "bbox"), [5, 6, 10, -1], "empty box: bbox should have width and height"),
    (("annotations", 0, "bbox"), [5, 6, 1e-9, 12], "empty box: bbox should have width and height"),
    (("annotations", 0, "bbox"), [40.5, 6, 0.4, 5], "empty box: bbox is empty when clipped"),
    (
        ("annotations", 0, "bbox"),
        [35, 6, 10, 12],
        "box outside: bbox should lie in the image of 40",
    ),
    (("annotations", 0, "bbox"), [-2, 6, 10, 12], "box outside"),
    (("annotations", 0, "bbox"), [50, 60, 10, 12], "box outside"),
    (("annotations", 0, "bbox"), [5, 6, 10], "bad box: bbox should be 4 finite numbers; got [5, 6"),
    (("annotations", 0, "bbox"), [5, 6, 10, float("nan")], "bad box"),
    (("annotations", 0, "bbox"), [5, 6, 10, 10**400], "bad box"),
    (("annotations", 0, "bbox"), "5 6 10 12", "bad box"),
    (("annotations", 0, "bbox"), None, "bad box: bbox should be 4 finite numbers; got None"),
    # area, iscrowd
    (("annotations", 0, "area"), -1, "bad area: area should be a number of at least 0; got -1"),
    (("annotations", 0, "area"), "60", "bad area"),
    (("annotations", 0, "iscrowd"), 2, "bad iscrowd: iscrowd should be 0 or 1; got 2"),
    # masks
    (("annotations", 0, "segmentation"), None, "bad mask: segmentation should be RLE or polygons"),
    (("annotations", 0, "segmentation"), [], "bad mask: segmentation should be RLE or polygons"),
    (("annotations", 0, "segmentation"), [[1, 2, 3, 4]], "polygons of at least 3 points"),
    (("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, 6, 7]], "polygons of at least 3 points"),
    (("annotations", 0, "segmentation"), [[1, 2, 3, 4, 5, "6"]], "polygons of at least 3 points"),
    (("annotations", 0, "segmentation"), [[0, 0, 9e8, 0, 9, 9]], "polygons should lie about"),
    (
        ("annotations", 1, "segmentation"),
        {"size": [40, 30], "counts": FULL_RUNS},
        "bad mask: size should be [30, 40]; got [40, 30]",
    ),
    (
        ("annotations", 1, "segmentation"),
        {"size": [30, 40], "counts": [0, 1199]},
        "bad mask: counts should add up to 1200; got 1199",
    ),
    (("annotations", 1, "segmentation", "counts"), TOO_SHORT, "add up to 1200; got 1199"),
    (("annotations", 1, "segmentation", "counts"), "", "add up to 1200; got 0"),
    (("annotations", 1, "segmentation", "counts"), "zz", "bad mask: no run lengths"),
    (("annotations", 1, "segmentation", "counts"), [-1, 1201], "integers of at least 0"),
    (("annotations", 1, "segmentation", "counts"), None, "counts should be a string or a list"),
    # keypoints
    (("annotations", 0, "keypoints"), [1, 2, 2], "keypoints should be 2 times x, y, visibility"),
    (("annotations", 0, "keypoints"), None, "keypoints should be 2 times x, y, visibility"),
    (("annotations", 0, "keypoints"), [1, 2, 2, 3, 4, 5], "visibilities should be 0, 1 or 2"),
    (("categories", 0, "keypoints"), [], "bad keypoints: its category should name its keypoints"),
    # categories
    (("categories", 0, "id"), 3, "instances.json: duplicate id: id 3 is used more than once"),
    (("categories", 0, "id"), "x", "instances.json: bad id: id should be an integer; got 'x'"),
    (("categories", 0, "name"), 5, "instances.json: bad category: name should be a string; got 5"),
    (("categories", 0, "keypoints"), [1], "keypoints should be a list of strings; got [1]"),
    (("categories",), [], "instances.json: no categories: should have at least one"),
    # the file
    (("images",), None, "no COCO file: should be an object with a list of objects 'images'"),
    (("annotations",), [5], "no COCO file: should be an object with a list of objects 'annotat"),
]


def read_annotations(files, **options):
    """Check without repair, which other tests are about."""
    return annotations.read_annotations(files.file, files.images, on_invalid="raise", **options)


@pytest.mark.parametrize(("path", "value", "line"), WRONG)
def test_a_broken_rule_is_told_with_file_and_id(path, value, line, coco_files) -> None:
    place = coco_files.content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    coco_files.write()
    with pytest.raises(AnnotationError) as caught:
        read_annotations(coco_files, masks=True, keypoints=True)
    assert line in str(caught.value)
    assert all(problem.file for problem in caught.value.problems)


RIGHT = [
    (("annotations", 0, "bbox"), [-0.9, -0.9, 41.5, 31.5]),  # rounding
    (("annotations", 0, "bbox"), [39.5, 29.5, 0.5, 0.5]),
    (("annotations", 0, "segmentation"), [[-5, -5, 45, -5, 45, 35]]),
    (("annotations", 0, "area"), 0),
    (("annotations", 0, "area"), 5.5),
    (("annotations",), []),
    (("annotations", 1, "id"), 0),
    (("annotations", 1, "id"), 10**30),
]


@pytest.mark.parametrize(("path", "value"), RIGHT)
def test_what_keeps_the_rules_passes(path, value, coco_files) -> None:
    place = coco_files.content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    coco_files.write()
    found = read_annotations(coco_files, masks=True, keypoints=True)
    assert not found.problems


def test_masks_and_keypoints_are_checked_only_where_they_are_used(coco_files) -> None:
    for record in coco_files.content["annotations"]:
        record |= {"segmentation": "none", "keypoints": "none"}
    coco_files.write()
    assert not read_annotations(coco_files).problems


def test_a_crowd_needs_no_keypoints(coco_files) -> None:
    crowd = copy.deepcopy(coco_files.content["annotations"][1]) | {"id": 3, "iscrowd": 1}
    del crowd["keypoints"]
    coco_files.content["annotations"].append(crowd)
    coco_files.write()
    found = read_annotations(coco_files, keypoints=True)
    assert len(found.by_image[7]) == 3
