"""``bit-backbone extract``: the features of every image of a source."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.image_options import add_bit_depth_option
from bit_backbone.cli.networks import (
    add_network_options,
    add_weights_options,
    backbone_of,
    network_name,
    way_out_of_random,
)
from bit_backbone.cli.options import (
    SOME_FAILED,
    add_device_option,
    add_inference_precision_option,
    device_of,
    positive,
)

if TYPE_CHECKING:
    from bit_backbone.extraction.run import Engine
    from bit_backbone.preprocessing import BitImageProcessor

MOST_WORKERS = 8
# as OutputSettings has them, and the folders that earlier versions wrote
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "int8": "int8"}

DESCRIPTION = """
Writes the features of every image of SOURCE into the folder DEST: WebDataset shards of feature
maps with an index (index.parquet), or, with --pool, a Parquet table of vectors (vectors/). Images
that cannot be read are listed in failures.jsonl; the exit status is then 3. After an interruption
the same command resumes after the last finished shard.
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "extract",
        help="compute feature maps or embeddings of many images",
        description=DESCRIPTION,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder (searched recursively), a glob, a text file with a path per line, or "
        "WebDataset shards: 'train-{000..146}.tar'",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DEST", help="output folder")
    _add_model_options(parser)
    _add_output_options(parser)
    _add_engine_options(parser)
    parser.set_defaults(func=run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    add_weights_options(group)
    add_network_options(parser)
    images = parser.add_argument_group("images")
    add_bit_depth_option(images)
    size = images.add_mutually_exclusive_group()
    size.add_argument(
        "--short-side",
        type=positive,
        default=224,
        metavar="PIXELS",
        help="resize the shorter side to this, and keep the aspect ratio (default %(default)s)",
    )
    size.add_argument(
        "--no-resize",
        dest="short_side",
        action="store_const",
        const=None,
        help="keep the size of each image",
    )


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--pool",
        choices=("avg", "max", "gem"),
        help="write one vector per output instead of its map",
    )
    group.add_argument(
        "--format", choices=("npy", "safetensors"), help="format of feature maps (default npy)"
    )
    group.add_argument(
        "--dtype",
        choices=("fp32", "fp16"),
        default="fp32",
        help="type of the output (default %(default)s)",
    )
    add_inference_precision_option(group)
    group.add_argument(
        "--shard-size",
        type=positive,
        metavar="N",
        help="images per shard (default 256 with maps, 4096 with vectors)",
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speed")
    group.add_argument(
        "--batch-size",
        type=positive,
        default=32,
        metavar="N",
        help="largest batch; only images of one size share a batch (default %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes that read images ahead; 0: none; default: the number of cores minus one, "
        f"between 1 and {MOST_WORKERS}",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the network, which takes half a minute or more",
    )
    add_device_option(group)
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine, or a Ray cluster that sees SOURCE and DEST by the same paths",
    )
    group.add_argument(
        "--address", help="address of the Ray cluster; default: RAY_ADDRESS, or a new cluster"
    )
    group.add_argument(
        "--actors", type=positive, metavar="N", help="copies of the network (default 1)"
    )
    group.add_argument(
        "--gpus-per-actor",
        type=float,
        metavar="F",
        help="GPUs per actor, may be a fraction (default 0: CPU)",
    )


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def run(args: argparse.Namespace) -> int:
    """Extracts, prints the account and returns the exit status."""
    from rich.console import Console

    from bit_backbone.extraction.run import extract
    from bit_backbone.extraction.settings import OutputSettings
    from bit_backbone.extraction.sources import find_images

    precision = _precision(args)
    output = OutputSettings(args.pool, args.format, args.dtype, args.shard_size, precision)
    engine = _engine(args)
    listing = find_images(args.source)
    notes = Console(stderr=True, highlight=False)
    ignored = f"; ignored: {listing.ignored}" if listing.ignored else ""
    notes.print(f"{len(listing)} images{ignored}")
    device = "cpu" if args.engine == "ray" else device_of(args)  # Ray's actors move their copies
    backbone = backbone_of(args).to(device)
    if args.weights is None:
        notes.print(network_name(args) + way_out_of_random(args), soft_wrap=True)
    summary = extract(
        listing, args.output, backbone, processor=_processor(args), output=output,
        batch_size=args.batch_size, compile=args.compile, engine=engine, progress=True,
    )  # fmt: skip
    done = f"{args.output}: {summary.written} of {len(listing)} images, {summary.failed} failed"
    print(f"{done} (failures.jsonl)" if summary.failed else done)
    return SOME_FAILED if summary.failed else 0


def _precision(args: argparse.Namespace) -> str:
    """Returns what the network computes in; recorded, so that "auto" is decided here."""
    if args.precision != "auto":
        return PRECISIONS[args.precision]
    from bit_backbone.inference.fast_dtype import fast_dtype

    return PRECISIONS[str(fast_dtype(device_of(args))).removeprefix("torch.")]


def _processor(args: argparse.Namespace) -> BitImageProcessor:
    from bit_backbone.extraction.run import native_size

    processor = native_size().replace(bit_depth=args.bit_depth)
    if args.short_side is None:
        return processor
    return processor.replace(do_resize=True, size=args.short_side, resample="bilinear")


def _engine(args: argparse.Namespace) -> Engine:
    from bit_backbone.extraction.cluster import RayEngine
    from bit_backbone.extraction.run import LocalEngine
    from bit_backbone.utils.workers import available_cores

    options = {name: getattr(args, name) for name in ("address", "actors", "gpus_per_actor")}
    given = {name: value for name, value in options.items() if value is not None}
    if args.engine == "ray":
        return RayEngine(**given)
    if given:
        raise ValueError(f"{', '.join(given)} need --engine ray; got {given} without it")
    if args.workers is None:
        return LocalEngine(min(max(available_cores() - 1, 1), MOST_WORKERS), in_place=True)
    return LocalEngine(args.workers, in_place=True)
