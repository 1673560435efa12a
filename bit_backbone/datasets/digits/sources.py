"""The scenes' digits and photographs, by split.

Nothing is downloaded: the digits ship with scikit-learn, the photographs with scikit-learn and
scikit-image. The two splits share neither digits nor photographs.
"""

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bit_backbone.utils.extras import require_file

SPLITS = ("train", "test")

# The digits are ordered by their 13 writers, so a contiguous split keeps each writer on one side,
# except the one at the boundary.
FIRST_TEST_DIGIT = 1347
_DIGITS = "datasets/data/digits.csv.gz"  # a row a digit: 64 pixels from 0 to 16, and the label
_EXTRA = ("demo", "DigitScenes")


@dataclass(frozen=True)
class Photograph:
    """A photograph inside an installed package, and its licence."""

    package: str
    path: str  # below the package's folder
    licence: str

    @property
    def file(self) -> str:
        """The file's name."""
        return self.path.rpartition("/")[2]


CC_BY = "CC BY 2.0, danielbuechele (Flickr)"

PHOTOGRAPHS = {
    "train": (
        Photograph("sklearn", "datasets/images/china.jpg", CC_BY),
        Photograph("skimage", "data/astronaut.png", "public domain, NASA"),
        Photograph("skimage", "data/chelsea.png", "CC0, Stefan van der Walt"),
        Photograph("skimage", "data/rocket.jpg", "public domain, SpaceX"),
        Photograph("skimage", "data/grass.png", "CC0, linolafett"),
        Photograph("skimage", "data/gravel.png", "CC0, cc0textures.com"),
    ),
    "test": (
        Photograph("sklearn", "datasets/images/flower.jpg", "CC BY 2.0, vultilion (Flickr)"),
        Photograph("skimage", "data/coffee.png", "CC0, Rachel Michetti"),
        Photograph("skimage", "data/camera.png", "CC0, Lav Varshney"),
        Photograph("skimage", "data/brick.png", "CC0, cc0textures.com"),
    ),
}


def check_split(split: str) -> None:
    """Raises ValueError unless ``split`` is one of ``SPLITS``."""
    if split not in SPLITS:
        raise ValueError(f"split should be one of {', '.join(SPLITS)}; got {split!r}")


@functools.cache
def digits(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the handwritten digits of a split.

    Args:
        split: "train" (the first 1347 of scikit-learn's 1797) or "test" (the last 450).

    Returns:
        Ink, float32 [N, 8, 8] in 0..1, and the labels, int64 [N] in 0..9.

    Raises:
        ValueError: The split has another name.
        MissingExtraError: scikit-learn is not installed.
    """
    check_split(split)
    rows = np.loadtxt(require_file("sklearn", _DIGITS, *_EXTRA), delimiter=",")
    rows = rows[:FIRST_TEST_DIGIT] if split == "train" else rows[FIRST_TEST_DIGIT:]
    ink, labels = rows[:, :-1].reshape(-1, 8, 8) / 16.0, rows[:, -1]
    return ink.astype(np.float32), labels.astype(np.int64)


@functools.cache
def photographs(split: str) -> tuple[Image.Image, ...]:
    """Returns the photographs of a split as RGB images, in the order of ``PHOTOGRAPHS``.

    Raises:
        ValueError: The split has another name.
        MissingExtraError: scikit-learn or scikit-image is not installed, or is a release without
            one of the photographs.
    """
    check_split(split)
    return tuple(_open(photograph) for photograph in PHOTOGRAPHS[split])


def _open(photograph: Photograph) -> Image.Image:
    # Read as a file of the package: skimage.data's functions would download a photograph that a
    # release no longer contains.
    return Image.open(require_file(photograph.package, photograph.path, *_EXTRA)).convert("RGB")
