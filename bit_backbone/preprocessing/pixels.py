"""The steps of preprocessing on one image: resize, centre crop, rescale and normalise."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from bit_backbone.preprocessing.images import WorkingImage


def resize(
    image: WorkingImage, size: Mapping[str, int], resample: Image.Resampling, white: float
) -> WorkingImage:
    """Resizes with Pillow's antialiased filters.

    Args:
        image: A PIL image, or a tensor [C, H, W].
        size: A form that ``target_size`` takes.
        resample: The filter.
        white: Upper end of the legal range of a floating-point image. Results are clamped to
            [0, white], for bicubic and Lanczos overshoot; Pillow does the same with 8 bits.
    """
    if isinstance(image, Image.Image):
        height, width = target_size(image.height, image.width, size)
        return image.resize((width, height), resample)
    height, width = target_size(image.shape[1], image.shape[2], size)
    planes = [Image.fromarray(p).resize((width, height), resample) for p in image.numpy()]
    resized = torch.cat([to_tensor(plane) for plane in planes])
    return resized.clamp_(0, white) if resized.is_floating_point() else resized


def target_size(height: int, width: int, size: Mapping[str, int]) -> list[int]:
    """Returns the [height, width] that an image is resized to.

    All forms but the last keep the aspect ratio, and round sides that follow from it down. These
    are transformers' sizes, in its order of floating-point operations, save for one case: there,
    an image whose shorter side is right already keeps a longer side that is not.

    Args:
        height: Of the image.
        width: Of the image.
        size: {"shortest_edge": n}; the same with "longest_edge": m, which the longer side must not
            exceed; {"max_height": h, "max_width": w}, of which the image fills one; or
            {"height": h, "width": w}.
    """
    if "height" in size:
        return [size["height"], size["width"]]
    if "max_height" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return [max(1, int(height * scale)), max(1, int(width * scale))]
    short, long = min(height, width), max(height, width)
    edge: float = size["shortest_edge"]
    if long / short * edge > size.get("longest_edge", math.inf):
        edge = size["longest_edge"] * short / long
    sides = [max(1, round(edge)), max(1, int(edge * long / short))]
    return sides if height <= width else sides[::-1]


def center_crop(image: WorkingImage, size: Mapping[str, int], rounding: str) -> WorkingImage:
    """Cuts out the central height x width, after padding with zeros where the image is smaller.

    Args:
        image: A PIL image, or a tensor [C, H, W].
        size: {"height": h, "width": w}.
        rounding: How an odd margin or padding is split, one of ``settings.CROP_ROUNDINGS``. "down",
            as transformers' PIL backend does: half of the margin rounded down lies above and left,
            and so does the extra row of a padding. "even", as torchvision and timm do: half of the
            margin rounded half to even, which is one pixel more where (size - crop) mod 4 = 3; the
            extra row of a padding lies below and right.
    """
    height, width = size["height"], size["width"]
    if isinstance(image, Image.Image):
        top, left = _start(image.height, height, rounding), _start(image.width, width, rounding)
        return image.crop((left, top, left + width, top + height))  # zeros beyond the border
    own_height, own_width = image.shape[1:]
    top, left = _start(own_height, height, rounding), _start(own_width, width, rounding)
    below, right = top + height - own_height, left + width - own_width
    return torch.nn.functional.pad(image, (-left, right, -top, below))


def _start(side: int, crop: int, rounding: str) -> int:
    """Returns where a crop of a side begins; before 0 where the crop is longer."""
    if rounding == "down":
        return (side - crop) // 2
    return round((side - crop) / 2) if side >= crop else -((crop - side) // 2)


def to_tensor(image: WorkingImage) -> torch.Tensor:
    """Returns the pixels as they are, [C, H, W]."""
    if not isinstance(image, Image.Image):
        return image
    values = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(values).permute(2, 0, 1)


def rescale(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiplies by ``factor`` into float32, rounding once.

    The product is taken in double precision: then 1/255 gives the same bits as a division by 255.
    """
    return (pixels.double() * factor).float()


def normalize(
    pixels: torch.Tensor, mean: float | Sequence[float], std: float | Sequence[float]
) -> torch.Tensor:
    """Subtracts ``mean`` and divides by ``std``, per channel or one number for all, in float32.

    Raises:
        ValueError: If their lengths differ from the number of channels.
    """
    channels = pixels.shape[0]
    per_channel = {"image_mean": _expand(mean, channels), "image_std": _expand(std, channels)}
    for name, values in per_channel.items():
        if len(values) != channels:
            raise ValueError(
                f"{name} must be one number, or one for each of the image's {channels} channels, "
                f"got {len(values)}: {values}"
            )
    pixels = pixels.float()
    shift, scale = (pixels.new_tensor(v)[:, None, None] for v in per_channel.values())
    return (pixels - shift).div_(scale)


def pad(images: Sequence[torch.Tensor], size: Mapping[str, int] | None) -> list[torch.Tensor]:
    """Appends zeros below and to the right of images [C, H, W].

    Args:
        images: The batch.
        size: {"height": h, "width": w} of the results; None for the largest of the batch.

    Raises:
        ValueError: An image is larger than ``size``.
    """
    if size is None:
        size = {"height": max(image.shape[1] for image in images),
                "width": max(image.shape[2] for image in images)}  # fmt: skip
    padded = []
    for image in images:
        below, right = size["height"] - image.shape[1], size["width"] - image.shape[2]
        if below < 0 or right < 0:
            raise ValueError(
                f"pad_size must be at least the size of every image, got {dict(size)} for an image "
                "of "
                f"{image.shape[1]} x {image.shape[2]}: pad more, or resize or crop to less"
            )
        padded.append(torch.nn.functional.pad(image, (0, right, 0, below)))
    return padded


def _expand(values: float | Sequence[float], channels: int) -> list[float]:
    return list(values) if isinstance(values, Sequence) else [values] * channels
