"""``bit-backbone features``: the feature maps of photographs, as tensors and as pictures."""

from __future__ import annotations

import argparse
import glob
import re
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.exported import exported_model
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
    inference_dtype,
    positive,
)
from bit_backbone.utils.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from bit_backbone.backbone import BitBackbone
    from bit_backbone.profiling import StageTimer

PICTURES = ("components", "mosaic", "norms")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "features",
        help="compute and draw feature maps of photographs",
        description="Prints a table per photograph, and writes its feature maps "
        "(NAME.safetensors) and pictures of them. A photograph that cannot be read, is too small "
        "for the network or too large for the memory is reported and skipped; the exit status is "
        "then 3. The column ms shows the milliseconds of the stem or stage by itself; the first "
        "photograph's include work that is done only once. Earlier pictures of the same photograph "
        "in DIR are removed.",
    )
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the maps and pictures, created if missing; needed without --html",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page of one photograph: a click on a pixel shows how similar all others are "
        "in every stage; the page works offline and takes at most 8 MB; without --output, "
        "nothing else is written",
    )
    add_weights_options(parser)
    parser.add_argument(
        "--short-side",
        type=positive,
        metavar="PIXELS",
        help="resize the shorter side to this; default: no resizing",
    )
    parser.add_argument(
        "--pictures",
        nargs="+",
        choices=PICTURES,
        default=["components"],
        help="components: NAME_STAGE.png, the photograph beside the map's first three principal "
        "components as red, green and blue (default); mosaic: NAME_STAGE_mosaic.png, the 16 "
        "channels that vary most; norms: NAME_norms.png, a histogram of the pixels' norms in "
        "every stage",
    )
    add_network_options(parser)
    add_bit_depth_option(parser)
    add_inference_precision_option(parser, "type of the network")
    add_device_option(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Extracts and draws every photograph; returns the exit status."""
    from bit_backbone.cli.output import Output
    from bit_backbone.inference import optimize_in_place
    from bit_backbone.preprocessing.seen import as_seen
    from bit_backbone.profiling import StageTimer
    from bit_backbone.utils.out_of_memory import fitting

    _check_outputs(args)
    console = Output()
    exported = exported_model(args, "features", "features")
    backbone: Any = exported or backbone_of(args)
    backbone = backbone.to(device_of(args))
    if exported is None:
        backbone = optimize_in_place(backbone, dtype=inference_dtype(args.precision))
    console.print(network_name(args) + way_out_of_random(args), soft_wrap=True)
    timer = StageTimer(backbone) if exported is None else None
    if args.output is not None:
        args.output.mkdir(parents=True, exist_ok=True)
    failed = 0
    for photo in args.photos:
        try:
            with fitting("the photograph"):
                image, pixels = as_seen(photo, args.short_side, args.bit_depth)
                features = _extract(backbone, pixels)
                write = _writer(args, photo, image, features)
        except (OSError, ValueError) as error:
            failed += 1
            print(f"bit-backbone: skipped {photo}: {error}", file=sys.stderr)
            continue
        console.print(_table(photo, backbone, features, timer))
        write()
    done = len(args.photos) - failed
    where = f" -> {_places(args)}" if done else ""
    console.print(
        f"{done} of {len(args.photos)} photographs, {failed} failed{where}", soft_wrap=True
    )
    return SOME_FAILED if failed else 0


def _places(args: argparse.Namespace) -> str:
    return ", ".join(str(place) for place in (args.output, args.html) if place is not None)


def _writer(
    args: argparse.Namespace, photo: Path, image: Image, features: dict[str, Tensor]
) -> Callable[[], None]:
    """Draws all that is asked for, and returns what writes it."""
    from bit_backbone.visualization.explorer import explorer_page

    pictures, page = {}, ""
    if args.output is not None:
        pictures = dict(_draw(image, features, args.pictures))
    if args.html is not None:
        maps = {name: feature[0] for name, feature in features.items()}
        page = explorer_page(image, maps, title=photo.name, about=f"{network_name(args)}.")

    def write() -> None:
        if args.output is not None:
            _write_maps(args.output / photo.stem, features)
            for ending, picture in pictures.items():
                _write_picture(args.output / f"{photo.stem}_{ending}.png", picture)
            _remove_older_pictures(args.output, photo.stem, pictures)
        if args.html is not None:
            with atomic_path(args.html) as path:
                path.write_text(page, encoding="utf-8")

    return write


def _check_outputs(args: argparse.Namespace) -> None:
    """Rejects a lack of outputs, and photographs whose outputs would overwrite each other."""
    photos: list[Path] = args.photos
    if args.output is None and args.html is None:
        raise ValueError("features writes into --output DIR or --html FILE, got neither")
    if args.html is not None and len(photos) > 1:
        raise ValueError(
            f"--html writes a page of one photograph, got {len(photos)}; run it for each"
        )
    seen: dict[str, Path] = {}
    for photo in photos:
        other = seen.setdefault(photo.stem, photo)
        if other is not photo:
            raise ValueError(
                f"outputs are named after the photograph, and {other} and {photo} would both be "
                f"{photo.stem!r}; rename one or run twice with different --output"
            )


def _extract(backbone: BitBackbone, pixels: Tensor) -> dict[str, Tensor]:
    import torch

    with torch.inference_mode():
        features = backbone(pixels.to(next(backbone.parameters())))
    return {name: feature.float().cpu() for name, feature in features.items()}


def _table(
    photo: Path, backbone: BitBackbone, features: dict[str, Tensor], timer: StageTimer | None
) -> Any:
    from rich.table import Table

    if timer is None:  # an exported file does not say how long its stages take
        table = Table("output", "channels", "shape", title=photo.name)
        for name, feature in features.items():
            table.add_row(name, str(feature.shape[1]), str(list(feature.shape)))
        return table
    table = Table("stage", "channels", "stride", "shape", "ms", title=photo.name)
    for info in backbone.feature_info:
        shape = list(features[info.name].shape)
        milliseconds = f"{timer.milliseconds[info.name]:.1f}"
        table.add_row(info.name, str(info.channels), str(info.stride), str(shape), milliseconds)
    return table


def _write_maps(prefix: Path, features: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(prefix.with_name(f"{prefix.name}.safetensors")) as path:
        save_file({name: feature[0].contiguous() for name, feature in features.items()}, path)


def _draw(
    image: Image, features: dict[str, Tensor], wanted: Collection[str]
) -> Iterator[tuple[str, Image]]:
    """Yields the pictures of a photograph, each with the ending of its file's name."""
    from bit_backbone.visualization import beside, channel_mosaic, norm_histogram, to_picture

    size = image.height, image.width
    for name, feature in features.items():
        if "components" in wanted:
            yield name, beside(image, to_picture(feature[0], size))
        if "mosaic" in wanted:
            yield f"{name}_mosaic", channel_mosaic(feature[0], size)
    if "norms" in wanted:
        yield "norms", norm_histogram({name: feature[0] for name, feature in features.items()})


def _remove_older_pictures(folder: Path, stem: str, endings: Collection[str]) -> None:
    """Removes the pictures of a photograph that an earlier run with other options has drawn."""
    for path in folder.glob(f"{glob.escape(stem)}_*.png"):
        ending = path.stem[len(stem) + 1 :]
        if ending not in endings and re.fullmatch(r"norms|(stem|stage\d+)(_mosaic)?", ending):
            path.unlink()


def _write_picture(target: Path, picture: Image) -> None:
    with atomic_path(target) as path:
        picture.save(path, format="PNG")
