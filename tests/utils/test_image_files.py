"""Which names are images', and which are what systems leave behind, in every command."""

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from bit_backbone.datasets import CocoFolder, open_document
from bit_backbone.extraction.sources import find_images
from bit_backbone.finetune import LabelledImages
from bit_backbone.utils.image_files import Ignored, has_clutter, is_image

LEFT_BEHIND = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "$RECYCLE.BIN", ".git")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")
    return path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("A.JPG", True),
        ("dir.x/a.jfif", True),
        ("a.avif", True),
        ("a.gif", True),
        ("a.heic", False),
        ("a.txt", False),
        ("jpg", False),
        ("._a.jpg", False),
        (".a.jpg", False),
        ("Thumbs.db", False),
        ("desktop.ini", False),
    ],
)
def test_images_by_their_names(name: str, expected: bool) -> None:
    assert is_image(name) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a/b.jpg", False),
        ("../a/./b.jpg", False),
        ("__MACOSX/a/b.jpg", True),
        ("a/.cache/b.jpg", True),
        ("a/@EADIR/b.jpg", True),
    ],
)
def test_paths_with_clutter(path: str, expected: bool) -> None:
    assert has_clutter(path) == expected


def test_what_is_ignored_is_counted_by_ending() -> None:
    ignored = Ignored()
    assert not ignored
    for name in ("a/x.heic", "b/y.HEIC", "c.txt", "README", "._a.jpg", "z/Thumbs.db", "._a.jpg"):
        ignored.add(name)
    assert str(ignored) == "2 x .heic, 1 x .txt, 1 x no ending; passed over: ._a.jpg, Thumbs.db"
    for number in range(9):
        ignored.add(f".{number}")
    assert str(ignored).endswith("; passed over: ._a.jpg, Thumbs.db, .0, .1, .2, 6 more")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        for ending in ("jfif", "avif", "gif", "png"):
            picture(tmp_path / "pets" / name / f"a.{ending}")
        (tmp_path / "pets" / name / "a.heic").write_bytes(b"heic")
        picture(tmp_path / "pets" / name / "._a.png")
    return tmp_path / "pets"


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("holds", [True, False])
def test_no_classes(name: str, holds: bool, classes: Path) -> None:
    (classes / name).mkdir()
    if holds:
        picture(classes / name / "a.jpg")
        picture(classes / "cat" / name / "a.jpg")
    images = LabelledImages(classes)
    assert images.classes == ["cat", "dog"]
    assert [target for _, target in images.samples] == [0] * 4 + [1] * 4
    assert name in str(images.ignored)
    listing = find_images(classes)
    # fine-tuning's list and extraction's are one
    assert sorted(ref.path for ref in listing) == sorted(path for path, _ in images.samples)
    assert name in str(listing.ignored)
    assert "2 x .heic" in str(listing.ignored)
    assert "2 x .heic" in str(images.ignored)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_splits_are_seen_through_what_lies_beside_them(name: str, tmp_path: Path) -> None:
    for split in ("train", "val", name):
        picture(tmp_path / split / "cat" / "a.png")
    with pytest.raises(ValueError, match="holds a data set's splits: train, val; name one of them"):
        LabelledImages(tmp_path)


def test_a_folder_of_clutter_only(tmp_path: Path) -> None:
    picture(tmp_path / "__MACOSX" / "a.png")
    with pytest.raises(
        ValueError, match=r"no folder of a class was found in .*passed over: __MACOSX"
    ):
        LabelledImages(tmp_path)
    with pytest.raises(ValueError, match=r"at least one image .*passed over: __MACOSX"):
        find_images(tmp_path)


def test_a_file_that_is_named_is_read_whatever_its_name(tmp_path: Path) -> None:
    path = picture(tmp_path / ".hidden.png")
    assert [ref.file for ref in find_images(path)] == [str(path)]


def test_detection_passes_over_them(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    picture(root / "JPEGImages" / "a.png")
    for folder in ("Annotations", "Annotations/.ipynb_checkpoints"):
        (root / folder).mkdir(parents=True)
        (root / folder / "a.xml").write_text("<annotation><object><name>cat</name>"
            "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object>"
            "</annotation>")  # fmt: skip
    (root / "Annotations" / "._a.xml").write_bytes(b"\0")
    assert len(CocoFolder(open_document(root))) == 1


def tar(path: Path, *names: str) -> Path:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    with tarfile.open(path, "w") as shard:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data.getvalue())
            shard.addfile(member, io.BytesIO(data.getvalue()))
    return path


def test_shards(tmp_path: Path) -> None:
    shard = tar(tmp_path / "A.TAR", "a.png", "._a.png", "__MACOSX/b.png", "b.txt")
    for source in (shard, tmp_path):
        listing = find_images(source)
        assert [ref.key for ref in listing] == ["a"]
        assert len(listing.ignored) == 3


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.zip"])
def test_a_compressed_source(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.png", b"")
    else:
        path.write_bytes(gzip.compress(tar(tmp_path / "plain.tar", "a.png").read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is compressed \(.*\): unpack it first"):
        find_images(path)
