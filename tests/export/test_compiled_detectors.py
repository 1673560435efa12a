"""Detectors compiled ahead of time, for images of any size from the smallest, or of one."""

import zipfile
from unittest.mock import Mock

import pytest
import torch
from models import DENSE, MODELS, assert_close, detector

from bit_backbone.export import export, load
from bit_backbone.export.metadata import KEY, Metadata
from bit_backbone.torchvision import fasterrcnn_bit_fpn

DETECTORS = ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet", "fcos")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "min_size", "smallest"),
    [(fasterrcnn_bit_fpn, 128, 65), *((builder, 160, 129) for builder in DENSE)],
)
def test_the_smallest_image_of_a_compiled_detector(builder, min_size, smallest, images, tmp_path):
    """One whose last feature map has two rows."""
    model = detector(builder, min_size=min_size, max_size=2 * min_size)
    path = tmp_path / "model.pt2"
    report = export(model, path, format="aoti", images=images)
    assert all(check.difference.compares for check in report.checks)
    read, image = load(path), torch.rand(3, smallest, 2 * min_size)
    with torch.no_grad():
        for given in (image, image.transpose(1, 2)):
            assert_close(read([given]), model([given]))
    size = f"{smallest - 1}x{2 * min_size}"
    with pytest.raises(ValueError, match=f"model.pt2 is compiled for .*one of {size} .*onnx"):
        read([image[:, 1:]])


@pytest.mark.parametrize(
    ("message", "raised", "explained"),
    [
        ("Expected u10 >= 5 but received 4", ValueError, "of one of 40x90 .*pad a narrow image"),
        ("out of memory", RuntimeError, "^out of memory$"),
    ],
)
@pytest.mark.parametrize("with_preprocessing", [True, False])
def test_only_the_error_for_small_images_is_explained(
    message, raised, explained, with_preprocessing, tmp_path, monkeypatch
):
    metadata = Metadata(
        "detection", "net", "image", ("boxes",), with_preprocessing=with_preprocessing
    )
    package = Mock(side_effect=RuntimeError(message))
    package.get_metadata.return_value = {KEY: metadata.to_json()}
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: package)
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/wrapper.cpp", "")
    floats, numbers = torch.rand(3, 40, 90), torch.zeros(40, 90, 3, dtype=torch.uint8)
    with pytest.raises(raised, match=explained):
        load(path)([numbers if with_preprocessing else floats])


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_detectors_compiled_for_one_size(kind, images, tmp_path):
    path = tmp_path / "model.pt2"
    export(MODELS[kind](), path, format="aoti", images=images, image_size=(160, 192))
    assert load(path).metadata.image_size == (160, 192)
