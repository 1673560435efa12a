"""detectron2's ways out: tracing, scripting with instances, ONNX of the backbone."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.testing import assert_instances_allclose, convert_scripted_instances
from tiny_detectron2 import read, shrink, shrink_heads

from bit_backbone.detectron2 import Detectron2BitBackbone

pytestmark = pytest.mark.filterwarnings("ignore")
FASTER = "COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_BiT_R50x1_FPN_1x.yaml"
SIZES = [(64, 96), (63, 81)]  # the second is never seen by what is exported


def tiny_model(name: str, **bit: object) -> nn.Module:
    cfg = shrink_heads(shrink(read(name)))
    for key, value in bit.items():
        cfg.MODEL.BIT[key] = value
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    model = build_model(cfg).eval()
    # Scores of an untrained RetinaNet are equal to the last bit, and ties have no order.
    for layer in getattr(model, "head", nn.Module()).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return model


def predict(model: nn.Module, inputs: list[dict[str, torch.Tensor]]) -> Instances:
    """The first image's raw predictions; only R-CNNs can leave out the postprocessing."""
    if hasattr(model, "inference"):
        return model.inference(inputs, do_postprocess=False)[0]
    return model(inputs)[0]["instances"]


def image(size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (3, *size)).float()


@pytest.mark.parametrize("name", [FASTER, RETINANET])
@pytest.mark.parametrize("norm", ["none", "preact", "groupnorm"])
def test_a_traced_detector_equals_it_on_another_size(name: str, norm: str) -> None:
    model = tiny_model(name, FEATURE_NORM=norm)
    adapter = TracingAdapter(model, [{"image": image(SIZES[0])}], predict)
    with torch.no_grad():
        traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
        for size in SIZES:
            picture = image(size)
            expected = predict(model, [{"image": picture}])
            found = adapter.outputs_schema(traced(picture))
            assert_instances_allclose(found, expected, size_as_tensor=True)
            assert len(expected) > 0


@pytest.mark.usefixtures("pytorch_kernels")
@pytest.mark.parametrize("norm", ["none", "preact", "groupnorm"])
def test_a_scripted_detector_equals_it_on_another_size(norm: str) -> None:
    model = tiny_model(FASTER, FEATURE_NORM=norm)
    fields = {
        "proposal_boxes": Boxes,
        "objectness_logits": torch.Tensor,
        "pred_boxes": Boxes,
        "scores": torch.Tensor,
        "pred_classes": torch.Tensor,
    }
    scripted = scripting_with_instances(model, fields)
    with torch.no_grad():
        for size in SIZES:
            picture = image(size)
            expected = predict(model, [{"image": picture}])
            found = scripted.inference([{"image": picture}], do_postprocess=False)[0]
            assert_instances_allclose(convert_scripted_instances(found), expected)
            assert len(expected) > 0


@pytest.mark.usefixtures("pytorch_kernels")
def test_a_reloaded_script_equals_the_backbone(tmp_path) -> None:
    model = tiny_model(FASTER)
    torch.jit.script(model.backbone).save(str(tmp_path / "fpn.pt"))
    reloaded = torch.jit.load(str(tmp_path / "fpn.pt"))
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model.backbone(pictures)
        for name, feature in reloaded(pictures).items():
            torch.testing.assert_close(feature, expected[name])


@pytest.mark.parametrize("padding", [None, "same"])
def test_onnx_of_the_traced_backbone(padding, tmp_path) -> None:
    """ONNX Runtime with all its optimisations, on a size that the trace has not seen."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = tiny_model(FASTER, GLOBAL_PADDING=padding, OUT_FEATURES=[])
    backbone = model.backbone.bottom_up
    assert isinstance(backbone, Detectron2BitBackbone)
    adapter = TracingAdapter(backbone, torch.rand(1, 3, 64, 96))
    path = str(tmp_path / "backbone.onnx")
    axes = {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            adapter,
            adapter.flattened_inputs,
            path,
            dynamo=False,
            opset_version=18,
            input_names=["images"],
            dynamic_axes={"images": axes},
        )
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    pictures = torch.rand(2, 3, 63, 81) * 2 - 1
    with torch.no_grad():
        expected = backbone(pictures)
    for found, feature in zip(
        session.run(None, {"images": pictures.numpy()}), expected.values(), strict=True
    ):
        np.testing.assert_allclose(found, feature.numpy(), rtol=1e-3, atol=1e-4)
