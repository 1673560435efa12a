"""What other tools write into annotations, and what each becomes."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bit_backbone.datasets import AnnotationError, CocoFolder, Document
from bit_backbone.datasets.coco.annotations import check_document
from bit_backbone.datasets.coco.repair import repair
from bit_backbone.datasets.coco.rules import box_problems

WIDTH, HEIGHT = 40, 30
RLE = {"size": [30, 40], "counts": [0, 600, 600]}
LINE = [1, 2, 3, 4]
TRIANGLE = [5, 6, 15, 6, 15, 18]


def repaired(coco_files, **changes) -> tuple[dict | None, list]:
    """Returns the first object after repair, and its problems; `changes` are made to it before."""
    coco_files.content["annotations"] = [coco_files.content["annotations"][0] | changes]
    coco_files.write()
    found = check_document(
        Document(coco_files.file, coco_files.images, coco_files.content), masks=True
    )
    return next(found.objects(), None), found.problems


@pytest.mark.parametrize(
    ("changes", "becomes", "kind"),
    [
        ({"bbox": [30, 20, 15, 15]}, {"bbox": [30, 20, 10, 10]}, "box outside"),
        ({"bbox": [-5, -6, 10, 10]}, {"bbox": [0, 0, 5, 4]}, "box outside"),
        ({"bbox": [-5, 6, 400, 10]}, {"bbox": [0, 6, 40, 10]}, "box outside"),
        ({"bbox": [30, 20, 15, 15], "area": 225}, {"area": 100}, "box outside"),
        ({"bbox": [30, 20, 15, 15], "area": 7}, {"area": 7}, "box outside"),
        ({"bbox": [5, 6, 10, 0]}, None, "empty box"),
        ({"bbox": [5, 6, -10, 3]}, None, "empty box"),
        ({"bbox": [40, 6, 1, 3]}, None, "empty box"),
        ({"bbox": [5, 388.33, 1.03, 0.0]}, None, "empty box"),
        ({"bbox": ["5", "6.5", "1e1", 12]}, {"bbox": [5, 6.5, 10, 12]}, "string number"),
        ({"bbox": ["5", "6", "10", "0"]}, None, "empty box"),
        ({"area": "60"}, {"area": 60}, "string number"),
        ({"iscrowd": "0"}, {"iscrowd": 0}, "string number"),
        ({"iscrowd": None}, {"iscrowd": 0}, "missing iscrowd"),
        ({"area": None}, {"area": 120}, "missing area"),
        ({"id": None}, {"id": 1}, "missing id"),
        ({"id": "a7"}, {"id": 1}, "missing id"),
        ({"segmentation": TRIANGLE}, {"segmentation": [TRIANGLE]}, "flat polygon"),
        ({"segmentation": [RLE]}, {"segmentation": RLE}, "list of one RLE"),
        ({"segmentation": [LINE, TRIANGLE, []]}, {"segmentation": [TRIANGLE]}, "short polygon"),
        ({"segmentation": [LINE]}, None, "short polygon"),
        ({"image_id": "7", "category_id": "90"}, {"image_id": 7, "category_id": 90}, None),
        ({"image_id": 7.0, "category_id": 90.0}, {"image_id": 7, "category_id": 90}, None),
        ({"bbox": [39.5, 6, 1.4, 3]}, {"bbox": [39.5, 6, 1.4, 3]}, None),  # rounding is no fault
    ],
)
def test_an_object(changes, becomes, kind, coco_files) -> None:
    object_, problems = repaired(coco_files, **changes)
    if becomes is None:
        assert object_ is None
    else:
        assert {name: object_[name] for name in becomes} == becomes
    assert {p.kind for p in problems} - {"string number"} >= ({kind} - {None, "string number"})
    assert (kind is None) == (not problems)
    assert all(p.action for p in problems)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"category_id": 5}, "unknown category"),
        ({"category_id": None}, "unknown category"),
        ({"image_id": 70}, "unknown image"),
        ({"bbox": [float("nan"), 1, 2, 3]}, "bad box"),
        ({"bbox": ["nan", 1, 2, 3]}, "bad box"),
        ({"bbox": ["left", 1, 2, 3]}, "bad box"),
        ({"bbox": None}, "bad box"),
        ({"bbox": [4000, 6, 10, 12]}, "box outside"),  # not over the border: elsewhere
        ({"area": -1}, "bad area"),
        ({"segmentation": []}, "bad mask"),
        ({"segmentation": [[1, 2, 3, 4, 5]]}, "short polygon"),
        ({"segmentation": [[5, 6, 15, 6, 15, 18, 3]]}, "bad mask"),
    ],
)
def test_what_stays_wrong_stops(changes, kind: str, coco_files) -> None:
    if kind == "short polygon":
        assert repaired(coco_files, **changes)[0] is None
        return
    with pytest.raises(AnnotationError, match=rf"{kind}: (.|\n)*pass on_invalid=\"skip\"") as e:
        repaired(coco_files, **changes)
    assert [p.kind for p in e.value.problems] == [kind]


def test_a_sound_file_is_left_as_it_is(coco_files) -> None:
    coco_files.content["annotations"][1] |= {"area": 1200, "iscrowd": 0}
    document = Document(coco_files.file, coco_files.images, coco_files.content)
    before = copy.deepcopy(document)
    assert repair(document) == before
    assert document == before


number = st.floats(-20, 60, allow_nan=False) | st.integers(-20, 60)


@given(st.lists(number, min_size=4, max_size=4))
def test_a_valid_box_never_moves(box: list[float]) -> None:
    images = [{"id": 1, "file_name": "a", "width": WIDTH, "height": HEIGHT}]
    objects = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": list(box), "area": 1}]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    after = repair(Document(Path("f"), Path("nowhere"), content)).content["annotations"]
    problems = {kind for kind, _ in box_problems(box, WIDTH, HEIGHT)}
    if not problems:
        assert after[0]["bbox"] == box
    elif problems == {"empty box"}:
        assert after == []
    elif after[0]["bbox"] != box:
        left, top, width, height = after[0]["bbox"]
        assert not list(box_problems(after[0]["bbox"], WIDTH, HEIGHT))
        assert max(box[0], 0) == left
        assert max(box[1], 0) == top
        assert left + width == pytest.approx(min(box[0] + box[2], WIDTH))
        assert top + height == pytest.approx(min(box[1] + box[3], HEIGHT))


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ("sub/a b.png", "sub/a b.png"),
        ("/home/else/photos/sub/a b.png", "sub/a b.png"),
        ("C:\\photos\\sub\\a b.png", "sub/a b.png"),
        ("sub\\a b.png", "sub/a b.png"),
        ("./sub/a b.png", "./sub/a b.png"),
        ("sub/a%20b.png", "sub/a b.png"),
        ("images/sub/a b.png", "sub/a b.png"),
        ("{root}/images/sub/a%20b.png", "sub/a b.png"),
        ("/data/local-files/?d=sub/a%20b.png", "sub/a b.png"),
        ("/data/upload/3/top.png", "top.png"),
        ("data/upload/3/top.png", "top.png"),
        ("other/top.png", None),  # of another folder, and perhaps another picture
        ("../top.png", None),
        ("", None),
        (None, None),
        ("gone.png", None),
    ],
)
def test_file_names(said, file, tmp_path: Path) -> None:
    for name in ("sub/a b.png", "top.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path)
    said = said and said.replace("{root}", str(tmp_path))
    record = {"id": 1, "file_name": said, "width": 40, "height": 30}
    content = {"images": [record], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    if file is None:
        with pytest.raises(AnnotationError, match=r"missing file|file_name should"):
            CocoFolder(tmp_path)
        return
    folder = CocoFolder(tmp_path)
    assert folder.file_name(0) == file
    assert len(folder.problems) == (said != file)


def test_two_names_for_one_file_are_not_guessed(coco_files) -> None:
    coco_files.content["images"][0]["file_name"] = "/one/b.png"
    coco_files.write()
    with pytest.raises(AnnotationError, match="file_name should lie below"):
        CocoFolder(coco_files.root)
    coco_files.content["images"][0]["file_name"] = "/one/a.png"
    coco_files.content["images"][1]["file_name"] = "/two/a.png"
    coco_files.write()
    with pytest.raises(AnnotationError) as caught:
        CocoFolder(coco_files.root)
    assert [p.image_id for p in caught.value.problems] == [9]


def test_string_image_ids_are_mapped_and_kept_apart(coco_files) -> None:
    content = coco_files.content
    content["images"][0]["id"], content["images"][1]["id"] = "1", "img-b"
    content["annotations"][0]["image_id"] = "img-b"
    content["annotations"][1]["image_id"] = 1
    coco_files.write()
    folder = CocoFolder(coco_files.root)
    assert [folder[i][1]["image_id"] for i in (0, 1)] == [1, 2]
    assert [folder[i][1]["labels"].tolist() for i in (0, 1)] == [[1], [2]]


def test_repeated_annotation_ids_are_numbered(coco_files) -> None:
    for record in coco_files.content["annotations"]:
        record["id"] = 5
    coco_files.write()
    folder = CocoFolder(coco_files.root)
    assert len(folder[0][1]["labels"]) == 2
    assert [(p.kind, p.action) for p in folder.problems][:1] == [("repeated id", "numbered 6")]


def test_sizes_come_from_the_files(coco_files) -> None:
    first, second = coco_files.content["images"]
    del first["width"], first["height"]
    second |= {"width": None, "height": "30"}
    coco_files.write()
    folder = CocoFolder(coco_files.root)
    assert folder.aspect_ratios() == [40 / 30] * 2
    kinds = [p.kind for p in folder.problems if "missing i" not in p.kind]
    assert kinds.count("missing size") == 2


def test_an_image_that_does_not_tell_its_size_is_left_out(coco_files) -> None:
    del coco_files.content["images"][0]["width"]
    (coco_files.images / "a.png").write_bytes(b"no image")
    coco_files.write()
    folder = CocoFolder(coco_files.root)
    assert [folder.file_name(i) for i in range(len(folder))] == ["b.png"]
    assert [(p.kind, p.action) for p in folder.problems] == [("unreadable image", "left out")]


def test_each_kind_is_counted_and_three_of_it_are_shown(coco_files, caplog) -> None:
    record = coco_files.content["annotations"][0]
    coco_files.content["annotations"] = [
        record | {"id": number, "bbox": [30, 20, 15, 15] if number else [5, 6, 0, 0]}
        for number in range(6)
    ]
    folder = CocoFolder(coco_files.write())
    assert "6 problems (1 x empty box, 5 x box outside)" in caplog.text
    assert caplog.text.count("clipped to") == 3
    assert "... and 2 more" in caplog.text
    assert len(folder.problems) == 6
