"""What a file computes, in PyTorch: equal to the model, on sizes that torchvision rounds oddly."""

import random

import numpy as np
import pytest
import torch
from models import DENSE, FEW, REGIONS, SIZES, detector
from networks import tiny
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from bit_backbone import optimize_for_inference
from bit_backbone.export.pixels import Pixels
from bit_backbone.export.program import program_of
from bit_backbone.export.resizing import DetectorPixels
from bit_backbone.export.settings import ExportSettings
from bit_backbone.preprocessing import PRESETS, BitImageProcessor
from bit_backbone.torchvision import maskrcnn_bit_fpn


@pytest.mark.parametrize("builder", [*REGIONS, *DENSE], ids=lambda b: b.__name__)
def test_a_detectors_program_gives_what_torchvision_gives(builder):
    model = detector(builder)
    program = program_of(model, ExportSettings("onnx"), None)
    for size in SIZES:
        image = torch.rand(3, *size)
        with torch.no_grad():
            (expected,) = model([image])
            found = dict(zip(program.outputs, program.module(image), strict=True))
        assert len(expected["boxes"]) > FEW // 2
        assert list(found) == [name for name in program.outputs if name in expected]
        assert torch.equal(found["labels"], expected["labels"])
        torch.testing.assert_close(found["boxes"], expected["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(found["scores"], expected["scores"], atol=1e-4, rtol=0)
        if "masks" in found:
            torch.testing.assert_close(found["masks"], expected["masks"], atol=5e-3, rtol=0)
        if "keypoints" in found:
            torch.testing.assert_close(found["keypoints"], expected["keypoints"], atol=1e-2, rtol=0)


def test_nothing_found_is_no_error():
    model = detector(maskrcnn_bit_fpn, box_score_thresh=0.999)
    program = program_of(model, ExportSettings("onnx"), None)
    with torch.no_grad():
        boxes, labels, scores, masks = program.module(torch.rand(3, 64, 80))
    assert boxes.shape == (0, 4)
    assert labels.shape == scores.shape == (0,)
    assert masks.shape == (0, 1, 64, 80)


@pytest.mark.parametrize(("short", "long"), [(800, 1333), (160, 320), (128, 256)])
def test_a_detectors_image_has_torchvisions_size_to_the_pixel(short, long):
    """Also where double precision loses a pixel of a whole number, one size in twenty here."""
    pixels = DetectorPixels(GeneralizedRCNNTransform(short, long, [0.5] * 3, [0.5] * 3))
    draw, lost = random.Random(0), 0
    for _ in range(500):
        height = draw.randint(40, 1500)
        width = draw.choice([height, 2 * height, draw.randint(40, 1500), height * 4 // 3])
        scale = min(short / min(height, width), long / max(height, width))
        rows, columns, size = pixels._target(height, width)
        assert size.tolist() == [int(height * scale), int(width * scale)]
        lost += size.tolist() != [rows, columns]
    assert lost


@pytest.mark.parametrize("fixed", [None, (96, 64)])
def test_a_detectors_canvas_is_torchvisions(fixed):
    transform = GeneralizedRCNNTransform(128, 256, [0.5] * 3, [0.4] * 3, fixed_size=fixed)
    pixels = DetectorPixels(transform)
    for size in (*SIZES, (30, 400)):
        image = torch.rand(3, *size)
        canvas, target = pixels(image)
        expected, _ = transform([image])
        torch.testing.assert_close(canvas, expected.tensors, atol=1e-4, rtol=0)
        assert tuple(target.int().tolist()) == tuple(expected.image_sizes[0])


@pytest.mark.parametrize(
    "processor",
    [
        *map(BitImageProcessor.from_preset, PRESETS),
        BitImageProcessor(),
        BitImageProcessor(size=100, crop_size=151),
        BitImageProcessor(size=100, crop_size=151, crop_rounding="even"),
        BitImageProcessor(do_resize=False),
        BitImageProcessor(do_rescale=False, image_mean=127.5, image_std=127.5),
        BitImageProcessor(do_center_crop=False, size=99, do_normalize=False),
    ],
    ids=repr,
)
def test_preprocessing_in_a_file_is_the_processors(processor):
    """To the bit, also where sizes are simple ratios, so that sums end in exact halves."""
    pixels = Pixels(processor)
    noise = np.random.default_rng(0).integers(0, 256, (203, 303, 3), np.uint8)
    for image in (noise, noise[:97], noise[:64, :64].copy(), noise[:32, :256].copy()):
        expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(pixels(torch.from_numpy(image)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_tall_image_is_resized_columns_first(resample):
    """As Pillow does it before version 13, whatever the one that is installed does first."""
    steps = {"do_center_crop": False, "do_normalize": False, "do_rescale": False}
    processor = BitImageProcessor(size={"height": 64, "width": 96}, resample=resample, **steps)
    image = np.random.default_rng(0).integers(0, 256, (203, 151, 3), np.uint8)
    columns = Image.fromarray(image).resize((96, 203), processor.resample)
    expected = np.asarray(columns.resize((96, 64), processor.resample))
    found = Pixels(processor)(torch.from_numpy(image))[0].permute(1, 2, 0)
    assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize(
    ("processor", "message"),
    [
        (BitImageProcessor(resample="nearest"), "resample nearest"),
        (BitImageProcessor(size={"max_height": 9, "max_width": 9}), "size .*max_height"),
        (BitImageProcessor(do_pad=True), "do_pad"),
    ],
)
def test_preprocessing_that_a_file_cannot_do(processor, message):
    with pytest.raises(ValueError, match=f"{message}.*export without preprocessing"):
        Pixels(processor)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: torch.nn.Linear(1, 1), {}, "only a classifier.*can be exported, got a Linear"),
        (
            lambda: optimize_for_inference(tiny(out_indices=(1,))),
            {},
            "optimize_for_inference returned cannot be exported",
        ),
        (lambda: detector(maskrcnn_bit_fpn), {"with_nms": False}, "masks .* with_nms=True"),
        (
            lambda: tiny(out_indices=(1,)),
            {"with_nms": False},
            "a model for features has none",
        ),
    ],
)
def test_what_cannot_be_exported(model, options, message):
    with pytest.raises(ValueError, match=message):
        program_of(model(), ExportSettings(**{"format": "onnx"} | options), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "the format must be one of onnx, .*got 'tflite'"),
        ({"format": "onnx", "precision": "int4"}, "the precision must be one of"),
        ({"format": "onnx", "precision": "bfloat16"}, "onnx takes float32 or float16"),
        ({"format": "aoti", "image_size": (0, 9)}, "two positive numbers"),
    ],
)
def test_wrong_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExportSettings(**arguments)
