"""The console command ``bit-backbone``, also ``python -m bit_backbone``."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from bit_backbone import __version__
from bit_backbone.utils.extras import MissingExtraError
from bit_backbone.utils.out_of_memory import fitting
from bit_backbone.utils.ways_out import for_command

# Each module exposes add_parser(subparsers) and imports torch only inside the function it sets as
# `func`, so that listing the commands stays quick.
COMMANDS: tuple[str, ...] = (
    "bit_backbone.cli.checkpoints",
    "bit_backbone.cli.convert",
    "bit_backbone.cli.train",
    "bit_backbone.cli.evaluate",
    "bit_backbone.cli.detect",
    "bit_backbone.cli.classify",
    "bit_backbone.cli.features",
    "bit_backbone.cli.info",
    "bit_backbone.cli.scenes",
    "bit_backbone.cli.convert_dataset",
    "bit_backbone.cli.extract",
    "bit_backbone.cli.finetune",
    "bit_backbone.cli.export",
    "bit_backbone.cli.app",
)

USAGE_ERROR = 2  # what argparse itself exits with
INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every command in :data:`COMMANDS`."""
    parser = argparse.ArgumentParser(
        prog="bit-backbone",
        description="Big Transfer (BiT) as a backbone for detectors, segmenters and classifiers.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error, not only its message"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(name).add_parser(subparsers)
    for command in subparsers.choices.values():
        command.set_defaults(parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name; those of the process when None.

    Returns:
        The exit status: 0, or what the command returned; 2 after an error in what the user gave
        (ValueError, OSError or a missing extra) or a lack of memory, reported on stderr; 130 after
        Ctrl-C, 141 when the reader of the output went away.
    """
    _prepare_streams()
    args = build_parser().parse_args(argv)
    try:
        with fitting("the command"), for_command(args.parser):
            status = args.func(args) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit; let that flush go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError, MissingExtraError) as error:
        if args.debug:
            raise
        print(f"bit-backbone: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def _prepare_streams() -> None:
    """Lets any file name be printed, and commands print where there is nothing to print to."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the shell's >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (for as long as the process)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
