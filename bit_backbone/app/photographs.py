"""The photographs that the page works on: uploaded ones, those of a folder, and two samples."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from bit_backbone.preprocessing.deep import AUTO, BitDepth
from bit_backbone.preprocessing.images import decode, header_size, read
from bit_backbone.utils.extras import MissingExtraError, require_file
from bit_backbone.utils.image_files import is_image
from bit_backbone.utils.out_of_memory import fitting

MOST_BYTES = 32 * 2**20  # of an uploaded file
MOST_PIXELS = 50_000_000  # of an image, which then takes 150 MB
_SAMPLES = ("china.jpg", "flower.jpg")  # of scikit-learn


def read_photograph(path: Path, name: str, bit_depth: BitDepth = AUTO) -> Image.Image:
    """Reads an image upright and in colour.

    Args:
        path: Of the file.
        name: What messages call it.
        bit_depth: How many bits of more than 8 per channel are used.

    Raises:
        ValueError: It is damaged, or has too many bytes or pixels.
        OSError: It is missing, truncated or no image.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"an image has at most {MOST_BYTES // 2**20} MiB, and {name} has {size / 2**20:.0f}; "
            "save it with fewer pixels, or as JPEG"
        )
    width, height = header_size(path) or (0, 0)
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"an image has at most {MOST_PIXELS // 10**6} million pixels, and {name} has {width} x "
            f"{height}; make it smaller"
        )
    with fitting("the image"):
        image = read(decode(path, name, bit_depth), True, None, 255.0)
    assert isinstance(image, Image.Image)  # of 8 bits, as decode makes them all
    return image


class Gallery:
    """The photographs that can be chosen by name, without an upload.

    Args:
        folder: Whose images they are, beside the samples; None for these only.

    Raises:
        ValueError: The folder is none, or has no image.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._paths: dict[str, Path] = {}
        if folder is not None:
            if not folder.is_dir():
                raise ValueError(f"--images takes a folder of images, and {folder} is none")
            found = sorted(path for path in folder.iterdir() if is_image(path.name))
            if not found:
                raise ValueError(f"--images takes a folder of images, and {folder} has none")
            self._paths = {path.name: path for path in found}
        self.own = list(self._paths)
        for name in _SAMPLES:
            path = _sample(name)
            if path is not None:
                self._paths.setdefault(name, path)

    @property
    def names(self) -> list[str]:
        """Of all photographs, those of the folder first."""
        return list(self._paths)

    def read(self, name: str, bit_depth: BitDepth = AUTO) -> Image.Image:
        """Reads one by its name, as ``read_photograph``."""
        return read_photograph(self._paths[name], name, bit_depth)


def _sample(name: str) -> Path | None:
    try:
        return require_file("sklearn", f"datasets/images/{name}", "demo", "a sample")
    except MissingExtraError:  # the page has one photograph less
        return None


def within(picture: Image.Image, most_side: int) -> Image.Image:
    """Returns a picture whose longer side is at most this, itself where it is."""
    if max(picture.size) <= most_side:
        return picture
    smaller = picture.copy()
    smaller.thumbnail((most_side, most_side), Image.Resampling.BICUBIC)
    return smaller
