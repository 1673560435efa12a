"""What is kept of a detector's answer, drawn and written again at other thresholds."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from bit_backbone.app import detections
from bit_backbone.app.detections import COLUMNS, coco_document, csv_text, detect, table
from bit_backbone.app.networks import Detector

NAMES = ("block", "bar")


class Finds:
    """A detector that finds two objects, or a segmenter that finds two regions."""

    def __init__(self, kind: str) -> None:
        self.kind, self.calls = kind, 0

    def __call__(self, images):
        self.calls += 1
        height, width = images[0].shape[-2:]
        semantic = torch.zeros(height, width, dtype=torch.int64)
        semantic[: height // 2, : width // 2] = 1
        semantic[height // 2 :, width // 2 :] = 2
        if self.kind == "semantic":
            return [{"semantic": semantic}]
        found = {
            "boxes": torch.tensor([[0, 0, width / 2, height / 2], [1.0, 2, 11, 22], [0, 0, 9, 9]]),
            "labels": torch.tensor([1, 2, 2]),
            "scores": torch.tensor([0.9, 0.4, 0.01]),
        }
        if self.kind == "masks":
            found["masks"] = (
                torch.stack([semantic == 1, semantic == 2, semantic > 0])[:, None] * 1.0
            )
        if self.kind == "keypoints":
            found["keypoints"] = torch.tensor([[[10.0, 20, 1]]] * 3)
        return [found]


KINDS = ("boxes", "masks", "keypoints", "semantic")


def found_in(kind: str, size: tuple[int, int] = (400, 200)):
    detector = Detector(Finds(kind), NAMES, "auto", kind == "semantic")
    return detect(detector, "a.png", photograph("china").resize(size), "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_and_classes_choose(kind):
    found = found_in(kind)
    least = [record["category_id"] for record in found.kept({1, 2}, 0.0)]
    assert least == [1, 2]  # the third is below what is kept
    assert len(found.kept({1, 2}, 0.5)) == (2 if kind == "semantic" else 1)
    assert [r["category_id"] for r in found.kept({2}, 0.0)] == [2]
    assert found.kept(set(), 0.0) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_is_drawn(kind):
    found = found_in(kind)
    plain, drawn, other = (
        np.asarray(found.drawn(found.kept(labels, 0.0), NAMES)) for labels in ((), (1, 2), (2,))
    )
    assert (plain != drawn).any()
    assert (drawn != other).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_is_one_of_coco(kind, tmp_path):
    large = found_in(kind, (3200, 1600))  # which the detector saw half as long
    assert Image.open(io.BytesIO(large.picture)).size == (1600, 800)
    document = coco_document([found_in(kind), large], {1, 2}, 0.0, NAMES)
    (tmp_path / "found.json").write_text(json.dumps(document))
    coco = COCO(str(tmp_path / "found.json"))
    assert coco.loadCats(2)[0]["name"] == "bar"
    assert coco.loadImgs(2)[0] == {"id": 2, "file_name": "a.png", "width": 3200, "height": 1600}
    small, big = (coco.loadAnns(coco.getAnnIds(imgIds=[i], catIds=[1]))[0] for i in (1, 2))
    if kind in ("masks", "semantic"):
        assert rle.decode(big["segmentation"]).shape == (1600, 3200)
        assert (small["area"], big["area"]) == (200 * 100, 1600 * 800)
        assert rle.decode(big["segmentation"])[:800, :1600].all()
    if kind != "semantic":
        assert small["bbox"] == [0, 0, 200, 100]
        assert big["bbox"] == [0, 0, 1600, 800]
        assert big["score"] == pytest.approx(0.9)
    if kind == "keypoints":
        assert (small["keypoints"], big["keypoints"]) == ([10, 20, 1], [20, 40, 1])


def test_the_table_is_written_as_csv():
    rows = table([found_in("boxes"), found_in("boxes", (3200, 1600))], {1, 2}, 0.0, NAMES)
    read = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert list(read[0]) == list(COLUMNS)
    assert [row["class"] for row in read] == ["block", "bar"] * 2
    assert [float(read[1][name]) for name in COLUMNS[2:]] == [0.4, 1, 2, 10, 20]
    assert [float(read[3][name]) for name in COLUMNS[2:]] == [0.4, 2, 4, 20, 40]
    regions = table([found_in("semantic")], {1, 2}, 0.9, NAMES)
    assert regions == [["a.png", name, "", "", "", "", ""] for name in NAMES]


def test_a_lack_of_memory_is_an_error(monkeypatch):
    def predict(*_):
        raise MemoryError

    monkeypatch.setattr(detections, "predict", predict)
    with pytest.raises(ValueError, match="the image"):
        found_in("boxes")
