"""The COCO-format folder: the same bytes, readable by pycocotools, complete or absent."""

import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from bit_backbone.datasets.digits.build import build_scenes
from bit_backbone.datasets.digits.scenes import DigitScenes

SCENES = DigitScenes(num_images=10, image_size=(120, 130), num_objects=(0, 5))

# A module of its own rather than -c: worker processes import the main module again.
SCRIPT = """
import sys
from bit_backbone.datasets import DigitScenes, build_scenes
if __name__ == "__main__":
    images, workers = map(int, sys.argv[2:])
    scenes = DigitScenes(num_images=images, image_size=(120, 130), num_objects=(0, 5))
    build_scenes(scenes, sys.argv[1], workers=workers)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "train"
    build_scenes(SCENES, folder)
    return folder


@pytest.fixture
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "build.py"
    path.write_text(SCRIPT)

    def start(target, images, workers) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, path, target, str(images), str(workers)], stdout=subprocess.PIPE
        )

    return start


def contents(folder) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bytes_in_another_process_and_with_any_number_of_workers(
    folder, tmp_path, script, workers
) -> None:
    assert script(tmp_path / "again", 10, workers).wait() == 0
    assert contents(tmp_path / "again") == contents(folder)


def test_pycocotools_reads_it(folder) -> None:
    coco = COCO(folder / "instances.json")
    assert [coco.cats[i]["name"] for i in sorted(coco.cats)] == list("0123456789")
    assert min(coco.anns) == 1
    for image_id, scene in zip(coco.getImgIds(), SCENES, strict=True):
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        assert [a["category_id"] - 1 for a in annotations] == scene.labels.tolist()
        for annotation, mask in zip(annotations, scene.masks, strict=True):
            decoded = coco.annToMask(annotation)
            assert np.array_equal(decoded, mask)
            assert annotation["area"] == mask.sum()
            x, y, w, h = annotation["bbox"]
            assert decoded[y : y + h, x : x + w].sum() == mask.sum()
            box = decoded[y : y + h, x : x + w]
            assert all(line.any() for line in (box[0], box[-1], box[:, 0], box[:, -1]))


def test_images_and_semantic_maps_are_the_scenes(folder) -> None:
    for index, scene in enumerate(SCENES):
        photo = np.asarray(Image.open(folder / f"images/{index:06}.jpg"))
        assert np.abs(photo.astype(int) - scene.image).mean() < 4  # JPEG
        semantic = Image.open(folder / f"semantic/{index:06}.png")
        assert semantic.mode == "L"
        assert np.array_equal(semantic, scene.semantic)


def test_manifest_and_preview(folder) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    instances = (folder / "instances.json").read_bytes()
    assert manifest["arguments"] == SCENES.arguments()
    assert manifest["images"] == 10
    assert manifest["objects"] == len(json.loads(instances)["annotations"]) > 0
    digest = hashlib.sha256(instances)
    for i in range(10):
        files = f"images/{i:06}.jpg", f"semantic/{i:06}.png"
        pair = b"".join((folder / name).read_bytes() for name in files)
        digest.update(hashlib.sha256(pair).digest())
    assert manifest["sha256"] == digest.hexdigest()
    assert Image.open(folder / "preview.jpg").size == (4 * 2 * 130, 3 * 2 * 120)


def test_a_second_call_reuses_the_folder(folder) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    manifest = build_scenes(SCENES, folder)
    assert manifest["images"] == 10
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_arguments_are_rejected(folder) -> None:
    other = DigitScenes(num_images=11, image_size=(120, 130), num_objects=(0, 5), seed=7)
    message = (
        r"made with other settings \(num_images 10, asked 11; seed 0, asked 7\); choose another"
    )
    with pytest.raises(ValueError, match=message):
        build_scenes(other, folder)
    assert len(contents(folder)) == 2 * 10 + 3


def test_a_strange_or_damaged_folder_is_rejected(tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    (tmp_path / "file").touch()
    for name in ("photos", "file"):
        with pytest.raises(ValueError, match=f"{name} exists and is not a folder of DigitScenes"):
            build_scenes(SCENES, tmp_path / name)
    scenes = DigitScenes(num_images=2)
    build_scenes(scenes, tmp_path / "scenes")
    (tmp_path / "scenes" / "images" / "000001.jpg").unlink()
    with pytest.raises(ValueError, match=r"has lost 1 files \(images/000001.jpg"):
        build_scenes(scenes, tmp_path / "scenes")


def test_an_empty_folder_is_filled(tmp_path) -> None:
    assert build_scenes(DigitScenes(num_images=1), tmp_path)["images"] == 1
    assert (tmp_path / "manifest.json").is_file()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_to_an_empty_or_missing_folder_is_followed(exists, tmp_path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    if exists:
        real.mkdir(parents=True)
    link.symlink_to(real)
    scenes = DigitScenes(num_images=1)
    manifest = build_scenes(scenes, link)
    assert link.is_symlink()
    assert (real / "manifest.json").is_file()
    assert [path.name for path in real.parent.iterdir()] == ["real"]
    assert build_scenes(scenes, link) == manifest


def test_a_mount_point_is_rejected_before_drawing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(
        ValueError, match=r"cannot be written to a mount point.*got .*: name a folder in"
    ):
        build_scenes(DigitScenes(num_images=5000), tmp_path)
    assert not list(tmp_path.parent.glob("*.partial"))


def test_workers_below_one_are_rejected(tmp_path) -> None:
    with pytest.raises(ValueError, match="workers should be at least 1; got 0"):
        build_scenes(SCENES, tmp_path / "set", workers=0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_leaves_no_folder_and_its_workers_end(
    tmp_path, script, workers, folder
) -> None:
    target = tmp_path / "set"
    images = tmp_path / ".set.partial" / "images"
    build = script(target, 5000, workers)
    deadline = time.monotonic() + 60
    while not images.is_dir() or len(list(images.iterdir())) < 5:
        assert time.monotonic() < deadline
        assert build.poll() is None
        time.sleep(0.01)
    build.kill()
    build.communicate(timeout=30)  # the output ends when the last worker has ended
    assert not target.exists()
    assert images.is_dir()
    build_scenes(SCENES, target)
    assert contents(target) == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_builds_at_once_give_one_folder(tmp_path, script, folder) -> None:
    builds = [script(tmp_path / "set", 10, 1) for _ in range(2)]
    assert [build.wait() for build in builds] == [0, 0]
    assert contents(tmp_path / "set") == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_unwritable_place_is_told(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        build_scenes(SCENES, tmp_path / "file" / "set")
