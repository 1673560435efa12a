"""COCO's metrics of detections that are known, and pictures of them."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rectangles import write_coco
from torch import nn

from bit_backbone.datasets import CocoFolder
from bit_backbone.detection import comparison, draw_objects, evaluate
from bit_backbone.detection.coco_metrics import import_coco_api
from bit_backbone.visualization.objects import colour_of


class Oracle(nn.Module):
    """Returns the targets of a data set one after another, moved by some pixels."""

    def __init__(self, data: CocoFolder, shift: float = 0.0, silent: bool = False) -> None:
        super().__init__()
        self.targets = iter([data[i][1] for i in range(len(data))])
        self.shift, self.silent = shift, silent

    def forward(self, images: list) -> list[dict]:
        return [self.answer(next(self.targets)) for _ in images]

    def answer(self, target: dict) -> dict:
        count = 0 if self.silent else len(target["labels"])
        answer = {
            "boxes": target["boxes"][:count] + self.shift,
            "labels": target["labels"][:count],
            "scores": torch.linspace(0.9, 0.8, count),
        }
        if "masks" in target:
            answer["masks"] = target["masks"][:count, None].float()
        if "keypoints" in target:
            answer["keypoints"] = target["keypoints"][:count]
        return answer


@pytest.fixture
def data(coco_folder: Path) -> CocoFolder:
    return CocoFolder(coco_folder, masks=True, keypoints=True)


def test_perfect_detections_score_one(data: CocoFolder) -> None:
    metrics = evaluate(Oracle(data), data, batch_size=4)
    for kind in ("box", "mask", "keypoint"):
        assert metrics[f"{kind}_AP"] == pytest.approx(1.0), kind
    assert metrics["box_AP_large"] == -1  # none is annotated


@pytest.mark.parametrize("package", ["faster_coco_eval", "pycocotools"])
def test_a_crowded_image_can_be_right(package: str, tmp_path: Path, monkeypatch) -> None:
    """300 objects in an image: all of them count, and the truth is worth 1."""
    if package == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    boxes = [[20 * (i % 20), 20 * (i // 20), 15, 15] for i in range(300)]
    objects = [
        {"id": i, "image_id": 1 + (i % 30 == 0), "category_id": 1, "bbox": box}
        for i, box in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": f"{i}.png", "width": 400, "height": 300} for i in (1, 2)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (400, 300)).save(tmp_path / "images" / image["file_name"])
    (tmp_path / "instances.json").write_text(json.dumps(content))
    data = CocoFolder(tmp_path)
    metrics = evaluate(Oracle(data), data)
    for name in ("AP", "AP50", "AP75", "AP_small", "AR"):
        assert metrics[f"box_{name}"] == pytest.approx(1.0), name
    assert metrics["box_AR_10"] < 0.6
    assert evaluate(Oracle(data, silent=True), data)["box_AP"] == 0


def test_moved_boxes_score_by_their_overlap(data: CocoFolder) -> None:
    # 24x8 and 14x16 moved by one pixel both ways: IoU 0.72 and 0.77
    overlaps = [(w - 1) * (h - 1) / (2 * w * h - (w - 1) * (h - 1)) for w, h in ((24, 8), (14, 16))]
    passed = [sum(iou >= 0.5 + 0.05 * i for i in range(10)) / 10 for iou in overlaps]
    metrics = evaluate(Oracle(data, shift=1.0), data, batch_size=1)
    assert metrics["box_AP50"] == pytest.approx(1.0)
    assert metrics["box_AP"] == pytest.approx(sum(passed) / 2)


def test_no_detections_score_zero(data: CocoFolder) -> None:
    metrics = evaluate(Oracle(data, silent=True), data)
    assert metrics["box_AP50"] == metrics["mask_AP"] == metrics["keypoint_AP"] == 0


def test_what_was_skipped_is_not_missed(coco_folder: Path) -> None:
    content = json.loads((coco_folder / "instances.json").read_text())
    content["annotations"][0]["bbox"][2] = 0
    (coco_folder / "instances.json").write_text(json.dumps(content))
    data = CocoFolder(coco_folder, on_invalid="skip")
    assert len(data.problems) == 1
    assert evaluate(Oracle(data), data)["box_AR"] == pytest.approx(1.0)


@pytest.fixture(params=["faster_coco_eval", "pycocotools"])
def coco_api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate by one of the two packages."""
    pytest.importorskip(request.param)
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)


def rewrite(folder: Path, change: Callable[[dict], None]) -> None:
    """Changes the annotations of a folder, which are numbered as they stand in the list."""
    content = json.loads((folder / "instances.json").read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["id"] = number
        change(annotation)
    (folder / "instances.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("coco_api")
def test_ids_from_zero_on_change_nothing(coco_folder: Path) -> None:
    rewrite(coco_folder, lambda annotation: None)
    data = CocoFolder(coco_folder, masks=True, keypoints=True)
    metrics = evaluate(Oracle(data), data)
    for kind in ("box", "mask", "keypoint"):
        assert metrics[f"{kind}_AP"] == pytest.approx(1.0), kind


@pytest.mark.usefixtures("coco_api")
@pytest.mark.parametrize("crowd_keypoints", [None, [1, 2]])
def test_keypoints_are_evaluated_without_what_the_file_may_leave_out(
    crowd_keypoints: list[int] | None, coco_folder: Path
) -> None:
    def leave_out(annotation: dict) -> None:
        annotation.pop("num_keypoints", None)
        if annotation["id"] == 1:
            annotation |= {"iscrowd": 1, "keypoints": crowd_keypoints}
            if crowd_keypoints is None:
                del annotation["keypoints"]

    rewrite(coco_folder, leave_out)
    data = CocoFolder(coco_folder, keypoints=True)
    assert evaluate(Oracle(data), data)["keypoint_AP"] == pytest.approx(1.0)


def test_the_mode_of_the_model_is_kept(data: CocoFolder) -> None:
    for training in (True, False):
        model = Oracle(data).train(training)
        evaluate(model, data)
        assert model.training is training


def test_a_drawn_box_stands_where_the_object_is(data: CocoFolder) -> None:
    image, target = data[0]
    picture = draw_objects(image, target, data.categories)
    zoom = round(320 / min(image.shape[1:]))
    assert picture.size == (image.shape[2] * zoom, image.shape[1] * zoom)
    x1, _, _, y2 = (int(c) * zoom for c in target["boxes"][0].tolist())
    assert picture.getpixel((x1, y2)) == colour_of(int(target["labels"][0]))


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((2, 2000), (2, 2000)), ((2000, 2), (2000, 2)), ((3, 300), (12, 1200)), ((1, 1), (320, 320))],
)
def test_a_strip_is_not_enlarged_without_bound(size: tuple, drawn: tuple) -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    picture = draw_objects(torch.zeros(3, *size), nothing, ["thing"])
    assert (picture.height, picture.width) == drawn


@pytest.mark.parametrize(("label", "score"), [(0, 0.9), (1, 0.4)])
def test_background_and_doubtful_objects_are_not_drawn(label: int, score: float) -> None:
    image = torch.zeros(3, 400, 400)
    objects = {
        "boxes": torch.tensor([[50.0, 50, 200, 200]]),
        "labels": torch.tensor([label]),
        "scores": torch.tensor([score]),
    }
    assert not np.asarray(draw_objects(image, objects, ["thing"])).any()
    assert np.asarray(
        draw_objects(image, objects | {"labels": torch.tensor([1])}, ["thing"], min_score=0.1)
    ).any()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_comparison_holds_every_pair(count: int) -> None:
    colours = [(200, 10 * i, 0) for i in range(2 * count)]
    pictures = [Image.new("RGB", (40, 30), colour) for colour in colours]
    sheet = comparison(list(zip(pictures[::2], pictures[1::2], strict=True)))
    shown = {colour for _, colour in sheet.getcolors(1 << 16)}
    assert set(colours) <= shown
    assert sheet.height >= math.ceil(count / 2) * 30


def test_an_empty_comparison_is_rejected() -> None:
    with pytest.raises(ValueError, match="at least one image, got none"):
        comparison([])


def test_a_set_without_objects_can_be_evaluated(tmp_path: Path) -> None:
    folder = write_coco(tmp_path / "empty", 2)
    content = json.loads((folder / "instances.json").read_text()) | {"annotations": []}
    (folder / "instances.json").write_text(json.dumps(content))
    data = CocoFolder(folder)
    assert evaluate(Oracle(data), data)["box_AP"] == -1


class Guesser(Oracle):
    """Returns targets with noise on boxes, labels and scores, so that metrics are no round ones."""

    def answer(self, target: dict) -> dict:
        answer = super().answer(target)
        count = len(answer["labels"])
        answer["boxes"] = answer["boxes"] + torch.randn(count, 4)
        answer["labels"] = torch.randint(1, 3, (count,))
        answer["scores"] = torch.rand(count)
        answer["masks"] = answer["masks"].roll(1, -1)
        answer["keypoints"] = answer["keypoints"] + torch.randn(count, 2, 3)
        return answer


def test_the_faster_implementation_gives_equal_figures(data: CocoFolder, monkeypatch) -> None:
    pytest.importorskip("faster_coco_eval")
    results = []
    for blocked in (False, True):
        if blocked:
            monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
        torch.manual_seed(7)
        assert import_coco_api()[0].__module__.startswith(
            "pycocotools" if blocked else "faster_coco_eval"
        )
        results.append(evaluate(Guesser(data), data))
    assert 0 < results[0]["box_AP"] < 1
    assert results[0] == pytest.approx(results[1], abs=1e-12)
