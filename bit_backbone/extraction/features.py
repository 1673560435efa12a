"""The network over batches, and what is kept of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bit_backbone.backbone import BitBackbone
from bit_backbone.extraction.batching import batches_of_one_size
from bit_backbone.extraction.decoding import Decoded
from bit_backbone.extraction.errors import ExtractionError
from bit_backbone.extraction.listing import ImageRef
from bit_backbone.extraction.pooling import POOLINGS
from bit_backbone.preprocessing import BitImageProcessor

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Features:
    """What the network makes of one image.

    Attributes:
        ref: Which one.
        size: (height, width) of the image, upright.
        input_size: The same after resizing: what the network saw.
        arrays: Of each output, [C, H, W], or [C] where it is pooled.
    """

    ref: ImageRef
    size: tuple[int, int]
    input_size: tuple[int, int]
    arrays: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Failure:
    """An image without features, and why."""

    ref: ImageRef
    reason: str


class FeatureExtractor:
    """Runs a backbone over images of any sizes.

    Args:
        backbone: In eval mode, on the device to compute on.
        processor: Its rescaling and normalisation happen here, on the device.
        pool: A key of ``POOLINGS``, or None to keep maps.
        dtype: A key of ``DTYPES``, of the result.
        batch_size: Most images of a forward.

    Raises:
        ValueError: The backbone takes something else than RGB.
    """

    def __init__(
        self,
        backbone: BitBackbone,
        processor: BitImageProcessor,
        pool: str | None,
        dtype: str,
        batch_size: int,
    ) -> None:
        if backbone.config.num_channels != 3:
            raise ValueError(
                "images are read as RGB, so the network takes 3 channels, got num_channels="
                f"{backbone.config.num_channels}"
            )
        self._backbone = backbone
        self._pool = None if pool is None else POOLINGS[pool]
        self._dtype = dtype
        self._batch_size = batch_size
        self._place = next(backbone.parameters())
        self._levels = _levels(processor).to(self._place.device)

    def __call__(self, images: Iterable[Decoded]) -> Iterator[Features | Failure]:
        """Returns the features or the failure of each image, not in order."""
        failures: list[Failure] = []
        for batch in batches_of_one_size(_readable(images, failures), self._batch_size):
            yield from failures
            failures.clear()
            yield from self._extract(batch)
        yield from failures

    @torch.inference_mode()
    def _extract(self, batch: list[Decoded]) -> list[Features | Failure]:
        pixels = torch.from_numpy(np.stack([_pixels(image) for image in batch]))
        try:
            outputs = self._backbone(self._normalize(pixels))
        except ValueError as error:  # too small for the network, and so is all the batch
            return [Failure(image.ref, str(error)) for image in batch]
        except torch.OutOfMemoryError as error:
            raise ExtractionError(
                f"a batch of shape {list(pixels.shape)} does not fit into "
                "the device's memory; go on with a smaller --batch-size"
            ) from error
        arrays = {name: self._keep(output) for name, output in outputs.items()}
        return [
            self._checked(image, {name: array[row] for name, array in arrays.items()})
            for row, image in enumerate(batch)
        ]

    def _normalize(self, pixels: Tensor) -> Tensor:
        """Looks each channel's levels up: the bits are those of the processor."""
        pixels = pixels.to(self._place.device)
        channels = [
            levels[channel.int()]
            for channel, levels in zip(pixels.unbind(1), self._levels, strict=True)
        ]
        return torch.stack(channels, dim=1).to(self._place.dtype)

    def _keep(self, output: Tensor) -> np.ndarray:
        kept = output.float() if self._pool is None else self._pool(output.float())
        return kept.to(DTYPES[self._dtype]).cpu().contiguous().numpy()

    def _checked(self, image: Decoded, arrays: dict[str, np.ndarray]) -> Features | Failure:
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                return Failure(image.ref, f"{name} has values that {self._dtype} cannot hold")
        _, height, width = _pixels(image).shape
        return Features(image.ref, image.size, (height, width), arrays)


def _readable(images: Iterable[Decoded], failures: list[Failure]) -> Iterator[Decoded]:
    for image in images:
        if image.pixels is None:
            failures.append(Failure(image.ref, image.reason or "no image"))
        else:
            yield image


def _pixels(image: Decoded) -> np.ndarray:
    assert image.pixels is not None  # _readable lets no other through
    return image.pixels


def _levels(processor: BitImageProcessor) -> Tensor:
    """Returns what the processor makes of the 256 levels of each channel, [3, 256]."""
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    flat = processor.replace(do_resize=False, do_center_crop=False)
    return flat(ramp, return_tensors="pt", input_data_format="channels_last")["pixel_values"][
        0, :, 0
    ]
