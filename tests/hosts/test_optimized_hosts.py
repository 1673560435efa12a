"""optimize_for_inference of whole models of torchvision and detectron2 with BiT in them."""

import pytest
import torch
from networks import TINY, largest_difference, randomise
from torch import nn
from untrained import spread_scores

from bit_backbone import BitConfig, optimize_for_inference
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.torchvision import (
    bit_fpn_backbone,
    deeplabv3_bit,
    fasterrcnn_bit_fpn,
    maskrcnn_bit_fpn,
    retinanet_bit_fpn,
)

CONFIG = BitConfig(**TINY)


def tiny_detector(builder, **options):
    arguments = {"variant": CONFIG, "num_classes": 5, "min_size": 128, "max_size": 256}
    return randomise(builder(**arguments, **options)).eval()


def check_same_detections(found, expected, name):
    """Boxes and scores of an untrained detector are ordered by scores that nearly tie."""
    assert len(found[name]) == len(expected[name])
    order = [value[name].argsort() for value in (found, expected)]
    torch.testing.assert_close(
        found[name][order[0]], expected[name][order[1]], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("channels_last", [True, False])
def test_pyramid_of_torchvision(channels_last):
    backbone = randomise(bit_fpn_backbone(CONFIG)).eval()
    fast = optimize_for_inference(backbone, channels_last, keep_pages=False)
    for size in ((97, 131), (128, 160), (128, 160), (128, 160)):
        images = torch.randn(2, 3, *size)
        with torch.no_grad():
            assert largest_difference(fast(images), backbone(images)) < 1e-5


@pytest.mark.parametrize("builder", [fasterrcnn_bit_fpn, maskrcnn_bit_fpn, retinanet_bit_fpn])
def test_detectors_of_torchvision(builder):
    few = {"rpn_post_nms_top_n_test": 30} if builder is not retinanet_bit_fpn else {}
    model = tiny_detector(builder, **few)
    images = [torch.rand(3, 96, 130), torch.rand(3, 128, 100)]
    if few:
        spread_scores(model, images)
    fast = optimize_for_inference(model, keep_pages=False)
    with torch.no_grad():
        for found, expected in zip(fast(images), model(images), strict=True):
            check_same_detections(found, expected, "scores")
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with pytest.raises(ValueError, match="optimized for inference cannot be trained"):
        fast.train()
    assert not any(module.training for module in fast.modules())


def test_half_precision_stays_within_the_backbone():
    model = tiny_detector(fasterrcnn_bit_fpn)
    fast = optimize_for_inference(model, dtype=torch.bfloat16, keep_pages=False)
    body = {p.dtype for p in fast.backbone.body.parameters()}
    others = {p.dtype for p in fast.roi_heads.parameters()} | {
        p.dtype for p in fast.backbone.fpn.parameters()
    }
    assert (body, others) == ({torch.bfloat16}, {torch.float32})
    with torch.no_grad():
        assert fast([torch.rand(3, 96, 130)])[0]["scores"].dtype == torch.float32


def test_segmenter_of_torchvision():
    model = randomise(deeplabv3_bit(variant=CONFIG, num_classes=4)).eval()
    fast = optimize_for_inference(model, keep_pages=False)
    images = torch.randn(1, 3, 97, 130)
    with torch.no_grad():
        assert largest_difference(dict(fast(images)), dict(model(images))) < 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml",
        "COCO-Detection/retinanet_BiT_R50x1_FPN_1x.yaml",
    ],
)
def test_detectors_of_detectron2(name):
    pytest.importorskip("detectron2")
    from detectron2.modeling import build_model
    from tiny_detectron2 import read, shrink, shrink_heads

    model = randomise(build_model(shrink_heads(shrink(read(name))))).eval()
    fast = optimize_for_inference(model, keep_pages=False)
    assert isinstance(fast.backbone.bottom_up.stem.conv, FoldedConv2d)
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        assert largest_difference(fast.backbone(images), model.backbone(images)) < 1e-5
        fast([{"image": torch.randint(0, 256, (3, 63, 81)).float()}])
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()


def test_res5_of_a_c4_detector_of_detectron2():
    pytest.importorskip("detectron2")
    from bit_backbone.detectron2 import BitRes5

    res5 = randomise(BitRes5(CONFIG.replace(depths=(1, 1, 1, 2)))).eval()
    fast: nn.Module = optimize_for_inference(res5, keep_pages=False)
    regions = torch.randn(3, 128, 14, 14).relu()
    with torch.no_grad():
        before = regions.clone()
        found = fast(regions)
        assert torch.equal(regions, before)
        assert largest_difference({"res5": found}, {"res5": res5(regions)}) < 1e-5
        assert fast(regions[:0]).shape[0] == 0
