"""Small models of every kind that can be exported, with detections to compare."""

import torch
from networks import TINY as TINY_ARGUMENTS
from networks import randomise, tiny
from untrained import spread_scores

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.detection.segmenters import Segmenter
from bit_backbone.torchvision import (
    bit_fpn_backbone,
    deeplabv3_bit,
    fasterrcnn_bit_fpn,
    fcn_bit,
    fcos_bit_fpn,
    keypointrcnn_bit_fpn,
    maskrcnn_bit_fpn,
    retinanet_bit_fpn,
)

TINY = BitConfig(**TINY_ARGUMENTS)
REGIONS = (fasterrcnn_bit_fpn, maskrcnn_bit_fpn, keypointrcnn_bit_fpn)
DENSE = (retinanet_bit_fpn, fcos_bit_fpn)
FEW = 20
SIZES = ((97, 131), (200, 150), (49, 49))  # the last is one that torchvision resizes to 127


def detector(builder, **overrides):
    """A detector that looks at few boxes; no two scores are as good as equal."""
    arguments = {"variant": TINY, "num_classes": 4, "min_size": 128, "max_size": 256}
    if builder in REGIONS:
        boxes = {"rpn_post_nms_top_n_test": FEW, "box_detections_per_img": FEW}
    else:
        boxes = {"detections_per_img": FEW, "topk_candidates": 100, "score_thresh": 0.0}
    torch.manual_seed(0)
    model = randomise(builder(**(arguments | boxes | overrides))).eval()
    spread_scores(model, [torch.rand(3, 128, 171)])
    return model


def classifier():
    config = TINY.replace(num_labels=3, id2label={0: "cat", 1: "dog", 2: "eel"})
    return randomise(BitForImageClassification(config)).eval()


def assert_close(found, expected):
    """Raises AssertionError where an export's result is not what the model returns."""
    if isinstance(expected, list):
        (found,), (expected,) = found, expected
    if "logits" in expected:
        found, expected = {"": found["logits"]}, {"": expected["logits"]}
    values = list(expected.values()) if "boxes" not in expected else [expected["boxes"]]
    others = list(found.values()) if "boxes" not in expected else [found["boxes"]]
    for ours, theirs in zip(values, others, strict=True):
        assert ours.shape == theirs.shape
        if ours.is_floating_point():
            scale = float(ours.abs().max())
            torch.testing.assert_close(theirs, ours, atol=2e-4 * scale, rtol=0)
        else:
            assert (ours != theirs).float().mean() < 1e-3


MODELS = {
    "backbone": lambda: tiny(out_indices=(1, 4)).eval(),
    "same": lambda: tiny(out_indices=(2, 4), global_padding="same", layer_type="bottleneck").eval(),
    "preact": lambda: tiny(out_indices=(1, 2, 4), feature_norm="preact").eval(),
    "classifier": classifier,
    "pyramid": lambda: randomise(bit_fpn_backbone(TINY)).eval(),
    "deeplab": lambda: randomise(Segmenter(deeplabv3_bit(variant=TINY, num_classes=4))).eval(),
    "fcn": lambda: randomise(Segmenter(fcn_bit(variant=TINY, num_classes=4))).eval(),
    **{b.__name__.split("_")[0]: lambda b=b: detector(b) for b in (*REGIONS, *DENSE)},
}
SUFFIX = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "torch-export": ".pt2",
    "aoti": ".pt2",
    "torchscript": ".pt",
}
