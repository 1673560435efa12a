"""`bit-backbone export config.yaml`: files that give what DefaultPredictor gives."""

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tiny_detectron2 import read, shrink, shrink_heads

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.cli import main
from bit_backbone.export import export, load
from bit_backbone.export.comparing import compare_detections
from bit_backbone.export.detectron2_model import Detectron2Detector, load_from_config
from bit_backbone.export.settings import TOLERANCES

pytestmark = pytest.mark.filterwarnings("ignore")
FASTER = "COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_FPN_1x.yaml"
CASCADE = "COCO-InstanceSegmentation/cascade_mask_rcnn_BiT_R50x1_FPN_3x.yaml"
RETINANET = "COCO-Detection/retinanet_BiT_R50x1_FPN_1x.yaml"
KEYPOINT = "COCO-Keypoints/keypoint_rcnn_BiT_R50x1_FPN_1x.yaml"
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt"}


def tiny(name: str) -> CfgNode:
    cfg = shrink_heads(shrink(read(name)))
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 128, 200
    cfg.MODEL.RETINANET.SCORE_THRESH_TEST = cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.01
    cfg.MODEL.PIXEL_STD = [127.5] * 3
    return cfg


def trained(cfg: CfgNode, folder) -> str:
    """Writes a configuration and weights whose scores differ from each other."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and "backbone" not in name:
            nn.init.kaiming_normal_(layer.weight)
            layer.weight.data.mul_(0.4)
    torch.save(model.state_dict(), folder / "model_final.pth")
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    path = folder / "config.yaml"
    path.write_text(cfg.dump())
    return str(path)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def predicted(cfg: CfgNode, image: np.ndarray) -> dict[str, torch.Tensor]:
    """What detectron2's own predictor finds, in our terms; it takes BGR."""
    found = DefaultPredictor(cfg)(image[:, :, ::-1])["instances"]
    values = {
        "boxes": found.pred_boxes.tensor,
        "labels": found.pred_classes + 1,
        "scores": found.scores,
    }
    masks = {"masks": found.pred_masks[:, None].float()} if found.has("pred_masks") else {}
    return values | masks


@pytest.mark.parametrize(
    ("name", "kind", "channels"),
    [
        ("onnx", FASTER, "BGR"),
        ("onnx", MASK, "RGB"),
        ("onnx", CASCADE, "RGB"),
        ("onnx", RETINANET, "RGB"),
        ("openvino", MASK, "BGR"),
        ("openvino", RETINANET, "RGB"),
    ],
)
def test_a_file_gives_what_the_predictor_gives(name, kind, channels, tmp_path, images):
    cfg = tiny(kind)
    cfg.INPUT.FORMAT = channels
    config = trained(cfg, tmp_path)
    target = tmp_path / f"model{SUFFIX[name]}"
    command = ["export", config, "--format", name, "--output", str(target)]
    assert main([*command, "--images", str(images)]) == 0
    read_back = load(target)
    assert len(read_back.metadata.categories) == 80
    for size in ((90, 120), (131, 300)):
        image = noise(*size)
        expected = predicted(cfg, image)
        (found,) = read_back([torch.from_numpy(image).permute(2, 0, 1) / 255])
        assert len(expected["boxes"]) > 5
        # of 100 detections the last may be another, as good as equal
        tolerance = replace(TOLERANCES["float32"], unmatched=0.01)
        assert compare_detections(expected, _thresholded(found), tolerance).problem is None


def _thresholded(found):
    if "masks" in found:
        return found | {"masks": (found["masks"] >= 0.5).float()}
    return found


@pytest.mark.parametrize("preprocessing", [False, True])
def test_torchscript(preprocessing, tmp_path, images):
    cfg = tiny(FASTER)
    detector, _ = load_from_config(trained(cfg, tmp_path))
    path = tmp_path / "model.pt"
    export(detector, path, format="torchscript", images=images, with_preprocessing=preprocessing)
    image = torch.from_numpy(noise(90, 120))
    given = image if preprocessing else image.permute(2, 0, 1) / 255
    expected = predicted(cfg, image.numpy())
    found = load(path)(given if preprocessing else [given])
    found = found if preprocessing else found[0]
    assert compare_detections(expected, found, TOLERANCES["float32"]).problem is None


def test_a_silent_detector_is_compared_too(tmp_path, images):
    detector, _ = load_from_config(trained(tiny(CASCADE), tmp_path))
    detector.set_threshold(0.999)
    report = export(detector, tmp_path / "model.onnx", format="onnx", images=images)
    assert all(check.difference.compares for check in report.checks)


def test_sizes_are_detectron2s_but_for_exact_halves():
    detector = Detectron2Detector(build_model(tiny(FASTER)), 800, 1333)
    draw = random.Random(0)
    for _ in range(3000):
        size = draw.randint(20, 1500), draw.randint(20, 1500)
        expected = ResizeShortestEdge.get_output_shape(*size, 800, 1333)
        found = detector.target(*size)
        for side, ours, theirs in zip(size, found, expected, strict=True):
            exact = min(side * 800 / min(size), side * 1333 / max(size))
            assert ours == theirs or abs(exact % 1 - 0.5) < 1e-9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "aoti", "--output", "m.pt2"], "by tracing, which writes onnx.* got aoti"),
        (["--format", "onnx", "--output", "m.onnx", "--no-with-nms"], "with its suppression"),
        (["--format", "onnx", "--output", "m.onnx", "--weights", "none.pth"], "no checkpoint"),
    ],
)
def test_what_cannot_be_exported(arguments, message, tmp_path, monkeypatch, capsys):
    config = trained(tiny(FASTER), tmp_path)
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    assert main(["export", config, *arguments]) != 0
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert set(tmp_path.iterdir()) == before


def test_weights_for_a_part_are_no_detector(tmp_path):
    config = trained(tiny(FASTER), tmp_path)
    weights = tmp_path / "model_final.pth"
    state = torch.load(weights)
    torch.save({k: v for k, v in state.items() if k.startswith("backbone.")}, weights)
    with pytest.raises(CheckpointError, match=r"has no weights for proposal_generator.*finished"):
        load_from_config(config)


def test_keypoints_are_rejected():
    with pytest.raises(ValueError, match="without keypoints can be exported, got a GeneralizedRC"):
        Detectron2Detector(build_model(tiny(KEYPOINT)))
