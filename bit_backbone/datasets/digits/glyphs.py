"""Draws a handwritten digit of 8x8 cells as a smooth, rotated, outlined shape of any size."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

CELLS = 8
PAD = 2  # empty cells around the digit, so that strokes at its edge close smoothly
STROKE = 0.5  # ink above this value is stroke
OUTLINE = 0.05  # the outline's width as a fraction of the digit's height
KEYPOINTS = ("top", "right", "bottom", "left")
SKELETON = ((1, 3), (2, 4))  # COCO counts keypoints from 1


@dataclass(frozen=True)
class Glyph:
    """A digit ready to be pasted.

    Attributes:
        fill: Coverage of the strokes, float32 [h, w] in 0..1.
        body: Coverage of strokes and outline together, float32 [h, w] in 0..1.
        keypoints: float64 [4, 2], (x, y) in pixels: the topmost, rightmost, lowest and leftmost
            points of the upright digit's strokes, rotated with the digit.
    """

    fill: np.ndarray
    body: np.ndarray
    keypoints: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """The pixels that belong to the digit, bool [h, w]."""
        return self.body > 0.5


def draw_glyph(ink: np.ndarray, height: float, degrees: float, aspect: float = 1.0) -> Glyph:
    """Draws a digit, tightly cropped.

    Args:
        ink: The digit's cells, [8, 8] in 0..1.
        height: Height of the upright digit in pixels.
        degrees: Clockwise rotation.
        aspect: Width of a cell divided by its height.
    """
    to_pixels = _cells_to_pixels(height / CELLS, math.radians(degrees), aspect)
    outline = max(OUTLINE * height, 1.0)
    side = math.ceil(height * math.hypot(1, aspect) + 2 * outline) + 2
    fill = _resample(ink, to_pixels, side, sharpness=height / CELLS)
    body = _grow(fill, outline)
    rows, columns = np.nonzero(body > 0.02)
    crop = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    corner = np.array([columns.min(), rows.min()])
    keypoints = (_extremes(ink) - CELLS / 2) @ to_pixels.T + side / 2 - corner
    return Glyph(fill[crop], body[crop], keypoints)


def _cells_to_pixels(scale: float, radians: float, aspect: float) -> np.ndarray:
    cos, sin = math.cos(radians), math.sin(radians)
    return scale * np.array([[cos, -sin], [sin, cos]]) @ np.diag([aspect, 1.0])


def _resample(ink: np.ndarray, to_pixels: np.ndarray, side: int, sharpness: float) -> np.ndarray:
    """Interpolates the cells and cuts at STROKE with an edge about one pixel wide."""
    cells = Image.fromarray(np.pad(ink, PAD).astype(np.float32))
    to_cells = np.linalg.inv(to_pixels)
    offset = CELLS / 2 + PAD - to_cells @ np.full(2, side / 2)
    affine = np.column_stack([to_cells, offset]).ravel().tolist()
    smooth = cells.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    return np.clip((np.asarray(smooth) - STROKE) * sharpness + 0.5, 0, 1)


def _grow(coverage: np.ndarray, width: float) -> np.ndarray:
    """Widens a shape by ``width`` pixels, keeping its edge about one pixel wide."""
    blurred = Image.fromarray(np.rint(coverage * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(width)
    )
    # One width away from a straight edge the blurred coverage is 0.16, the normal tail at 1 sigma.
    edge = (np.asarray(blurred, np.float32) / 255 - 0.16) / 0.16
    return np.maximum(coverage, np.clip(edge + 0.5, 0, 1))


def _extremes(ink: np.ndarray) -> np.ndarray:
    """Returns the (x, y) in cells of the strokes' four extremes, in the order of KEYPOINTS.

    If an extreme row or column crosses several strokes, the cell with the most ink is taken: a
    mean would lie between the strokes.
    """

    def inkiest(line: np.ndarray) -> int:
        cells = np.flatnonzero(line == line.max())
        return cells[len(cells) // 2]

    rows = np.nonzero((ink > STROKE).any(axis=1))[0]
    columns = np.nonzero((ink > STROKE).any(axis=0))[0]
    top, bottom, left, right = rows[0], rows[-1], columns[0], columns[-1]
    cells = [
        (inkiest(ink[top]), top),
        (right, inkiest(ink[:, right])),
        (inkiest(ink[bottom]), bottom),
        (left, inkiest(ink[:, left])),
    ]
    return np.array(cells) + 0.5
