"""Packs feature maps into few bytes that preserve the cosine similarity of their pixels."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bit_backbone.visualization.feature_maps import project
from bit_backbone.visualization.similarity import UnitMap

TOLERANCE = 0.02  # of a similarity
# Only some pixels are compared; the limit is stricter because others may differ a little more.
_AIM = 0.7 * TOLERANCE
_COMPARED = 192
_FINEST, _COARSEST = 1 / 127, 0.2  # steps: a component of a direction lies in -1..1, a code in int8
_HALVINGS = 7


@dataclass(frozen=True)
class PackedMap:
    """A feature map's directions as small whole numbers, compressed.

    The directions are projected on their principal axes, which keeps inner products, and rounded
    in equal steps. Most components are then small, take few values, and compress well.

    Attributes:
        codes: int8 [K, H * W], compressed by zlib.
        components: K.
        height: Height of the map.
        width: Width of the map.
        channels: Channels of the feature map.
        error: The largest error of a similarity among the compared pixels.
    """

    codes: bytes
    components: int
    height: int
    width: int
    channels: int
    error: float

    def units(self) -> Tensor:
        """Returns the directions, [K, H * W], of length one or zero."""
        codes = np.frombuffer(zlib.decompress(self.codes), np.int8)
        return _units(torch.from_numpy(codes.reshape(self.components, -1).copy()))


def pack(units: UnitMap) -> PackedMap:
    """Packs a feature map so that similarities stay within ``TOLERANCE`` of the network's."""
    components = project(units.units, units.channels)
    num_pixels = units.height * units.width
    queries = torch.linspace(0, num_pixels - 1, min(_COMPARED, num_pixels)).long()
    expected = units.units[:, queries].T @ units.units

    def error_of(codes: Tensor) -> float:
        rounded = _units(codes)
        return float((rounded[:, queries].T @ rounded - expected).abs().max())

    fine, coarse = _FINEST, _COARSEST
    for _ in range(_HALVINGS):
        middle = (fine * coarse) ** 0.5
        if error_of(_rounded(components, middle)) <= _AIM:
            fine = middle
        else:
            coarse = middle
    codes = _rounded(components, fine)
    size = len(codes), units.height, units.width, units.channels
    return PackedMap(_compressed(codes), *size, error_of(codes))


def _rounded(components: Tensor, step: float) -> Tensor:
    """Returns int8 codes, without the last components if these are all zeros."""
    codes = (components / step).round().clamp(-127, 127).to(torch.int8)
    used = codes.any(dim=1).nonzero()
    return codes[: int(used[-1]) + 1 if len(used) else 1]


def _compressed(codes: Tensor) -> bytes:
    content = codes.numpy().tobytes()
    huffman = zlib.compressobj(strategy=zlib.Z_HUFFMAN_ONLY)  # better without repetitions
    return min(zlib.compress(content), huffman.compress(content) + huffman.flush(), key=len)


def _units(codes: Tensor) -> Tensor:
    values = codes.float()
    return values / values.norm(dim=0).clamp(min=1)
