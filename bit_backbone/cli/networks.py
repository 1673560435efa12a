"""Options that shape a network or name its weights, and the network that they describe."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.options import add_weights_option
from bit_backbone.config import validation as checks
from bit_backbone.detection.trained import weights_of

if TYPE_CHECKING:
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.config import BitConfig

MEANINGS = {
    "output_stride": "largest stride; later stages use dilation instead (default 32)",
    "global_padding": "TensorFlow's SAME padding or none; default: BiT's fixed padding",
    "feature_norm": "outputs as raw sums (none), after the next unit's norm and activation "
    "(preact), or after a new norm (groupnorm); default: the checkpoint's, or none",
}
NETWORK_OPTIONS = ("out_indices", "out_features", "output_stride", "global_padding", "feature_norm")


def add_network_options(parser: argparse.ArgumentParser, without: str = "all stages") -> None:
    """Adds what selects outputs and shapes the network; without a selection there is `without`."""
    outputs = parser.add_mutually_exclusive_group()
    outputs.add_argument(
        "--out-indices",
        type=int,
        nargs="+",
        metavar="I",
        help=f"outputs by number: 0 is the stem, 1 to 4 the stages; default: {without}",
    )
    outputs.add_argument(
        "--out-features", nargs="+", metavar="NAME", help="outputs by name, such as stage3"
    )
    for name in ("output_stride", "global_padding", "feature_norm"):
        choices = [choice for choice in checks.CHOICES[name] if choice is not None]
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(choices[0]), choices=choices, help=MEANINGS[name])


def add_weights_options(group: Any) -> None:
    """Adds what says whose weights a backbone has: a checkpoint's, or random ones."""
    group.add_argument("--variant", default="R50x1", help="BiT network (default %(default)s)")
    add_weights_option(
        group,
        "NAME",
        "a checkpoint file or folder, the folder of a run, a published name, owner/name on the "
        "Hub, or an exported file; it decides the variant; default: random weights",
        required=False,
    )
    add_part_option(group)
    group.add_argument("--seed", type=int, default=0, help="seed of random weights (default 0)")


def add_part_option(group: Any) -> None:
    """Adds ``--part``, which goes with whatever names a checkpoint."""
    group.add_argument(
        "--part",
        metavar="NAME",
        help="network to take from a checkpoint with several, such as state_dict_ema or teacher; "
        "default: the model's own (`bit-backbone checkpoints show FILE` lists them)",
    )


def backbone_of(args: argparse.Namespace) -> BitBackbone:
    """Builds the backbone that the options of both functions describe, on the CPU, for inference.

    Raises:
        ValueError: There is no such variant, checkpoint, output or value.
    """
    import torch

    from bit_backbone.backbone import BitBackbone
    from bit_backbone.config import BitConfig

    if args.weights:
        weights = weights_of(args.weights)
        overrides = network_overrides(args, checkpoint_config(weights, args.part))
        return BitBackbone.from_pretrained(weights, part=args.part, **overrides)
    check_part(args.part, args.weights, "--weights")
    torch.manual_seed(args.seed)
    config = BitConfig.from_variant(args.variant)
    return BitBackbone(config.replace(**network_overrides(args, config))).eval()


def network_name(args: argparse.Namespace) -> str:
    """Says whose weights the network of the options has."""
    if args.weights:
        return f"weights of {args.weights}"
    return f"{args.variant} with random weights (seed {args.seed})"


def way_out_of_random(args: argparse.Namespace) -> str:
    """Says how to get other than random weights, where the options ask for these."""
    return "" if args.weights else "; --weights BiT-M-R50x1 takes published ones"


def network_overrides(args: argparse.Namespace, config: BitConfig) -> dict[str, Any]:
    """Returns the BitConfig arguments that were given; every stage when no output was named."""
    given = {name: getattr(args, name) for name in NETWORK_OPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    if not {"out_indices", "out_features"} & set(given):
        given["out_indices"] = list(range(1, len(config.stages) + 1))
    return given


def check_part(part: str | None, checkpoint: Any, option: str) -> None:
    """Checks that a part is named of some checkpoint.

    Raises:
        ValueError: It is not.
    """
    if part is not None and not checkpoint:
        raise ValueError(f"--part names a part of a checkpoint, got {part!r} without {option}")


def checkpoint_config(name: str, part: str | None = None) -> BitConfig:
    """Returns the configuration of a checkpoint, of which no tensor is read.

    Raises:
        ValueError: It is none, or none that can be read.
    """
    from bit_backbone.checkpoints.pretrained import config_for
    from bit_backbone.checkpoints.sources import open_checkpoint

    with open_checkpoint(name, part=part) as checkpoint:
        return config_for(name, checkpoint)
