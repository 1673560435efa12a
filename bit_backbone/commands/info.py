"""``bit-backbone info``: what a variant costs at an image size."""

from __future__ import annotations

import argparse
from typing import Any

from bit_backbone.commands.options import add_network_options, image_size, network_overrides
from bit_backbone.config import VARIANTS

DTYPES = ("float32", "bfloat16", "float16", "float64")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "info",
        help="parameters, operations, output shapes and activation memory of a variant",
        description="Counts on torch's meta device: nothing is allocated or computed. Memory is "
        "of activations alone, without parameters, input and library workspaces.",
    )
    parser.add_argument("variant", help=f"{', '.join(VARIANTS)}, or a checkpoint's name")
    parser.add_argument("--image-size", type=image_size, default=(224, 224), metavar="HxW")
    parser.add_argument("--batch", type=int, default=1, help="images per forward (default 1)")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    add_network_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    import torch
    from rich.console import Console

    from bit_backbone.config import BitConfig
    from bit_backbone.profiling import profile

    config = BitConfig.from_variant(args.variant, **network_overrides(args))
    costs = profile(config, args.image_size, batch=args.batch, dtype=getattr(torch, args.dtype))
    console = Console(highlight=False)
    height, width = args.image_size
    console.print(f"{args.variant} on {args.batch} x {height} x {width}, {args.dtype}")
    console.print(f"parameters              {costs.parameters / 1e6:10.2f} M    no head")
    console.print(f"multiply-accumulates    {costs.macs / 1e9:10.2f} G    convolutions")
    console.print(f"activations, inference  {costs.inference_bytes / 2**20:10.1f} MiB  at the peak")
    console.print(f"activations, training   {costs.training_bytes / 2**20:10.1f} MiB  kept")
    console.print(_outputs(config, costs.shapes))


def _outputs(config: Any, shapes: Any) -> Any:
    from rich.table import Table

    table = Table("output", "index", "channels", "stride", "shape")
    for name, shape in shapes.items():
        index = config.stage_names.index(name)
        row = (index, config.channels[index], config.strides[index], list(shape))
        table.add_row(name, *map(str, row))
    return table
