"""The console command ``bit-backbone``: one file a sub-command."""

from bit_backbone.cli.command_line import (
    BROKEN_PIPE,
    COMMANDS,
    INTERRUPTED,
    USAGE_ERROR,
    build_parser,
    main,
)

__all__ = ["BROKEN_PIPE", "COMMANDS", "INTERRUPTED", "USAGE_ERROR", "build_parser", "main"]
