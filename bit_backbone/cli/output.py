"""What commands print tables on."""

from __future__ import annotations

from rich.console import Console


class Output(Console):
    """Rich's console, which leaves a reader that goes away to the program.

    Rich itself ends the process then, with status 1.
    """

    def on_broken_pipe(self) -> None:
        """Lets the BrokenPipeError go on."""
        raise
