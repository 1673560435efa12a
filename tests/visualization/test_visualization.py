"""Principal components and the pictures made of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA

from bit_backbone.visualization import (
    beside,
    channel_mosaic,
    norm_histogram,
    pixel_norms,
    principal_components,
    to_picture,
)


@pytest.mark.parametrize("shape", [(16, 9, 7), (5, 20, 30), (64, 3, 3), (64, 8, 8)])
def test_components_equal_scikit_learns(shape):
    torch.manual_seed(1)
    feature = (
        torch.randn(shape, dtype=torch.float64) * torch.linspace(3, 0.1, shape[0])[:, None, None]
    )
    ours = principal_components(feature).flatten(1).numpy()
    theirs = PCA(3).fit_transform(feature.flatten(1).T.numpy()).T
    for mine, reference in zip(ours, theirs, strict=True):
        sign = np.sign(mine @ reference)
        np.testing.assert_allclose(mine, sign * reference, atol=1e-4)


@pytest.mark.parametrize("channels", [8, 80])
def test_signs_do_not_depend_on_chance(channels):
    torch.manual_seed(2)
    feature = torch.randn(channels, 6, 6)
    flipped = principal_components(feature.flip(1)).flip(1)
    torch.testing.assert_close(principal_components(feature), flipped, atol=1e-4, rtol=1e-4)


def test_many_channels_and_few_give_the_same_components():
    torch.manual_seed(3)
    few = torch.randn(8, 5, 6)
    many = few.repeat(16, 1, 1) / 4  # 128 channels on 30 pixels, with the distances of `few`
    components = principal_components(many)
    torch.testing.assert_close(components, principal_components(few), atol=1e-4, rtol=1e-4)
    peaks = components.flatten(1).abs().argmax(dim=1, keepdim=True)
    assert (components.flatten(1).gather(1, peaks) > 0).all()


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((1, 4, 4), 1),
        ((2, 4, 4), 2),
        ((8, 1, 1), 0),
        ((8, 1, 2), 1),
        ((8, 1, 3), 2),
        ((9, 2, 2), 3),
    ],
)
def test_missing_components_are_zero(shape, kept):
    components = principal_components(torch.randn(shape))
    assert components.shape == (3, *shape[1:])
    assert (components[:kept].flatten(1).norm(dim=1) > 0.01).all()
    assert (components[kept:] == 0).all()


def test_no_matrix_is_larger_than_the_shorter_side(monkeypatch):
    sides, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: sides.append(tuple(m.shape)) or eigh(m))
    principal_components(torch.randn(300, 4, 5))
    principal_components(torch.randn(4, 20, 15))
    assert sides == [(20, 20), (4, 4)]


def test_a_picture_has_the_size_asked_for_and_uses_the_whole_range():
    picture = to_picture(torch.randn(8, 5, 7), (50, 70))
    assert (picture.size, picture.mode) == ((70, 50), "RGB")
    assert picture.getextrema() == ((0, 255),) * 3


def test_a_constant_map_is_a_flat_picture():
    assert to_picture(torch.ones(8, 4, 4), (4, 4)).getcolors() == [(16, (0, 0, 0))]


def test_maps_larger_than_quantile_takes_are_drawn():
    assert to_picture(torch.randn(3, 4100, 4100), (8, 8)).size == (8, 8)


def test_a_mosaic_shows_the_channels_that_vary_most_first():
    feature = torch.zeros(6, 2, 2)
    feature[4] = torch.tensor([[0.0, 8.0], [0.0, 0.0]])
    feature[1] = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    mosaic = np.asarray(channel_mosaic(feature, (8, 8), count=4))
    assert mosaic.shape == (8, 8, 3)
    bright = {(row // 2, column // 2) for row, column in np.argwhere(mosaic[..., 0] == 255)}
    assert bright == {(0, 1), (1, 2)}  # in units of a feature pixel: tiles of 2 x 2


@pytest.mark.parametrize(("channels", "count"), [(1, 16), (5, 16), (20, 16), (20, 3)])
def test_a_mosaic_has_the_size_asked_for(channels, count):
    assert channel_mosaic(torch.randn(channels, 3, 5), (60, 90), count).size == (90, 60)


def test_norms_compare_across_widths():
    feature = torch.randn(4, 5, 6)
    torch.testing.assert_close(pixel_norms(feature), pixel_norms(feature.repeat(3, 1, 1)))
    assert pixel_norms(torch.full((7, 1, 1), -2.0)) == 2


def test_a_histogram_has_a_panel_for_each_stage_on_one_scale():
    picture = norm_histogram({"a": torch.full((2, 4, 4), 1.0), "b": torch.full((2, 4, 4), 2.0)})
    pixels = np.asarray(picture)
    panels = pixels[: len(pixels) // 2], pixels[len(pixels) // 2 :]
    # the middle of each bar: a's lies in the middle of the scale, b's at its end
    bars = [np.flatnonzero((panel[50] == (70, 110, 180)).all(axis=-1)) for panel in panels]
    assert [round(bar.mean() / pixels.shape[1], 2) for bar in bars] == [0.51, 0.99]
    assert norm_histogram({"zero": torch.zeros(2, 3, 3)}).size[0] == pixels.shape[1]


@pytest.mark.parametrize("draw", [channel_mosaic, lambda f, _: norm_histogram({"a": f})])
def test_other_pictures_refuse_what_is_no_feature_map_too(draw):
    with pytest.raises(ValueError, match="must be finite"):
        draw(torch.full((3, 4, 4), float("nan")), (4, 4))


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (torch.zeros(1, 3, 4, 4), r"must be \[C, H, W\], got \[1, 3, 4, 4\]"),
        (torch.full((3, 4, 4), float("nan")), "must be finite"),
        (torch.full((3, 4, 4), float("inf")), "must be finite"),
    ],
)
def test_what_is_no_feature_map_is_rejected(feature, message):
    with pytest.raises(ValueError, match=message):
        to_picture(feature, (4, 4))


def test_pictures_stand_in_a_row():
    row = beside(Image.new("RGB", (3, 2), "red"), Image.new("RGB", (1, 2), "blue"))
    assert row.size == (4, 2)
    assert [row.getpixel((x, 0)) for x in range(4)] == [(255, 0, 0)] * 3 + [(0, 0, 255)]
