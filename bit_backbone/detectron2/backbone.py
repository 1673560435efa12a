"""BitBackbone as a detectron2 ``Backbone``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Dict  # noqa: UP035

from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig
from bit_backbone.detectron2.weights import CheckpointTaker, fit_backbone

__all__ = ["Detectron2BitBackbone", "plain", "tap_name"]

_RES = re.compile(r"res([2-9])")


def tap_name(name: str) -> str:
    """Returns our name of an output; detectron2 calls stage1 .. stage4 res2 .. res5."""
    match = _RES.fullmatch(name)
    return f"stage{int(match[1]) - 1}" if match else name


def plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments of BitConfig with each ListConfig of a LazyConfig as a tuple."""
    lists = {
        key: tuple(value)
        for key, value in overrides.items()
        if isinstance(value, Sequence) and not isinstance(value, str)
    }
    return {**overrides, **lists}


class Detectron2BitBackbone(CheckpointTaker, BitBackbone, Backbone):
    """BiT for detectron2: a BitBackbone with the interface of detectron2's backbones.

    Parameters have the names they have in BitBackbone.

    Example of a LazyConfig:
        >>> model.backbone.bottom_up = L(Detectron2BitBackbone)(
        ...     config="R50x1", out_features=["stage1", "stage2", "stage3", "stage4"], freeze_at=2
        ... )

    Attributes:
        size_divisibility: The largest stride of the outputs; detectron2 pads images to it.

    Args:
        config: A BitConfig, the name of a variant ("R101x3"), or None for R50x1.
        out_features: Names of the outputs, shallow to deep: "stem", "stage1" .. or, for the
            stages, "res2" ..; each output is returned under the name used here. None: what
            ``config`` says.
        freeze_at: detectron2's FREEZE_AT: how many of stem, stage1, ... to freeze, beginning with
            the stem; 0 or less freezes nothing.
        grad_checkpointing: Whether to compute each residual unit again in the backward pass.
        activation_recompute: Whether to compute each norm and activation again in the backward
            pass.
        **overrides: Arguments of BitConfig that differ from ``config``.

    Raises:
        ValueError: An argument of the configuration breaks a rule.
    """

    def __init__(
        self,
        config: BitConfig | str | None = None,
        *,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
        grad_checkpointing: bool = False,
        activation_recompute: bool = False,
        **overrides: Any,
    ) -> None:
        if out_features is not None:
            overrides["out_features"] = tuple(tap_name(name) for name in out_features)
        # detectron2's checkpointer loads weights later, so a name that speaks of some is no slip.
        weights, overrides = overrides.pop("weights", None), plain(overrides)
        super().__init__(BitConfig.resolve(config, **overrides), weights=weights)
        names = self.out_features if out_features is None else out_features
        self._output_names = [str(name) for name in names]
        self._size_divisibility = max(self.strides)
        self.freeze(min(max(freeze_at, 0), len(self.config.stage_names)))
        self.set_grad_checkpointing(grad_checkpointing)
        self.set_activation_recompute(activation_recompute)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the requested feature maps, shallow to deep, under the names they were asked by.

        Args:
            images: [N, channels, H, W], normalised with mean and std 127.5, RGB.
        """
        features = self.taps(images)
        named: dict[str, Tensor] = {}
        for tap, name in zip(self._names, self._output_names):  # noqa: B905 (TorchScript)
            named[name] = features[tap]
        return named

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns channels and stride of each output, shallow to deep."""
        shapes = zip(self._output_names, self.channels, self.strides, strict=True)
        return {name: ShapeSpec(channels=c, stride=s) for name, c, s in shapes}

    def fit(self, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Returns this backbone's tensors from those of a whole network, as BitBackbone does."""
        return fit_backbone(self.config, tensors, source)

    @property
    def size_divisibility(self) -> int:
        """Height and width of a batch are padded to a multiple of this."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> Dict[str, int]:  # noqa: UP006 (TorchScript)
        """The same, in detectron2's newer form."""
        return {"size_divisibility": self._size_divisibility}
