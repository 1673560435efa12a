"""The last stage as the per-region head of C4 detectors (``Res5ROIHeads``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.config import BitConfig
from bit_backbone.detectron2.backbone import plain
from bit_backbone.detectron2.weights import CheckpointTaker
from bit_backbone.network import Stage
from bit_backbone.network.layers import GroupNormAct

__all__ = ["BitRes5"]


class BitRes5(CheckpointTaker):
    """The last stage and the final norm, for ``roi_heads.res5`` of a C4 detector.

    It belongs after a ``Detectron2BitBackbone`` that ends one stage earlier with
    ``feature_norm="preact"``: the first norm and activation of this stage then run in the backbone,
    on the whole image as in pretraining, and give the RPN bounded features. Here they are left out.

    Attributes:
        out_channels: Channels of the output.

    Args:
        config: A BitConfig, the name of a variant ("R101x3"), or None for R50x1.
        **overrides: Arguments of BitConfig that differ from ``config``.

    Raises:
        ValueError: An argument breaks a rule, or the network is not a pre-activation one.
    """

    def __init__(self, config: BitConfig | str | None = None, **overrides: Any) -> None:
        super().__init__()
        config = BitConfig.resolve(config, **plain(overrides))
        if config.layer_type != "preactivation":
            raise ValueError(
                f'BitRes5 needs layer_type="preactivation", got {config.layer_type!r}: only there '
                "does a stage begin with a norm that the backbone can take over"
            )
        spec = config.stages[-1]
        self.config = config
        self.out_channels = spec.channels
        self.stage_name = spec.name
        stage = Stage(config, spec)
        stage[0].norm1 = nn.Identity()
        self.add_module(spec.name, stage)
        self.norm = GroupNormAct(config.num_groups, spec.channels, config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        """Maps pooled regions [R, C, H, W] to [R, out_channels, H / 2, W / 2]."""
        return self.norm(self.get_submodule(self.stage_name)(x))

    def fit(self, tensors: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
        """Returns the last stage and the final norm out of a whole network's tensors."""
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        found = {name: tensors[name] for name in own if name in tensors}
        misfits = [name for name in own if name not in found or found[name].shape != own[name]]
        moved = f"{self.stage_name}.0.norm1."  # to the end of the backbone
        misfits += [
            name
            for name in tensors
            if name.startswith(self.stage_name) and name not in own and not name.startswith(moved)
        ]
        if misfits:
            raise CheckpointError(
                f"{source} does not fit {self.stage_name} of {len(own)} tensors: missing, "
                f"unexpected or misshapen are {', '.join(misfits[:6])} ({len(misfits)} in all)"
            )
        return found
