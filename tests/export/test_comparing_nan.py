"""NaN never passes the comparison of a file with its model."""

import math

import pytest
import torch

from bit_backbone.export.comparing import compare_detections, compare_maps
from bit_backbone.export.settings import TOLERANCES

NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("value", [NAN, INFINITE, 2.0])
def test_one_wrong_number_in_any_map(precision, where, value):
    expected = {"stage1": torch.rand(1, 2, 3, 3), "stage2": torch.rand(1, 2, 3, 3)}
    found = {name: map_.clone() for name, map_ in expected.items()}
    name = list(expected)[where]
    found[name][0, 0, 0, 0] = value
    tolerance = TOLERANCES[precision]
    assert compare_maps(expected, expected, tolerance).problem is None
    assert f"{name} differs" in compare_maps(expected, found, tolerance).problem


@pytest.mark.parametrize("value", [NAN, INFINITE, 99.0])
def test_wrong_keypoints(value):
    expected = {
        "boxes": torch.tensor([[0.0, 0.0, 50.0, 40.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        "keypoints": torch.rand(1, 4, 3),
    }
    found = {**expected, "keypoints": expected["keypoints"].clone()}
    tolerance = TOLERANCES["float32"]
    assert compare_detections(expected, found, tolerance).problem is None
    found["keypoints"][0, 2, 0] = value
    assert "keypoints of 1 of 1" in compare_detections(expected, found, tolerance).problem
