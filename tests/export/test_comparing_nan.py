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


def _one_detection(**inside):
    return {
        "boxes": torch.tensor([[0.0, 0.0, 50.0, 40.0]]),
        "labels": torch.tensor([1]),
        "scores": torch.tensor([0.9]),
        **inside,
    }


@pytest.mark.parametrize("value", [NAN, INFINITE, 99.0])
@pytest.mark.parametrize("part", ["keypoints", "keypoints_scores"])
def test_wrong_keypoints(value, part):
    expected = _one_detection(keypoints=torch.rand(1, 4, 3), keypoints_scores=torch.rand(1, 4))
    found = {**expected, part: expected[part].clone()}
    tolerance = TOLERANCES["float32"]
    assert compare_detections(expected, found, tolerance).problem is None
    found[part][0, 2] = value
    assert "keypoints of 1 of 1" in compare_detections(expected, found, tolerance).problem


@pytest.mark.parametrize("value", [NAN, 0.3])
def test_wrong_probabilities_of_a_mask(value):
    """On the same side of one half too."""
    masks = torch.zeros(1, 1, 60, 60)
    masks[..., 5:35, 5:45] = 0.1
    masks[..., 10:30, 10:40] = 0.8
    expected = _one_detection(masks=masks)
    found = _one_detection(masks=torch.where(masks == 0.1, value, masks))
    tolerance = TOLERANCES["float32"]
    assert compare_detections(expected, expected, tolerance).problem is None
    assert "masks" in compare_detections(expected, found, tolerance).problem
