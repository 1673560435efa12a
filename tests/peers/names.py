"""What timm and transformers call our parameters, for giving them our weights."""

import re

from torch import nn

_UNIT = re.compile(r"stage(\d+)\.(\d+)\.(.+)")


def in_timm(name: str) -> str:
    unit = _UNIT.fullmatch(name)
    return f"stages.{int(unit[1]) - 1}.blocks.{unit[2]}.{unit[3]}" if unit else name


def in_transformers(name: str) -> str:
    unit = _UNIT.fullmatch(name)
    if unit:
        return f"encoder.stages.{int(unit[1]) - 1}.layers.{unit[2]}.{unit[3]}"
    return name.replace("stem.conv", "embedder.convolution").replace("stem.norm", "embedder.norm")


def give_weights(ours: nn.Module, peer: nn.Module, rename) -> None:
    """Copies our weights to a peer, which must have a place for each and no other parameter."""
    renamed = {rename(name): value for name, value in ours.state_dict().items()}
    if "norm.weight" not in renamed:  # the peers always have the final norm
        renamed |= {k: v for k, v in peer.state_dict().items() if k.startswith("norm.")}
    peer.load_state_dict(renamed)
