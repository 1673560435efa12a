"""Glyphs: true size, rotation and keypoints of a drawn digit."""

import numpy as np
import pytest

from bit_backbone.datasets.digits.glyphs import KEYPOINTS, draw_glyph
from bit_backbone.datasets.digits.sources import digits


@pytest.fixture
def bar() -> np.ndarray:
    """An upright stroke, two cells wide and eight high."""
    ink = np.zeros((8, 8))
    ink[:, 3:5] = 1
    return ink


@pytest.mark.parametrize("height", [12, 24, 56, 200])
def test_height_is_that_of_the_upright_strokes(bar, height) -> None:
    glyph = draw_glyph(bar, height, degrees=0)
    rows, columns = np.nonzero(glyph.fill > 0.5)
    assert np.ptp(rows) + 1 == pytest.approx(height, abs=1 + height / 16)
    assert np.ptp(columns) + 1 == pytest.approx(height / 4, abs=1 + height / 16)


def test_aspect_widens(bar) -> None:
    narrow, wide = (draw_glyph(bar, 80, 0, aspect) for aspect in (0.8, 1.2))
    assert (narrow.fill > 0.5).any(0).sum() < (wide.fill > 0.5).any(0).sum()


@pytest.mark.parametrize(("degrees", "top_is"), [(0, "middle"), (30, "right"), (-30, "left")])
def test_rotation_is_clockwise(bar, degrees, top_is) -> None:
    glyph = draw_glyph(bar, 60, degrees)
    top = (glyph.fill[: len(glyph.fill) // 4] > 0.5).nonzero()[1].mean()
    middle = (glyph.fill.shape[1] - 1) / 2
    assert {"left": top < middle - 5, "middle": abs(top - middle) < 2, "right": top > middle + 5}[
        top_is
    ]


@pytest.mark.parametrize("degrees", [0, 25, -25, 90])
@pytest.mark.parametrize("height", [24, 56])
def test_keypoints_lie_on_the_strokes(height, degrees) -> None:
    for ink in digits("train")[0][:40]:
        glyph = draw_glyph(ink, height, degrees)
        for name, (x, y) in zip(KEYPOINTS, glyph.keypoints, strict=True):
            assert glyph.mask[int(y), int(x)], name


def test_keypoints_are_the_extremes_they_are_named_for() -> None:
    plus = np.zeros((8, 8))
    plus[:, 4] = plus[4] = 1
    keypoints = draw_glyph(plus, 80, degrees=0).keypoints  # 10 pixels a cell
    centre = keypoints[0] + (0, 40)
    assert np.allclose(keypoints - centre, [(0, -40), (30, 0), (0, 30), (-40, 0)])
    turned = draw_glyph(plus, 80, degrees=90).keypoints
    assert np.allclose(turned - turned[0], (keypoints - keypoints[0]) @ [[0, 1], [-1, 0]])


def test_outline_surrounds_the_strokes_and_the_crop_is_tight() -> None:
    for ink in digits("test")[0][:40]:
        glyph = draw_glyph(ink, 40, degrees=17)
        assert (glyph.body >= glyph.fill).all()
        assert glyph.mask.sum() > (glyph.fill > 0.5).sum() * 1.2
        border = [glyph.body[0], glyph.body[-1], glyph.body[:, 0], glyph.body[:, -1]]
        assert all(line.any() for line in border)
        # Nothing is painted far from the strokes: no faint rectangle around the digit.
        assert np.median(glyph.body[glyph.body < 0.02]) == 0
