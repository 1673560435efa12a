"""DigitScenes: handwritten digits pasted onto photographs, reproducibly."""

import colorsys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from bit_backbone.datasets.digits.glyphs import KEYPOINTS, Glyph, draw_glyph
from bit_backbone.datasets.digits.sources import SPLITS, check_split, digits, photographs

CATEGORIES = tuple(str(digit) for digit in range(10))
MAX_ROTATION = 30.0  # degrees; beyond about 45 a 6 becomes a 9 and a 7 a 1
ASPECTS = (0.85, 1.15)
CROPS = (0.45, 1.0)  # side of the background crop, as a fraction of the largest that fits
MIN_CONTRAST = 0.35  # between a digit's luma and its background's, both in 0..1
PLACEMENTS = 25  # tried for each object before it is left out
LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Scene:
    """One image with the objects in it, in the order in which they were pasted.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: The digits, int64 [n] in 0..9.
        masks: The visible pixels of each object, bool [n, H, W]; they do not overlap.
        keypoints: COCO's (x, y, visibility) of each object's keypoints, float64 [n, 4, 3], in
            pixels; visibility is 2 for a visible and 1 for an occluded point.
        left_out: Objects for which no free place was found.
    """

    image: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    keypoints: np.ndarray
    left_out: int

    @property
    def semantic(self) -> np.ndarray:
        """The digit + 1 at each pixel and 0 for background, uint8 [H, W]."""
        ids = (self.labels + 1).astype(np.uint8).reshape(-1, 1, 1)
        return (self.masks * ids).sum(0, dtype=np.uint8)


@dataclass(frozen=True)
class DigitScenes:
    """A sequence of scenes, each drawn when asked for; equal arguments give equal scenes.

    Scene ``i`` does not depend on ``num_images``: a longer sequence begins with the same scenes.

    Args:
        split: "train" or "test"; they share neither digits nor photographs.
        num_images: Length of the sequence.
        image_size: Height and width in pixels.
        num_objects: Smallest and largest number of objects in a scene. A scene without free places
            holds fewer.
        digit_height: Smallest and largest height of a digit in pixels.
        min_visible: Smallest fraction of an object's pixels that stays visible.
        seed: Not negative.

    Raises:
        ValueError: An argument is out of its range; the message names the range.
    """

    split: str = "train"
    num_images: int = 500
    image_size: tuple[int, int] = (160, 192)
    num_objects: tuple[int, int] = (2, 6)
    digit_height: tuple[int, int] = (24, 56)
    min_visible: float = 0.7
    seed: int = 0

    def __post_init__(self) -> None:
        check_split(self.split)
        _check(self.num_images >= 1, "num_images should be at least 1", self.num_images)
        _check(self.seed >= 0, "seed should be at least 0", self.seed)
        _check(0 < self.min_visible <= 1, "min_visible should be in (0, 1]", self.min_visible)
        _check_range("num_objects", self.num_objects, 0)
        # Below 12 pixels the strokes of a digit are thinner than a pixel.
        _check_range("digit_height", self.digit_height, 12)
        _check(
            min(self.image_size) >= 2 * self.digit_height[1],
            f"image_size should be at least twice the largest digit_height "
            f"({self.digit_height[1]}) each way, so that a turned digit fits",
            self.image_size,
        )

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < self.num_images:
            raise IndexError(f"scene {index} of {self.num_images}")
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), index])
        canvas = _Canvas(_background(rng, self.split, self.image_size), self.min_visible)
        count = rng.integers(self.num_objects[0], self.num_objects[1], endpoint=True)
        for _ in range(count):
            self._place(rng, canvas)
        return canvas.scene(left_out=int(count) - len(canvas.labels))

    def _place(self, rng: np.random.Generator, canvas: "_Canvas") -> None:
        """Draws a digit and pastes it, if a place is found where all digits stay visible enough."""
        ink, labels = digits(self.split)
        label = int(rng.integers(10))
        digit = ink[rng.choice(np.nonzero(labels == label)[0])]
        for _ in range(PLACEMENTS):
            glyph = draw_glyph(
                digit,
                height=rng.uniform(*self.digit_height),
                degrees=rng.uniform(-MAX_ROTATION, MAX_ROTATION),
                aspect=rng.uniform(*ASPECTS),
            )
            corner = rng.integers(0, np.subtract(self.image_size, glyph.body.shape), endpoint=True)
            if canvas.leaves_others_visible(glyph, corner):
                canvas.paste(glyph, corner, label, rng)
                return


class _Canvas:
    """The image being painted, and which object owns each pixel (-1: none)."""

    def __init__(self, image: np.ndarray, min_visible: float) -> None:
        self.image = image
        self.owner = np.full(image.shape[:2], -1)
        self.min_visible = min_visible
        self.labels: list[int] = []
        self.areas: list[int] = []
        self.keypoints: list[np.ndarray] = []

    def leaves_others_visible(self, glyph: Glyph, corner: np.ndarray) -> bool:
        owner = self.owner.copy()
        owner[_window(glyph, corner)][glyph.mask] = -1
        visible = np.bincount(owner[owner >= 0], minlength=len(self.areas))
        return bool((visible >= self.min_visible * np.array(self.areas)).all())

    def paste(self, glyph: Glyph, corner: np.ndarray, label: int, rng: np.random.Generator) -> None:
        window = _window(glyph, corner)
        colour, outline = _colours(rng, self.image[window])
        for coverage, paint in ((glyph.body, outline), (glyph.fill, colour)):
            alpha = coverage[..., None]
            self.image[window] = (1 - alpha) * self.image[window] + alpha * paint
        self.owner[window][glyph.mask] = len(self.labels)
        self.labels.append(label)
        self.areas.append(int(glyph.mask.sum()))
        self.keypoints.append(glyph.keypoints + corner[::-1])

    def scene(self, left_out: int) -> Scene:
        masks = self.owner == np.arange(len(self.labels)).reshape(-1, 1, 1)
        points = np.array(self.keypoints).reshape(len(masks), len(KEYPOINTS), 2)
        columns, rows = np.floor(points).astype(int).transpose(2, 0, 1)
        seen = masks[np.arange(len(masks))[:, None], rows, columns]
        return Scene(
            image=np.rint(self.image * 255).astype(np.uint8),
            labels=np.array(self.labels, np.int64),
            masks=masks,
            keypoints=np.concatenate([points.round(2), 1.0 + seen[..., None]], axis=2),
            left_out=left_out,
        )


def _window(glyph: Glyph, corner: np.ndarray) -> tuple[slice, slice]:
    (top, left), (height, width) = corner, glyph.body.shape
    return np.s_[top : top + height, left : left + width]


def _background(rng: np.random.Generator, split: str, size: tuple[int, int]) -> np.ndarray:
    """Crops, mirror and relight a photograph; float32 [H, W, 3] in 0..1."""
    photos = photographs(split)
    photo = photos[rng.integers(len(photos))]
    height, width = size
    scale = rng.uniform(*CROPS) * min(photo.width / width, photo.height / height)
    left = rng.uniform(0, photo.width - scale * width)
    top = rng.uniform(0, photo.height - scale * height)
    crop = photo.resize(
        (width, height),
        Image.Resampling.BICUBIC,
        box=(left, top, left + scale * width, top + scale * height),
    )
    pixels = np.asarray(crop, np.float32)[:, :: rng.choice([-1, 1])] / 255
    contrast, brightness = rng.uniform(0.6, 1.0), rng.uniform(-0.1, 0.1)
    return np.clip((pixels - 0.5) * contrast + 0.5 + brightness, 0, 1)


def _colours(rng: np.random.Generator, background: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws a fill in contrast to its ``background`` [h, w, 3], and the outline's colour."""
    luma = float((background @ LUMA).mean())
    while True:
        colour = np.array(
            colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.4, 1), rng.uniform(0.15, 1))
        )
        if abs(colour @ LUMA - luma) >= MIN_CONTRAST:
            return colour, np.full(3, 0.1 if colour @ LUMA > 0.5 else 0.95)


def _check(legal: bool, rule: str, value: object) -> None:
    if not legal:
        raise ValueError(f"{rule}; got {value}")


def _check_range(name: str, value: tuple[int, int], least: int) -> None:
    legal = least <= value[0] <= value[1]
    _check(
        legal, f"{name} should be (smallest, largest) with {least} <= smallest <= largest", value
    )
