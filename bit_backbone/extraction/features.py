"""The network over batches, and what is kept of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bit_backbone.backbone import BitBackbone
from bit_backbone.extraction.batching import batches_of_one_size
from bit_backbone.extraction.decoding import Decoded, too_large
from bit_backbone.extraction.listing import ImageRef
from bit_backbone.extraction.pooling import POOLINGS
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.settings import PLAIN
from bit_backbone.utils.out_of_memory import TooLargeError, each_that_fits, fitting

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
PRECISIONS: Mapping[str, torch.dtype] = {**DTYPES, "bf16": torch.bfloat16, "int8": torch.int8}


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
                "images are read as RGB, so the network must take 3 channels, got num_channels="
                f"{backbone.config.num_channels}"
            )
        self._backbone = backbone
        self._pool = None if pool is None else POOLINGS[pool]
        self._dtype = dtype
        self._batch_size = batch_size
        self._place = next(backbone.parameters())
        self._narrowest = "fp16" if self._place.dtype == torch.float16 else dtype
        self._levels = _levels(processor).to(self._place.device)
        self._fitted = 0  # pixels of the largest image that has fitted into memory

    def __call__(self, images: Iterable[Decoded]) -> Iterator[Features | Failure]:
        """Returns the features or the failure of each image, not in order.

        Raises:
            ExtractionError: An image does not fit into memory, though one as large has before.
        """
        failures: list[Failure] = []
        for batch in batches_of_one_size(_readable(images, failures), self._batch_size):
            yield from failures
            failures.clear()
            yield from each_that_fits(self._extract, batch, self._too_large)
        yield from failures

    def _extract(self, batch: Sequence[Decoded]) -> list[Features | Failure]:
        _, height, width = _pixels(batch[0]).shape
        with fitting(f"a batch of {len(batch)} x {height} x {width} pixels"):
            try:
                arrays = self._arrays(batch)
            except ValueError as error:  # too small for the network, and so is all the batch
                return [Failure(image.ref, str(error)) for image in batch]
            self._fitted = max(self._fitted, height * width)
            return [
                self._checked(image, {name: array[row] for name, array in arrays.items()})
                for row, image in enumerate(batch)
            ]

    @torch.inference_mode()
    def _arrays(self, batch: Sequence[Decoded]) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(np.stack([_pixels(image) for image in batch]))
        outputs = self._backbone(self._normalize(pixels))
        return {name: self._keep(output) for name, output in outputs.items()}

    def _too_large(self, image: Decoded, error: TooLargeError) -> Failure:
        failure = too_large(image.ref, _pixels(image)[0].size, self._fitted, error)
        failure.raise_if_fatal()
        return Failure(image.ref, str(failure.reason))

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
        return _contiguous(kept.to(DTYPES[self._dtype]).cpu()).numpy()

    def _checked(self, image: Decoded, arrays: dict[str, np.ndarray]) -> Features | Failure:
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                return Failure(image.ref, f"{name} has values that {self._narrowest} cannot hold")
        _, height, width = _pixels(image).shape
        return Features(image.ref, image.size, (height, width), arrays)


def _readable(images: Iterable[Decoded], failures: list[Failure]) -> Iterator[Decoded]:
    for image in images:
        if image.pixels is None:
            failures.append(Failure(image.ref, image.reason or "no image"))
        else:
            yield image


def _contiguous(output: Tensor) -> Tensor:
    """Lays channels-last maps [N, C, H, W] out as they are written.

    As matrices, which PyTorch transposes by tiles; maps of four axes it copies value by value.
    """
    if output.ndim != 4 or not output.is_contiguous(memory_format=torch.channels_last):
        return output.contiguous()
    result = torch.empty(output.shape, dtype=output.dtype)
    pixels = output.permute(0, 2, 3, 1).flatten(1, 2)
    for target, image in zip(result.flatten(2), pixels, strict=True):
        target.copy_(image.t())
    return result


def _pixels(image: Decoded) -> np.ndarray:
    assert image.pixels is not None  # _readable lets no other through
    return image.pixels


def _levels(processor: BitImageProcessor) -> Tensor:
    """Returns what the processor makes of the 256 levels of each channel, [3, 256]."""
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    flat = processor.replace(**PLAIN).replace(do_resize=False, do_center_crop=False)
    return flat(ramp, input_data_format="channels_last")["pixel_values"][0, :, 0]
