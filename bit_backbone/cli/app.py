"""``bit-backbone app``: a page to look at what networks see."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bit_backbone.cli.options import add_device_option, device_of

HOST = "127.0.0.1"


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "app",
        help="a page in the browser to look at what networks see, find and recognise",
        description="Serves a page, to this machine only unless --host says otherwise. It shows "
        "how similar the pixels of a photograph are to the one that you click, in every stage of a "
        "network or of two; what a detector finds, at any threshold; and which pixels a "
        "classifier's answer comes from. Uploaded images are removed once they are read.",
    )
    option = parser.add_argument
    option(
        "--weights",
        "--checkpoint",
        nargs="+",
        default=[],
        metavar="RUN_OR_NAME",
        help="folders of runs of train and finetune, files, folders and published names; default: "
        "what `make demo` has made here, or else random weights",
    )
    option("--images", type=Path, metavar="DIR", help="folder of images to choose from on the page")
    option("--host", default=HOST, metavar="ADDRESS", help="to listen on (default %(default)s)")
    option("--port", type=_port, metavar="N", help="default: the first free one from 7860")
    add_device_option(parser)
    parser.set_defaults(func=run)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"a port from 1 to 65535, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    from bit_backbone.utils.extras import require

    require("gradio", "app", "the page")
    from bit_backbone.app.networks import Networks, demo_checkpoints
    from bit_backbone.app.photographs import Gallery
    from bit_backbone.app.serving import serve

    checkpoints = args.weights or demo_checkpoints(Path())
    if not checkpoints:
        print(
            "no --weights: the network has random weights; give a published name (BiT-M-R50x1), or "
            "a run's folder; in a checkout, `make demo` trains a detector and a classifier"
        )
    serve(Networks(checkpoints, device_of(args)), Gallery(args.images), args.host, args.port)
    return 0
