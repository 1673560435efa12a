"""What commands print tables on."""

from __future__ import annotations

import sys

from rich.console import Console

# Piped output is for grep: no line of a table is longer, and none is broken.
PIPED_WIDTH = 200


class Output(Console):
    """Rich's console, which leaves a reader that goes away to the program.

    Rich itself ends the process then, with status 1.
    """

    @classmethod
    def of_tables(cls) -> Output:
        """Returns one whose lines are as wide as the terminal, or wide enough for grep."""
        return cls(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)

    def on_broken_pipe(self) -> None:
        """Lets the BrokenPipeError continue."""
        raise
