"""Run lengths against pycocotools, both ways, and strings that are none."""

import numpy as np
import pytest
from pycocotools import mask as api

from bit_backbone.datasets.coco.masks import decode_mask, encode_runs, parse_runs

MASKS = {
    "empty": np.zeros((5, 7), bool),
    "full": np.ones((5, 7), bool),
    "first pixel": np.eye(1, 35, dtype=bool).reshape(5, 7),
    "last pixel": np.eye(1, 35, 34, dtype=bool).reshape(5, 7),
    "noise": np.random.default_rng(0).random((63, 41)) > 0.5,
    "long runs": np.arange(500 * 400).reshape(500, 400) % 70_000 > 50_000,
}


@pytest.mark.parametrize("name", MASKS)
def test_all_three_forms_agree_with_pycocotools(name) -> None:
    mask = MASKS[name]
    height, width = mask.shape
    runs = encode_runs(mask)
    theirs = api.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert api.frPyObjects({"size": [height, width], "counts": runs}, height, width) == theirs
    text = theirs["counts"].decode()
    assert parse_runs(text) == runs
    for counts in (runs, text):
        decoded = decode_mask({"size": [height, width], "counts": counts}, height, width)
        assert (decoded.dtype, decoded.shape) == (np.uint8, (height, width))
        assert np.array_equal(decoded, mask)


def test_polygons_are_united() -> None:
    squares = [[1, 1, 5, 1, 5, 5, 1, 5], [3, 3, 8, 3, 8, 8, 3, 8]]
    mask = decode_mask(squares, 10, 12)
    assert mask.shape == (10, 12)
    assert mask.sum() == 4 * 4 + 5 * 5 - 2 * 2


@pytest.mark.parametrize("text", ["zzz", "\x00", "0P", "\xff"])
def test_strings_that_are_no_runs(text) -> None:
    with pytest.raises(ValueError, match="no run lengths"):
        parse_runs(text)
