"""Which network a set of tensors belongs to, read off their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bit_backbone.checkpoints.formats import HEAD_WEIGHT, STEM_CONV
from bit_backbone.config import VARIANTS, BitConfig

_UNIT = re.compile(r"stage(?P<stage>\d+)\.(?P<unit>\d+)\.(?P<part>.+)")
_ENTRY_NORM = {"0.norm1.weight", "0.norm1.bias"}


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a state dict, or a configuration, say of a network.

    Attributes:
        num_channels: Channels of the image, or None where the stem is missing.
        stem: Width of the stem, or None where the stem is missing.
        depths: Units of each stage there is.
        widths: Output channels of each stage; 0 where they are unknown.
        layer_type: "preactivation" or "bottleneck".
        num_labels: Size of the head, 0 without one.
    """

    num_channels: int | None
    stem: int | None
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    layer_type: str
    num_labels: int

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
        """Reads the network off the shapes of tensors under our names."""
        depths = _depths(shapes)
        stem = shapes.get(STEM_CONV, ())
        is_bottleneck = any(
            name.startswith("stem.norm.") or ".downsample.norm." in name for name in shapes
        )
        return cls(
            num_channels=stem[1] if len(stem) == 4 else None,
            stem=stem[0] if len(stem) == 4 else None,
            depths=depths,
            widths=tuple(_stage_width(shapes, stage) for stage in range(1, len(depths) + 1)),
            layer_type="bottleneck" if is_bottleneck else "preactivation",
            num_labels=shapes.get(HEAD_WEIGHT, (0,))[0],
        )

    @classmethod
    def of_config(cls, config: BitConfig) -> Architecture:
        """Returns what a configuration describes, all stages of it."""
        return cls(
            num_channels=config.num_channels,
            stem=config.stem_channels,
            depths=tuple(config.depths),
            widths=config.channels[1:],
            layer_type=config.layer_type,
            num_labels=config.num_labels,
        )

    @property
    def variant(self) -> str | None:
        """Name of the published variant with these depths and widths, all four stages of it."""
        for name, published in _published().items():
            if self._key() == published._key():
                return name
        return None

    def _key(self) -> tuple[Any, ...]:
        return self.layer_type, self.stem, self.depths, self.widths

    def conflicts_with(self, other: Architecture) -> bool:
        """Whether the two differ in a stage that both have, in the stem or in the layer type."""
        both = slice(min(len(self.depths), len(other.depths)))
        stems = self.stem is not None and other.stem is not None and self.stem != other.stem
        return (
            stems
            or self.layer_type != other.layer_type
            or self.depths[both] != other.depths[both]
            or self.widths[both] != other.widths[both]
        )

    def to_config(self, **overrides: Any) -> BitConfig:
        """Returns a configuration that builds this network.

        Args:
            **overrides: Arguments of BitConfig; what shapes do not show (``num_groups``,
                ``hidden_act``) is BitConfig's default otherwise.

        Raises:
            ValueError: The widths are none that BitConfig accepts.
        """
        shape: dict[str, Any]
        if self.variant is not None:
            depths, width_factor = VARIANTS[self.variant]
            shape = {"depths": depths, "width_factor": width_factor}
        else:
            shape = {
                "embedding_size": self.stem,
                "hidden_sizes": self.widths,
                "depths": self.depths,
                "layer_type": self.layer_type,
            }
        channels = {} if self.num_channels is None else {"num_channels": self.num_channels}
        return BitConfig(**{**shape, **channels, "num_labels": self.num_labels, **overrides})

    def __str__(self) -> str:
        if self.variant is not None:
            return self.variant
        for name, published in _published().items():
            if self.depths and not self.conflicts_with(published):
                return f"the first {len(self.depths)} stages of {name}"
        kind = "" if self.layer_type == "preactivation" else f" {self.layer_type}"
        return (
            f"a{kind} network of depths {self.depths}, stem width {self.stem} and stage widths "
            f"{self.widths}"
        )


@cache
def _published() -> dict[str, Architecture]:
    return {name: Architecture.of_config(BitConfig.from_variant(name)) for name in VARIANTS}


def _depths(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    parts: dict[int, set[str]] = {}
    depths: dict[int, int] = {}
    for match in filter(None, map(_UNIT.fullmatch, shapes)):
        stage, unit = int(match["stage"]), int(match["unit"])
        parts.setdefault(stage, set()).add(f"{unit}.{match['part']}")
        depths[stage] = max(depths.get(stage, 0), unit + 1)
    # A file of the first stages may end with the norm that the next stage begins with.
    for stage in [stage for stage, names in parts.items() if names <= _ENTRY_NORM]:
        del depths[stage]
    return tuple(depths.get(stage, 0) for stage in range(1, max(depths, default=0) + 1))


def _stage_width(shapes: Mapping[str, tuple[int, ...]], stage: int) -> int:
    pattern = re.compile(rf"stage{stage}\.\d+\.(conv3|downsample\.conv)\.weight")
    return next((shape[0] for name, shape in shapes.items() if pattern.fullmatch(name)), 0)
