"""``bit-backbone info``: what a network costs at an image size."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bit_backbone.cli.networks import (
    add_network_options,
    add_part_option,
    check_part,
    checkpoint_config,
    network_overrides,
)
from bit_backbone.cli.options import add_precision_option, add_renamed, image_size, positive
from bit_backbone.config import DENSE_FEATURE_NORM, VARIANTS, BitConfig
from bit_backbone.detection.trained import weights_of
from bit_backbone.training.settings import PRECISIONS

DTYPES = (*PRECISIONS, "float64")
OPTIMIZERS = ("sgd", "adamw")
GIB = 2**30
_ONLY_FOR_TRAINING = (
    "detector",
    "grad_checkpointing",
    "activation_recompute",
    "optimizer",
    "processes",
)


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "info",
        help="show parameters, operations, output shapes and memory of a network",
        description="Counts without allocating or computing anything, on torch's meta device. The "
        "memory shown is that of activations, without parameters, input and library workspaces. "
        "With --train it is everything that a process needs for a training step, except library "
        "workspaces.",
    )
    parser.add_argument(
        "variant",
        nargs="?",
        help=f"{', '.join(VARIANTS)}, a published checkpoint, or a checkpoint's file or folder",
    )
    add_part_option(parser)
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help="show which kernels run on this kind of device"
    )
    parser.add_argument(
        "--image-size", type=image_size, default=(224, 224), metavar="HxW", help="default 224x224"
    )
    parser.add_argument("--batch", type=int, default=1, help="images per forward (default 1)")
    add_precision_option(parser, "type of weights and features; with --train, of forward passes")
    add_renamed(parser, "--dtype", "--precision", "precision", choices=DTYPES)
    add_network_options(parser)
    _add_training_options(parser.add_argument_group("training"))
    parser.set_defaults(func=run)


def _add_training_options(group: Any) -> None:
    option = group.add_argument
    option("--train", action="store_true", help="estimate the memory of a training step")
    option(
        "--detector", action="store_true", help="for Faster R-CNN with FPN, not only the backbone"
    )
    option(
        "--grad-checkpointing",
        action="store_true",
        help="units are computed again in the backward pass",
    )
    option("--activation-recompute", action="store_true", help="so are norms and activations only")
    option("--optimizer", choices=OPTIMIZERS, help="default sgd, with momentum")
    option(
        "--processes",
        type=positive,
        metavar="N",
        help="weights are divided among N processes (FSDP)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the table.

    Raises:
        ValueError: A training option is given without ``--train``, a value is out of its range, or
            the variant is neither a name nor a checkpoint.
    """
    if args.device:
        _print_kernels(args.device)
        if args.variant is None:
            return
    if args.variant is None:
        raise ValueError(
            f"info needs a variant ({', '.join(VARIANTS)}), a published checkpoint, a file or a "
            "folder; or --device"
        )
    config = _config(args)
    if args.train:
        _print_training(args, config)
        return
    for name in _ONLY_FOR_TRAINING:
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} needs --train, which is missing")
    _print_forward(args, config)


def _print_kernels(device: str) -> None:
    from bit_backbone.kernels import native
    from bit_backbone.kernels.group_norm import triton_status

    print(f"kernels on {device}: {native.status() if device == 'cpu' else triton_status()}")


def _config(args: argparse.Namespace) -> BitConfig:
    named = args.variant in VARIANTS or not Path(args.variant).exists()
    given = args.variant if named else weights_of(args.variant)
    check_part(args.part, not named, "a checkpoint's file or folder")
    config = BitConfig.from_variant(given) if named else checkpoint_config(given, args.part)
    overrides = network_overrides(args, config)
    if args.detector and named:  # as the builders do, which have a default of their own for a name
        overrides.setdefault("feature_norm", DENSE_FEATURE_NORM)
    return config.replace(**overrides)


def _print_forward(args: argparse.Namespace, config: BitConfig) -> None:
    import torch

    from bit_backbone.cli.output import Output
    from bit_backbone.profiling import profile

    costs = profile(config, args.image_size, batch=args.batch, dtype=getattr(torch, args.precision))
    console = Output(highlight=False)
    height, width = args.image_size
    console.print(f"{args.variant} on {args.batch} x {height} x {width}, {args.precision}")
    console.print(f"parameters              {costs.parameters / 1e6:10.2f} M    no head")
    console.print(f"multiply-accumulates    {costs.macs / 1e9:10.2f} G    convolutions")
    console.print(f"activations, inference  {costs.inference_bytes / 2**20:10.1f} MiB  at the peak")
    console.print(f"activations, training   {costs.training_bytes / 2**20:10.1f} MiB  kept")
    console.print(_outputs(config, costs.shapes))


def _outputs(config: BitConfig, shapes: Any) -> Any:
    from rich.table import Table

    table = Table("output", "index", "channels", "stride", "shape")
    for name, shape in shapes.items():
        index = config.stage_names.index(name)
        row = (index, config.channels[index], config.strides[index], list(shape))
        table.add_row(name, *map(str, row))
    return table


def _print_training(args: argparse.Namespace, config: BitConfig) -> None:
    from bit_backbone.training.memory import TrainingOptions

    if args.precision not in PRECISIONS:
        raise ValueError(f"training is in {', '.join(PRECISIONS)}, got {args.precision}")
    options = TrainingOptions(
        amp=args.precision != PRECISIONS[0],  # the narrow ones are equally wide
        grad_checkpointing=args.grad_checkpointing,
        activation_recompute=args.activation_recompute,
        optimizer=args.optimizer or OPTIMIZERS[0],
        processes=args.processes or 1,
    )
    memory = _training_memory(args, config, options)
    height, width = args.image_size
    how = [args.precision]
    how += ["checkpointing"] * options.grad_checkpointing
    how += ["recomputed norms"] * options.activation_recompute + ["Faster R-CNN"] * args.detector
    how += [f"FSDP over {options.processes}"] * (options.processes > 1)
    print(f"{args.variant} on {args.batch} x {height} x {width} in each process, {', '.join(how)}")
    print(f"parameters             {memory.parameters / GIB:8.2f} GiB")
    print(f"optimizer's state      {memory.optimizer / GIB:8.2f} GiB  {options.optimizer}")
    print(f"gradients              {memory.gradients / GIB:8.2f} GiB  come as activations go")
    print(f"activations            {memory.activations / GIB:8.2f} GiB  kept for backward")
    print(f"a process in all       {memory.peak / GIB:8.2f} GiB  at the peak")


def _training_memory(args: argparse.Namespace, config: BitConfig, options: Any) -> Any:
    from bit_backbone.backbone import BitBackbone
    from bit_backbone.training.memory import detector_step, training_memory

    shape = (args.batch, config.num_channels, *args.image_size)
    if not args.detector:
        return training_memory(lambda: BitBackbone(config), shape, options)
    from bit_backbone.torchvision import fasterrcnn_bit_fpn

    return training_memory(
        lambda: fasterrcnn_bit_fpn(variant=config), shape, options, detector_step
    )
