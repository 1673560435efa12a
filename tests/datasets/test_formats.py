"""Pascal VOC, YOLO and COCO's layouts: what good and odd inputs become."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bit_backbone import cli
from bit_backbone.datasets import CocoFolder, open_document, split_document
from bit_backbone.datasets.formats.opening import has_part

SIZE = 40, 30


def picture(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(path)
    return path


def sheet(*objects: str, size: str = "<width>40</width><height>30</height>", name="a.jpg") -> str:
    return f"""<annotation><filename>{name}</filename><size>{size}<depth>3</depth></size>
    {"".join(objects)}</annotation>"""


def thing(corners: str, name: str = "cat", more: str = "") -> str:
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, corners.split(), strict=False))
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def voc(root: Path, **sheets: str) -> Path:
    for stem, text in sheets.items():
        picture(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    return root


def boxes(document) -> list[list[float]]:
    return [record["bbox"] for record in document.content["annotations"]]


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([thing("1 1 40 30")], [[0, 0, 40, 30]]),  # the whole image, counted from 1
        ([thing("5 6 5.5 9")], [[4, 5, 1.5, 4]]),
        ([thing("7 6 9 6")], [[6, 5, 3, 0]]),  # corners that coincide: empty
        ([thing("9 9 5 6")], [[4, 5, 5, 4]]),  # exchanged corners
        ([thing("0 0 40 30"), thing("1 1 3 3")], [[0, 0, 40, 30], [1, 1, 2, 2]]),  # from 0
        ([thing(" 5\n 6 7 8 ")], [[4, 5, 3, 3]]),
        ([thing("5 6 seven 8")], [[5, 6, None, 8]]),
        ([thing("5 6")], [[5, 6, None, None]]),
        (["<object><name>cat</name></object>"], [[None] * 4]),
        # a part of an object, as in VOC's person layout, is no object
        ([thing("5 6 7 8", more="<part><name>head</name></part>")], [[4, 5, 3, 3]]),
        ([], []),
    ],
)
def test_boxes_of_voc(objects, expected, tmp_path: Path) -> None:
    assert boxes(open_document(voc(tmp_path, a=sheet(*objects)))) == expected


def test_what_voc_says_becomes_a_training_set(tmp_path: Path) -> None:
    hard = thing("5 6 7 8", "dog", "<difficult>1</difficult>")
    root = voc(tmp_path, b=sheet(thing("1 1 9 9"), hard), a=sheet(thing("2 2 9 9", "ape")))
    folder = CocoFolder(open_document(root))
    assert folder.categories == ("ape", "cat", "dog")
    assert [folder.file_name(i) for i in range(2)] == ["a.jpg", "b.jpg"]
    target = folder[1][1]
    assert target["boxes"].tolist() == [[0, 0, 9, 9]]  # what is difficult does not train
    crowds = [record["iscrowd"] for record in folder.document()["annotations"]]
    assert crowds == [0, 0, 1]


@pytest.mark.parametrize(
    ("listed", "train", "test"),
    [
        ({"trainval": "ab", "train": "a", "val": "b", "test": "c"}, "ab", "c"),
        ({"train": "ab", "val": "c"}, "ab", "c"),
        ({"trainval": "abc", "train": "ab", "val": "c"}, "ab", "c"),
        ({"train": "a", "test": "c"}, "a", "c"),
        ({"train": "ab"}, "ab", ""),
        ({}, "abc", "abc"),
    ],
)
def test_parts_of_voc(listed, train: str, test: str, tmp_path: Path) -> None:
    root = voc(tmp_path, a=sheet(thing("1 1 9 9", "ape")), b=sheet(), c=sheet())
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, stems in listed.items():
        (lists / f"{name}.txt").write_text("".join(f"{stem}\n" for stem in stems) + "\n")
    (lists / "cat_train.txt").write_text("a 1\n")
    for part, stems in (("train", train), ("test", test)):
        document = open_document(root, part)
        assert "".join(r["file_name"][0] for r in document.content["images"]) == stems
        assert [c["name"] for c in document.content["categories"]] == ["ape"]
    assert has_part(root, "test") == bool(listed.keys() & {"test", "val"})


@pytest.mark.parametrize(
    "line", ["a", "a  1", "a -1", "a.jpg", "JPEGImages/a.jpg", "\ufeffa", "a\r"]
)
def test_lines_of_voc_lists(line: str, tmp_path: Path) -> None:
    root = voc(tmp_path, a=sheet(), b=sheet())
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text(line + "\n", encoding="utf-8")
    images = open_document(root, "train").content["images"]
    assert [record["file_name"] for record in images] == ["a.jpg"]


def test_xml_beside_images_in_a_folder_for_each_part(tmp_path: Path) -> None:
    for part, name in (("train", "cat"), ("valid", "dog")):
        picture(tmp_path / part / "x 1.PNG")
        (tmp_path / part / "x 1.xml").write_text(sheet(thing("1 1 9 9", name), name="other.jpg"))
        (tmp_path / part / "._x 1.xml").write_bytes(b"\0\5")
    for part, folder in (("train", "train"), ("test", "valid")):
        document = open_document(tmp_path, part)
        assert document.folder == tmp_path / folder
        assert [r["file_name"] for r in document.content["images"]] == ["x 1.PNG"]
    with pytest.raises(ValueError, match="none of it was found"):
        open_document(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (sheet(), SIZE),
        (sheet(size="<width>0</width><height>0</height>"), None),
        (sheet(size=""), None),
        (sheet(size="<width>40.0</width><height>30</height>"), SIZE),
    ],
)
def test_sizes_of_voc(text: str, size, tmp_path: Path) -> None:
    (record,) = open_document(voc(tmp_path, a=text)).content["images"]
    assert (record.get("width"), record.get("height")) == (size or (None, None))


def test_problems_of_voc(tmp_path: Path) -> None:
    root = voc(tmp_path, a="<annotation><object>", b=sheet(thing("9 9 5 6")))
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\nb\nlost\n")
    told = [(p.kind, p.file) for p in open_document(root, "train").problems]
    assert told == [("no XML", "a.xml"), ("corners", "b.jpg"), ("missing annotations", "lost")]


NUMBERED = ("point 1", "point 2")


def yolo(root: Path, text: str | None, names="[cat, dog]", parts="train: images") -> Path:
    picture(root / "images" / "a.jpg")
    (root / "labels").mkdir(exist_ok=True)
    if text is not None:
        (root / "labels" / "a.txt").write_text(text)
    (root / "data.yaml").write_text(f"{parts}\nnames: {names}\n")
    return root


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 0.5 0.5 1 1\n", [[0, 0, 40, 30]]),
        ("1 0.25 0.5 0.5 0.2\n\n", [[0, 12, 20, 6]]),
        ("0 0.9 0.5 0.4 0.2", [[28, 12, 16, 6]]),  # over the border, which repair clips
        ("0 0 0 0.5 0 0.5 0.5", [[0, 0, 20, 15]]),  # a polygon
        ("1.0 0.5 0.5 1 1", [[0, 0, 40, 30]]),
        ("", []),
        (None, []),
    ],
)
@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}"])
def test_lines_of_yolo(text, expected, names: str, tmp_path: Path) -> None:
    document = open_document(yolo(tmp_path, text, names), "train")
    assert boxes(document) == expected
    assert document.content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert not document.problems


@pytest.mark.parametrize(
    ("exif", "box"), [("upright", [0, 20, 30, 20]), ("stored", [0, 15, 40, 15])]
)
def test_fractions_of_yolo_are_of_the_image_as_it_is_taken(exif, box, tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.75 1 0.5")
    orientation = Image.Exif()
    orientation[274] = 6
    Image.new("RGB", SIZE).save(root / "images" / "a.jpg", exif=orientation)
    document = open_document(root, exif=exif)
    assert boxes(document) == [box]
    assert len(CocoFolder(document, exif=exif)) == 1


def test_polygons_of_yolo_are_masks(tmp_path: Path) -> None:
    folder = CocoFolder(open_document(yolo(tmp_path, "1 0 0 0.5 0 0.5 1 0 1\n")), masks=True)
    assert folder[0][1]["masks"].sum() == 20 * 30
    assert folder[0][1]["labels"].tolist() == [2]


@pytest.mark.parametrize(
    ("settings", "numbers", "names", "expected"),
    [
        ("kpt_shape: [2, 3]", "0.5 0.5 2 0.25 1 1", NUMBERED, [20, 15, 2, 10, 30, 1]),
        ("kpt_shape: [2, 3]", "0.5 0.5 2.0 0.3 0.3 0", NUMBERED, [20, 15, 2, 0, 0, 0]),
        ("kpt_shape: [2, 2]", "0.5 0.5 0 0", NUMBERED, [20, 15, 2, 0, 0, 2]),
        ("kpt_shape: [2, 2]", "0.5 0.5 -1 -1", NUMBERED, [20, 15, 2, 0, 0, 0]),
        (
            "kpt_shape: [2, 2]\nkpt_names: {0: [ear, tail]}",
            "0.5 0.5 1 1",
            ("ear", "tail"),
            [20, 15, 2, 40, 30, 2],
        ),
        ("kpt_shape: [2, 2]\nkpt_names: [ear]", "0 0 1 1", NUMBERED, [0, 0, 2, 40, 30, 2]),
    ],
)
def test_keypoints_of_yolo(settings, numbers, names, expected, tmp_path: Path) -> None:
    root = yolo(tmp_path, f"1 0.5 0.5 1 1 {numbers}", parts=f"{settings}\ntrain: images")
    document = open_document(root)
    assert not document.problems
    folder = CocoFolder(document, keypoints=True)
    assert folder.keypoint_names == names
    assert folder[0][1]["keypoints"].flatten().tolist() == expected
    (record,) = document.content["annotations"]
    assert record["num_keypoints"] == sum(v > 0 for v in expected[2::3])
    target = tmp_path / "converted"
    assert cli.main(["convert-dataset", str(root), str(target)]) == 0
    again = CocoFolder(target, keypoints=True)
    assert again.keypoint_names == names
    assert again[0][1]["keypoints"].flatten().tolist() == expected


def test_bad_keypoints_of_yolo(tmp_path: Path) -> None:
    text = "0 .5 .5 1 1 0 0 2\n0 .5 .5 1 1\n0 .5 .5 1 1 .1 .1\n0 .5 .5 1 1 .1 .1 1.5\n"
    document = open_document(yolo(tmp_path, text, parts="kpt_shape: [1, 3]\ntrain: images"))
    assert [p.detail.partition(":")[0] for p in document.problems] == [
        "a.txt, line 2", "a.txt, line 3"]  # fmt: skip
    assert "a class, 4 numbers and 3 of the keypoints" in document.problems[0].detail
    with pytest.raises(ValueError, match=r"visibilities should be 0, 1 or 2; got \[1.5\]"):
        CocoFolder(document, keypoints=True)


@pytest.mark.parametrize("shape", ["[17]", "[0, 3]", "[17, 4]", "17", "[a, 3]", "{a: 1}"])
def test_a_kpt_shape_that_is_none(shape: str, tmp_path: Path) -> None:
    root = yolo(tmp_path, "", parts=f"kpt_shape: {shape}\ntrain: images")
    with pytest.raises(ValueError, match=r"data.yaml: kpt_shape should be .* such as \[17, 3\]"):
        open_document(root)


@pytest.mark.parametrize(
    "line", ["0 0.5 0.5 1", "cat 0.5 0.5 1 1", "0 .1 .1 .2 .2 .3", "0.5 1 1 1 1"]
)
def test_bad_lines_of_yolo(line: str, tmp_path: Path) -> None:
    document = open_document(yolo(tmp_path, f"0 0.5 0.5 1 1\n{line}\n"))
    (problem,) = document.problems
    assert (problem.kind, problem.file) == ("bad line", "a.jpg")
    assert "a.txt, line 2" in problem.detail
    assert len(boxes(document)) == 1


@pytest.mark.parametrize(
    ("parts", "folder", "part"),
    [
        ("train: images", "images", "train"),
        ("path: /datasets/gone\ntrain: images", "images", "train"),  # another machine's
        ("train: ../images\nval: images", "images", "test"),
        ("train: x\nval: y\ntest: [images]", "images", "test"),
        ("train: list.txt", "images", "train"),
    ],
)
def test_parts_of_yolo(parts: str, folder: str, part: str, tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 1 1", parts=parts)
    (root / "list.txt").write_text("./images/a.jpg\n")
    picture(root / "images" / "._a.jpg")
    picture(root / "images" / ".cache" / "b.jpg")
    for path in (root, root / "data.yaml"):
        document = open_document(path, part)
        assert document.folder == root / folder
        assert [record["file_name"] for record in document.content["images"]] == ["a.jpg"]
        assert len(boxes(document)) == 1


def test_a_part_of_yolo_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data.yaml names nowhere, and there is no .*nowhere"):
        open_document(yolo(tmp_path, "", parts="train: nowhere"), "train")


def test_names_of_yolo_with_gaps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"numbered 0, 1, 2, .* got \[0, 2\]"):
        open_document(yolo(tmp_path, "", "{0: cat, 2: dog}"))


def test_yolo_without_a_yaml(tmp_path: Path) -> None:
    root = yolo(tmp_path, "1 0.5 0.5 1 1")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    document = open_document(root)
    assert [c["name"] for c in document.content["categories"]] == ["cat", "dog"]
    assert document.content["annotations"][0]["category_id"] == 2


COCO = {"categories": [{"id": 3, "name": "cat"}], "annotations": []}


@pytest.mark.parametrize(
    ("file", "images", "part"),
    [
        ("instances.json", "images", "train"),
        ("_annotations.coco.json", ".", "test"),
        ("annotations/instances_train2017.json", "train2017", "train"),
        ("annotations/instances_val2017.json", "images/val2017", "test"),
        ("annotations/instances_default.json", "images", None),
        ("result.json", "images", None),
    ],
)
def test_layouts_of_coco(file: str, images: str, part, tmp_path: Path) -> None:
    picture(tmp_path / images / "a.png")
    record = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(COCO | {"images": [record]}))
    for path in (tmp_path, tmp_path / file):
        document = open_document(path, part)
        assert document.folder.resolve() == (tmp_path / images).resolve()
        assert len(CocoFolder(document)) == 1


def test_a_folder_of_two_formats_asks_which(tmp_path: Path) -> None:
    root = yolo(voc(tmp_path, a=sheet(thing("1 1 9 9"))), "0 0.5 0.5 1 1")
    with pytest.raises(
        ValueError, match='several formats, voc, yolo; pass format="voc" or another'
    ):
        open_document(root)
    assert boxes(open_document(root, format="voc")) == [[0, 0, 9, 9]]
    assert boxes(open_document(root, format="yolo")) == [[0, 0, 40, 30]]


@pytest.mark.parametrize("format", [None, "coco", "voc", "yolo"])
def test_a_folder_of_nothing(format, tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("a")
    (tmp_path / "ci.yaml").write_text("train: [")
    with pytest.raises(ValueError, match=r"a data set must have .*none of it was found in"):
        open_document(tmp_path, format=format)


def test_a_split_follows_from_names_and_seed(tmp_path: Path) -> None:
    stems = {f"i{number}": sheet(thing("1 1 9 9")) for number in range(10)}
    document = open_document(voc(tmp_path, **stems))
    train, test = split_document(document, 0.2, seed=3)
    names = [{r["file_name"] for r in part.content["images"]} for part in (train, test)]
    assert (len(names[0]), len(names[1])) == (8, 2)
    assert not names[0] & names[1]
    for part, count in ((train, 8), (test, 2)):
        assert len(CocoFolder(part)) == count
        assert len(boxes(part)) == count
    document.content["images"].reverse()
    again = split_document(document, 0.2, seed=3)[1]
    assert {r["file_name"] for r in again.content["images"]} == names[1]
    others = [split_document(document, 0.2, seed=seed)[1] for seed in range(4, 9)]
    assert any({r["file_name"] for r in o.content["images"]} != names[1] for o in others)


@pytest.mark.parametrize(
    ("count", "share", "message"),
    [(2, 0, "between 0 and 1, got 0"), (2, 1.5, "got 1.5"), (1, 0.5, "1 image to divide")],
)
def test_a_split_that_cannot_be(count: int, share: float, message: str, tmp_path: Path) -> None:
    document = open_document(voc(tmp_path, **{f"i{n}": sheet() for n in range(count)}))
    with pytest.raises(ValueError, match=message):
        split_document(document, share, seed=0)


def test_the_command_writes_coco(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = voc(tmp_path / "voc", a=sheet(thing("1 1 9 9"), thing("2 3 5 6")), b=sheet())
    target = tmp_path / "coco"
    assert cli.main(["convert-dataset", str(root), str(target)]) == 0
    assert f"{target}: 2 images, 2 objects of 1 categories" in capsys.readouterr().out
    written = CocoFolder(target)
    assert written[0][1]["boxes"].tolist() == [[0, 0, 9, 9], [1, 2, 5, 6]]
    assert cli.main(["convert-dataset", str(root), str(target)]) == 2
    assert "a data set needs a new or empty folder" in capsys.readouterr().err
    divided = tmp_path / "divided"
    assert cli.main(["convert-dataset", str(root), str(divided), "--split", "0.5"]) == 0
    assert [len(CocoFolder(divided / part)) for part in ("train", "test")] == [1, 1]
