"""The settings that determine the result of an extraction, and so must not change during it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bit_backbone.backbone import BitBackbone
from bit_backbone.extraction.features import DTYPES, PRECISIONS
from bit_backbone.extraction.listing import Listing
from bit_backbone.extraction.pooling import POOLINGS
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.settings import PLAIN
from bit_backbone.utils.weights_hash import weights_hash

FORMATS = ("npy", "safetensors")
MAPS_PER_SHARD = 256
VECTORS_PER_SHARD = 4096
_NAMES, _WEIGHTS = "names of the images", "weights"
_HASHED = (_NAMES, _WEIGHTS)
_NETWORK = "network."
_OUTPUTS = frozenset(f"{_NETWORK}{name}" for name in ("out_features", "out_indices"))


@dataclass(frozen=True)
class OutputSettings:
    """The settings of the output.

    Attributes:
        pool: "avg", "max" or "gem" for a vector per output and image; None for maps.
        format: Format of maps: "npy", one file per map, or "safetensors", one file per image.
        dtype: "fp32" or "fp16".
        shard_size: Images per shard, which an interrupted run loses at most; None for 256 with
            maps, 4096 with vectors.
        precision: "fp32", "bf16", "fp16" or "int8": type of the network.

    Raises:
        ValueError: An argument has another value.
    """

    pool: str | None = None
    format: str | None = None
    dtype: str = "fp32"
    shard_size: int | None = None
    precision: str = "fp32"

    def __post_init__(self) -> None:
        """Checks every argument and fills in what follows from the others."""
        _check("pool", self.pool, (*POOLINGS, None))
        _check("dtype", self.dtype, tuple(DTYPES))
        _check("precision", self.precision, tuple(PRECISIONS))
        _check("format", self.format, (*FORMATS, None))
        if self.pool is not None and self.format is not None:
            raise ValueError(
                "pooled vectors are written to a Parquet table and take no format, got "
                f"{self.format!r}; "
                "leave out either pool or format"
            )
        if self.pool is None and self.format is None:
            object.__setattr__(self, "format", FORMATS[0])
        if self.shard_size is None:
            default = MAPS_PER_SHARD if self.pool is None else VECTORS_PER_SHARD
            object.__setattr__(self, "shard_size", default)
        if not isinstance(self.shard_size, int) or self.shard_size < 1:
            raise ValueError(
                f"a shard needs at least one image, got shard_size {self.shard_size!r}"
            )


def describe(
    listing: Listing, backbone: BitBackbone, processor: BitImageProcessor, output: OutputSettings
) -> dict[str, Any]:
    """Returns everything that the result depends on, as JSON values."""
    network = backbone.config.to_dict()
    steps = {k: v for k, v in processor.to_dict().items() if k not in PLAIN}
    return {
        "images": len(listing),
        _NAMES: listing.fingerprint(),
        **{f"{_NETWORK}{name}": value for name, value in network.items()},
        _WEIGHTS: weights_hash(backbone),
        **{f"processor.{name}": value for name, value in steps.items()},
        **dataclasses.asdict(output),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names each setting that changed; of a hash, that it did.

    Other outputs need other stages, whose weights need not be named.
    """
    changed = [n for n in dict.fromkeys((*before, *now)) if before.get(n) != now.get(n)]
    if not _OUTPUTS.isdisjoint(changed):
        changed = [name for name in changed if name != _WEIGHTS]
    return [
        f"the {name} are others" if name in _HASHED
        else f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in changed
    ]  # fmt: skip


def _check(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
