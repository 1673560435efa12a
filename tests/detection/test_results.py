"""What detect and classify write for machines: JSON lines, and COCO's results format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from rectangles import SMALL, write_coco

from bit_backbone import cli
from bit_backbone.datasets import CocoFolder
from bit_backbone.detection import DetectorSpec, evaluate
from bit_backbone.detection.coco_metrics import import_coco_api, summarize
from bit_backbone.detection.results import coco_records, found_of, objects_of, run_lengths
from bit_backbone.detection.runs import save_spec
from bit_backbone.training.state import RunState

FOUND = {
    "boxes": torch.tensor([[1.0, 2, 4, 8], [0, 0, 2, 2], [5, 5, 6, 7]]),
    "labels": torch.tensor([2, 0, 1]),
    "scores": torch.tensor([0.75, 0.5, 0.25]),
}


def test_records_have_the_ids_of_the_data_set() -> None:
    assert coco_records(FOUND, 9, (7, 2)) == [
        {"image_id": 9, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.75},
        {"image_id": 9, "category_id": 7, "bbox": [5.0, 5.0, 1.0, 2.0], "score": 0.25},
    ]
    assert [r["score"] for r in coco_records(FOUND, 9, (7, 2), 0.3)] == [0.75]


def test_objects_have_names_masks_and_keypoints() -> None:
    masks = torch.zeros(3, 1, 10, 12)
    masks[0, 0, 2:8, 1:4] = 1
    points = torch.arange(9.0).reshape(3, 1, 3)
    (found,) = objects_of(FOUND | {"masks": masks, "keypoints": points}, ("a", "b"), 0.5)
    mask = found.pop("mask")
    assert found == {
        "category": "b", "score": 0.75, "box": [1.0, 2.0, 3.0, 6.0], "keypoints": [0.0, 1.0, 2.0]
    }  # fmt: skip
    assert mask["size"] == [10, 12]
    decoded = rle.decode(json.loads(json.dumps(mask)))
    assert np.array_equal(decoded, masks[0, 0].numpy())


def test_regions_are_masks_of_classes() -> None:
    semantic = torch.tensor([[0, 1, 1], [2, 0, 1]])
    first, second = objects_of({"semantic": semantic}, ("a", "b"), 0.5)
    assert (first["category"], first["pixels"]) == ("a", 3)
    assert (second["category"], second["pixels"]) == ("b", 1)
    assert second["mask"] == run_lengths(semantic == 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Mask R-CNN, and a folder of images that it was not trained on."""
    folder = tmp_path_factory.mktemp("run")
    write_coco(folder / "data", 4)
    torch.manual_seed(3)
    arguments = {**SMALL, "box_score_thresh": 0.0}
    spec = DetectorSpec("maskrcnn_bit_fpn", ("block", "bar"), arguments)
    save_spec(folder, spec)
    RunState(1, {}, spec.build().state_dict(), {}).save(folder)
    return folder


def detect(run: Path, *given: object) -> int:
    images = sorted((run / "data" / "images").iterdir())
    return cli.main(["detect", *map(str, images), "--weights", str(run), *map(str, given)])


def test_json_has_a_line_per_image(run: Path, capsys, tmp_path: Path) -> None:
    (run / "data" / "images" / "9.png").write_text("no image")
    try:
        assert detect(run, "--json", "--min-score", "0") == 3
    finally:
        (run / "data" / "images" / "9.png").unlink()
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["1.png", "2.png", "3.png", "4.png",
                                                            "9.png"]  # fmt: skip
    assert "cannot" in lines[-1]["error"] or "image" in lines[-1]["error"]
    assert "4 of 5 images, 1 failed" in told.err
    for line in lines[:-1]:
        with Image.open(line["image"]) as image:
            width, height = image.size
        assert line["objects"]
        for found in line["objects"]:
            x, y, w, h = found["box"]
            assert 0 <= x <= x + w <= width + 1e-3
            assert 0 <= y <= y + h <= height + 1e-3
            assert found["mask"]["size"] == [height, width]
            assert found["category"] in ("block", "bar")
    assert not list((run / "data" / "images").glob("*_detections.png"))
    assert detect(run, "--json", "--output", tmp_path) == 0
    assert len(list(tmp_path.glob("*_detections.png"))) == 4


def test_the_boxes_are_those_of_the_upright_image(run: Path, tmp_path: Path, capsys) -> None:
    """A photograph that a camera has turned and one saved upright give the same."""
    with Image.open(run / "data" / "images" / "1.png") as image:
        image.save(tmp_path / "upright.png")
        turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise
        turned.save(tmp_path / "turned.png", exif=exif)
    given = [str(tmp_path / name) for name in ("upright.png", "turned.png")]
    assert cli.main(["detect", *given, "--weights", str(run), "--json", "--min-score", "0"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["objects"] == second["objects"] != []


def test_coco_results_are_evaluated_as_the_evaluation_does(run: Path, tmp_path: Path) -> None:
    data = CocoFolder(run / "data", masks=True)
    results = tmp_path / "results.json"
    annotations = run / "data" / "instances.json"
    assert detect(run, "--coco", results, "--annotations", annotations) == 0
    from bit_backbone.detection import load_detector

    model, _ = load_detector(run)
    expected = evaluate(model, data)
    records = json.loads(results.read_text())
    assert {r["category_id"] for r in records} <= {2, 7}
    assert summarize(import_coco_api(), data, records) == pytest.approx(expected)
    assert len(expected) == 24
    assert not list((run / "data" / "images").glob("*_detections.png"))


def test_coco_takes_ids_from_the_names(run: Path, tmp_path: Path) -> None:
    assert detect(run, "--coco", tmp_path / "results.json", "--min-score", "0.01") == 0
    records = json.loads((tmp_path / "results.json").read_text())
    assert {r["image_id"] for r in records} == {1, 2, 3, 4}
    assert {r["category_id"] for r in records} <= {1, 2}
    assert min(r["score"] for r in records) >= 0.01


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--annotations", "x.json"], "--annotations needs --coco, which is missing"),
        (["--coco", "{}/r.json", "--annotations", "{}/other.json"], "1.png is not in"),
        (["--coco", "{}/r.json", "--annotations", "{}/names.json"], "block is not in"),
    ],
)
def test_ids_that_are_not_there(given: list, message: str, run: Path, tmp_path, capsys) -> None:
    images = [{"file_name": f"a/{i}.png", "id": i} for i in range(1, 5)]
    (tmp_path / "other.json").write_text(json.dumps({"images": [], "categories": []}))
    (tmp_path / "names.json").write_text(json.dumps({"images": images, "categories": []}))
    assert detect(run, *[part.format(tmp_path) for part in given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_an_image_without_a_number_needs_annotations(run: Path, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "cat.png")
    command = ["detect", str(tmp_path / "cat.png"), "--weights", str(run), "--coco"]
    assert cli.main([*command, str(tmp_path / "r.json")]) == 2
    assert "cat.png is not a number" in capsys.readouterr().err


def test_a_segmenter_has_no_coco_results(tmp_path: Path, capsys) -> None:
    spec = DetectorSpec("fcn_bit", ("cat",), {"variant": SMALL["variant"]})
    save_spec(tmp_path, spec)
    RunState(1, {}, spec.build().state_dict(), {}).save(tmp_path)
    Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    command = ["detect", str(tmp_path / "1.png"), "--weights", str(tmp_path)]
    assert cli.main([*command, "--coco", str(tmp_path / "r.json")]) == 2
    assert "fcn_bit is a segmenter; use --json" in capsys.readouterr().err
    assert cli.main([*command, "--json", "--precision", "bfloat16"]) == 0
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert sum(found["pixels"] for found in line["objects"]) <= 64 * 48


def test_records_read_back_are_what_was_found() -> None:
    masks = torch.zeros(3, 1, 10, 12)
    masks[0, 0, 2:8, 1:4] = 1
    found = FOUND | {"masks": masks, "keypoints": torch.arange(9.0).reshape(3, 1, 3)}
    again = found_of(coco_records(found, 9, (7, 2)), {7: 1, 2: 2})
    kept = torch.tensor([0, 2])  # without the background
    for name in ("boxes", "labels", "scores", "keypoints"):
        torch.testing.assert_close(again[name], found[name][kept])
    assert torch.equal(again["masks"], masks[kept, 0].byte())
    nothing = found_of([], {1: 1})
    assert nothing["boxes"].shape == (0, 4)
    assert "masks" not in nothing
