"""The steps of preprocessing on one image: resize, centre crop, rescale and normalise."""

from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from PIL import Image

from bit_backbone.preprocessing.images import WorkingImage


def _functional() -> ModuleType:
    """Imports torchvision when a step first runs: the core of the package loads without it."""
    from torchvision.transforms.v2 import functional

    return functional


def resize(
    image: WorkingImage, size: Mapping[str, int], resample: Image.Resampling, white: float
) -> WorkingImage:
    """Resizes with Pillow's antialiased filters.

    Args:
        image: A PIL image, or a tensor [C, H, W].
        size: {"shortest_edge": n}, which keeps the aspect ratio (the longer side is rounded down),
            or {"height": h, "width": w}.
        resample: The filter.
        white: Upper end of the legal range of a floating-point image. Results are clamped to
            [0, white], for bicubic and Lanczos overshoot; Pillow does the same with 8 bits.
    """
    v2 = _functional()
    edges = [size["shortest_edge"]] if "shortest_edge" in size else [size["height"], size["width"]]
    if isinstance(image, Image.Image):
        return v2.resize(image, edges, interpolation=int(resample))
    planes = [v2.resize(Image.fromarray(plane), edges, int(resample)) for plane in image.numpy()]
    resized = torch.cat([v2.pil_to_tensor(plane) for plane in planes])
    return resized.clamp_(0, white) if resized.is_floating_point() else resized


def center_crop(image: WorkingImage, size: Mapping[str, int]) -> WorkingImage:
    """Cuts out the central height x width, after padding with zeros where the image is smaller.

    An odd margin is split by torchvision's rule: half of it rounded half to even lies above, which
    is one pixel lower than transformers' where (size - crop) mod 4 = 3; an odd padding has its
    extra row below and right, where transformers has it above and left.
    """
    return _functional().center_crop(image, [size["height"], size["width"]])


def to_tensor(image: WorkingImage) -> torch.Tensor:
    """Returns the pixels as they are, [C, H, W]."""
    return _functional().pil_to_tensor(image) if isinstance(image, Image.Image) else image


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
                f"{name} has one number, or one for each of the image's {channels} channels, "
                f"got {len(values)}: {values}"
            )
    return _functional().normalize(pixels.float(), *per_channel.values())


def _expand(values: float | Sequence[float], channels: int) -> list[float]:
    return list(values) if isinstance(values, Sequence) else [values] * channels
