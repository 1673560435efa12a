"""Cosine similarity of pixels, and the colours that show it."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bit_backbone.visualization.colours import DIVERGING, SEQUENTIAL, coloured
from bit_backbone.visualization.similarity import UnitMap, best_place, contrast

PLACES = ((0.0, 0.0), (0.5, 0.5), (0.99, 0.2), (1.0, 1.0))


@pytest.mark.parametrize("shape", [(6, 5, 7), (1, 1, 1), (300, 2, 3)])
@pytest.mark.parametrize(("x", "y"), PLACES)
def test_similarity_is_the_cosine_and_largest_at_the_place(shape, x, y):
    feature = torch.randn(shape)
    channels, height, width = shape
    row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
    query = feature[:, row, column]
    expected = F.cosine_similarity(feature, query[:, None, None].expand(shape), dim=0)
    units = UnitMap.of(feature)
    found = units.similarity_to(x, y)
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-6, rtol=0)
    assert found[row, column] == found.max()
    assert best_place(found) == ((column + 0.5) / width, (row + 0.5) / height) or channels == 1
    assert units.channels == channels


def test_a_pixel_of_zeros_resembles_nothing():
    feature = torch.randn(4, 2, 2)
    feature[:, 0, 0] = 0
    units = UnitMap.of(feature)
    assert units.similarity_to(0.0, 0.0).tolist() == [[0, 0], [0, 0]]
    assert units.similarity_to(0.9, 0.9)[0, 0] == 0


def test_the_strongest_channels_have_the_values_of_the_map():
    feature = torch.randn(9, 4, 6)
    best = UnitMap.of(feature).strongest(0.6, 0.3, 3)
    values, channels = feature[:, 1, 3].topk(3)
    assert [channel for channel, _ in best] == channels.tolist()
    assert [value for _, value in best] == pytest.approx(values.tolist(), rel=1e-5)
    assert len(UnitMap.of(feature).strongest(0, 0, 20)) == 9


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (torch.zeros(2, 3), r"must be \[C, H, W\], got \[2, 3\]"),
        (torch.full((2, 3, 3), float("nan")), "must be finite"),
    ],
)
def test_what_is_no_feature_map(feature, message):
    with pytest.raises(ValueError, match=message):
        UnitMap.of(feature)


@pytest.mark.parametrize("place", [(-0.1, 0), (0, 1.1), (float("nan"), 0)])
def test_a_place_outside_of_the_image(place):
    with pytest.raises(ValueError, match=r"lies in 0\.\.1 by 0\.\.1, got"):
        UnitMap.of(torch.ones(1, 2, 2)).similarity_to(*place)


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_a_map_gets_the_colours_of_its_values(scale):
    values = torch.tensor([[-1.0, 0.0, 1.0], [2.0, -2.0, 0.5]])
    picture = coloured(values, -1, 1, scale)
    levels = np.array([[0, 128, 255], [255, 0, 191]])
    assert picture.size == (3, 2)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), scale[levels])


def test_a_map_of_one_value_has_one_colour():
    picture = coloured(torch.ones(2, 2), 1.0, 1.0)
    np.testing.assert_array_equal(
        np.asarray(picture.convert("RGB")), np.tile(SEQUENTIAL[0], (2, 2, 1))
    )


def test_the_scales_rise_in_lightness():
    lightness = SEQUENTIAL @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > -1).all()
    assert lightness[-1] - lightness[0] > 200
    assert DIVERGING[127:129].min() > 240


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (torch.arange(101.0).view(1, 101), (0, 99)),
        (torch.tensor([[0.25, 1.0]]), (0.25, 1.0)),  # nothing is larger than the least but one
        (torch.full((3, 3), 0.5), (0.5, 1.0)),
    ],
)
def test_one_pixel_in_a_hundred_is_beyond_the_colours(values, expected):
    assert contrast(values) == expected
