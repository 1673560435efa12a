"""Reading images of any accepted kind into one of two working forms.

The working form of an 8-bit grey, RGB or RGBA image is a ``PIL.Image.Image``, so that resizing is
Pillow's to the bit. Every other image becomes a tensor [C, H, W], uint8 or float32.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from bit_backbone.preprocessing.deep import (
    AUTO,
    BitDepth,
    is_deep,
    numbers_to_eight_bits,
    to_eight_bits,
)
from bit_backbone.preprocessing.tiffs import is_for_tifffile, read_tiff, tiff_size
from bit_backbone.utils.files import BoundedReader
from bit_backbone.utils.out_of_memory import is_out_of_memory
from bit_backbone.utils.ways_out import after, either, in_python, passing

ImageLike: TypeAlias = Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str]
ImageInput: TypeAlias = ImageLike | Sequence["ImageInput"]
WorkingImage: TypeAlias = Image.Image | torch.Tensor

CHANNEL_FORMATS = ("channels_first", "channels_last")
_COLOUR_CHANNELS = (1, 3, 4)
_AS_FLOATS = "pass floats in [0, 1] with do_rescale=False"


def flatten(images: ImageInput) -> list[ImageLike]:
    """Lists the single images of an image, a batch [N, ...] or a (nested) sequence of these.

    Raises:
        ValueError: If there is no image, or something that is not an image.
    """
    flat = list(_iterate(images))
    if not flat:
        raise ValueError("at least one image is needed, got an empty sequence")
    return flat


def _iterate(images: ImageInput) -> Iterator[ImageLike]:
    if isinstance(images, (Image.Image, str, os.PathLike)):
        yield images
    elif isinstance(images, (np.ndarray, torch.Tensor)):
        if images.ndim not in (2, 3, 4):
            raise ValueError(
                "an image array must have 2 or 3 dimensions, and a batch 4, "
                f"got shape {tuple(images.shape)}"
            )
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, Iterable):
        for image in images:
            yield from _iterate(image)
    else:
        raise ValueError(
            "an image must be a PIL image, a numpy array, a torch tensor or a path, "
            f"got {type(images).__name__}"
        )


def common_device(images: Iterable[ImageLike]) -> torch.device:
    """Returns the device that all images are on: the CPU unless all are tensors on one other."""
    cpu = torch.device("cpu")
    devices = {image.device if isinstance(image, torch.Tensor) else cpu for image in images}
    return devices.pop() if len(devices) == 1 else cpu


def read(
    image: ImageLike,
    convert_rgb: bool,
    input_data_format: str | None,
    white: float,
    bit_depth: BitDepth = AUTO,
    upright: bool = True,
) -> WorkingImage:
    """Brings one image into its working form.

    Args:
        image: A PIL image, an array or tensor [H, W], [H, W, C] or [C, H, W], or the path of a
            file, which is turned upright by its EXIF orientation.
        convert_rgb: Make three channels of grey, palette, CMYK, ... images; transparency is
            composited on white. Arrays of one channel are grey, of four RGBA.
        input_data_format: Where an array has its channels; None finds out.
        white: The largest legal value of a floating-point image in memory, 1.0 or 255.0.
        bit_depth: How many bits of files, PIL images and arrays of more than 8 are used; "auto"
            for all that their type has. Floats in a file lie in [0, 1].
        upright: Whether to turn a file by its EXIF orientation.

    Returns:
        A PIL image of 8 bits per channel, or a tensor [C, H, W].

    Raises:
        ValueError: For integers of an unknown number of bits, for pixels of an ambiguous range,
            for an unclear channel axis, for a number of channels that cannot be made RGB, and for a
            file that is damaged or has more pixels than Pillow's limit against decompression bombs.
        OSError: For a file that is missing, truncated or no image.
    """
    if isinstance(image, (str, os.PathLike)):
        image = _open(image, bit_depth, upright)
    if isinstance(image, Image.Image) and image.mode != "F":
        if is_deep(image):
            image = to_eight_bits(image, Image.Image.copy, None, "the image", bit_depth)
        return _read_pil(image, convert_rgb)
    pixels = _channels_last(_to_numpy(image), input_data_format)
    if pixels.dtype.kind in "ui" and pixels.dtype != np.uint8:
        pixels = numbers_to_eight_bits(pixels, "the image", bit_depth)
    if convert_rgb and pixels.shape[-1] not in _COLOUR_CHANNELS:
        raise ValueError(
            "do_convert_rgb=True takes images of 1 (grey), 3 (RGB) or 4 (RGBA) channels, "
            f"got {pixels.shape[-1]}; pass do_convert_rgb=False to keep the channels as they are"
        )
    if pixels.dtype != np.uint8:
        return _read_float(pixels.astype(np.float32), convert_rgb, white)
    if pixels.shape[-1] in _COLOUR_CHANNELS:
        grey = pixels.shape[-1] == 1
        return _read_pil(Image.fromarray(pixels[..., 0] if grey else pixels), convert_rgb)
    return _channels_first_tensor(pixels)


def _open(path: str | os.PathLike[str], bit_depth: BitDepth, upright: bool) -> Image.Image:
    if str(path).startswith(("http://", "https://")):
        raise ValueError(
            f"images are only read from local files: download {path} and pass its path"
        )
    return decode(path, str(path), bit_depth, upright)


def decode(
    file: str | os.PathLike[str] | IO[bytes],
    name: str,
    bit_depth: BitDepth | None = AUTO,
    upright: bool = True,
) -> Image.Image:
    """Decodes an image file and turns it upright by its EXIF orientation.

    Args:
        file: Its path, or the open file.
        name: What messages call it.
        bit_depth: How many bits of more than 8 per channel are used; they become 8. None leaves
            them as Pillow reads them.
        upright: Whether to turn it; False leaves it as it is stored.

    Raises:
        ValueError: It is damaged, or has more pixels than Pillow's limit.
        OSError: It is missing, truncated or no image.
    """
    try:
        with _opened(file) as opened, _identified(opened, name) as image:
            return _decoded(opened, image, name, bit_depth, upright)
    except (OSError, ValueError):
        raise
    except Exception as error:  # of any kind: Pillow's plugins raise many on damaged files
        if is_out_of_memory(error):
            raise
        said = str(error) or type(error).__name__
        raise ValueError(f"{name} is damaged or too large: {said}") from error


@contextmanager
def _identified(file: IO[bytes], name: str) -> Iterator[Image.Image | None]:
    """Opens an image with Pillow; None for a TIFF that Pillow does not know."""
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        if not is_for_tifffile(file, None):
            raise UnidentifiedImageError(f"cannot identify image file {name!r}") from error
        yield None
        return
    with image:
        yield image


def _decoded(
    file: IO[bytes], image: Image.Image | None, name: str, bit_depth: BitDepth | None, upright: bool
) -> Image.Image:
    """Decodes an opened image, upright if asked for and with 8 bits per channel."""
    turn = ImageOps.exif_transpose if upright else _as_stored
    if image is None or (bit_depth is not None and is_for_tifffile(file, image)):
        return turn(read_tiff(file, name, bit_depth))
    if bit_depth is None or not is_deep(image):
        return turn(image)

    def opened() -> Image.Image:
        file.seek(0)
        return Image.open(file)

    return to_eight_bits(image, turn, opened, name, bit_depth)


def _as_stored(image: Image.Image) -> Image.Image:
    """Decodes an image as its pixels are stored; Pillow would turn a TIFF upright."""
    image.getexif().pop(Base.Orientation, None)
    return image.copy()


def header_size(file: str | os.PathLike[str] | IO[bytes]) -> tuple[int, int] | None:
    """Returns width and height as an image's header says, None where it cannot be read."""
    try:
        with _opened(file) as opened, _identified(opened, "the image") as image:
            return tiff_size(opened, "the image") if image is None else image.size
    except Exception:  # of any kind, as in decode
        return None


def _opened(file: str | os.PathLike[str] | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    if isinstance(file, str | os.PathLike):
        return BoundedReader(file)
    return nullcontext(file)


def _read_pil(image: Image.Image, convert_rgb: bool) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"an image needs at least one pixel, got (width, height) = {image.size}")
    if convert_rgb:
        return _composite_on_white(image) if image.has_transparency_data else image.convert("RGB")
    if image.mode in ("P", "PA"):
        raise ValueError(
            "the pixels of a palette image are indices, not intensities; pass do_convert_rgb=True"
        )
    return image.convert("L") if image.mode == "1" else image


def _composite_on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image).convert("RGB")


def _to_numpy(image: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    if isinstance(image, torch.Tensor):
        if image.dtype == torch.bfloat16:  # numpy has no such type
            image = image.float()
        image = image.detach().cpu().numpy()
    pixels = np.asarray(image)
    if pixels.dtype.kind not in "uif":
        raise ValueError(
            f"pixels must be integers or floating point, got {pixels.dtype}; scale them to uint8, "
            "or "
            f"{_AS_FLOATS}"
        )
    return pixels


def _channels_last(pixels: np.ndarray, input_data_format: str | None) -> np.ndarray:
    """Returns a view [H, W, C] of an image array."""
    if 0 in pixels.shape:
        raise ValueError(f"an image needs at least one pixel, got shape {pixels.shape}")
    if pixels.ndim == 2:
        return pixels[..., None]
    if input_data_format is None:
        input_data_format = _infer_format(pixels.shape)
    return pixels if input_data_format == "channels_last" else np.moveaxis(pixels, 0, -1)


def _infer_format(shape: tuple[int, ...]) -> str:
    first, last = shape[0] in _COLOUR_CHANNELS, shape[-1] in _COLOUR_CHANNELS
    if first == last:
        raise ValueError(
            f"the channel axis of an image is found by its length, one of {_COLOUR_CHANNELS}, but "
            f"shape {shape} has {'two such axes' if first else 'none at either end'}; "
            "pass input_data_format='channels_first' or 'channels_last'"
        )
    return "channels_first" if first else "channels_last"


def _read_float(pixels: np.ndarray, convert_rgb: bool, white: float) -> torch.Tensor:
    _check_range(pixels, white)
    if convert_rgb and pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    elif convert_rgb and pixels.shape[-1] == 4:
        alpha = pixels[..., 3:] / white
        pixels = alpha * pixels[..., :3] + (1 - alpha) * white
    return _channels_first_tensor(pixels)


def _check_range(pixels: np.ndarray, white: float) -> None:
    """Rejects floats whose scale does not fit do_rescale; all-black fits both."""
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= white):  # written so that NaN fails
        raise ValueError(
            f"floating-point pixels must lie in [0, {white:g}], got [{low:g}, {high:g}]"
            + after("; ", in_python("do_rescale=True means [0, 255], do_rescale=False [0, 1]"))
        )
    if white != 1 and 0 < high <= 1:
        raise ValueError(
            "floating-point pixels that are rescaled mean [0, 255], but all of these lie in "
            f"[{low:g}, {high:g}]: "
            + either(
                passing("do_rescale", False, "if they are in [0, 1] already"), "make them uint8"
            )
        )


def _channels_first_tensor(pixels: np.ndarray) -> torch.Tensor:
    # a copy: the caller's array may be read-only, and must not change under us
    return torch.from_numpy(np.array(np.moveaxis(pixels, -1, 0), order="C"))
