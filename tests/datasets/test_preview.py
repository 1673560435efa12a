"""The contact sheet."""

import numpy as np
import pytest

from bit_backbone.datasets.digits.preview import PALETTE, contact_sheet
from bit_backbone.datasets.digits.scenes import DigitScenes

SCENES = DigitScenes(num_images=6, image_size=(112, 120), num_objects=(1, 1))


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (5, 4, 2), (99, 4, 2)]
)
def test_layout(count, columns, rows) -> None:
    assert contact_sheet(SCENES, count).size == (columns * 240, rows * 224)


def test_boxes_are_drawn_around_the_objects() -> None:
    sheet = np.asarray(contact_sheet(SCENES, 1))
    mask = SCENES[0].masks[0]
    top, left = mask.any(1).argmax() * 2, mask.any(0).argmax() * 2
    colour = PALETTE[SCENES[0].labels[0]]
    bottom = (112 - mask.any(1)[::-1].argmax()) * 2 - 1
    expected = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert (sheet[top:bottom, left] == expected).all()
