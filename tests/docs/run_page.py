"""Runs a page as a reader would: its Python blocks one after another, in one namespace.

    python run_page.py PAGE

A ``text`` block right behind a Python block is what that block prints; ``...`` stands for anything.
Tracebacks show the page's own lines.
"""

import contextlib
import doctest
import io
import sys

from pages import DOCS, Block, blocks

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main(page: str) -> None:
    """Runs one page; an exception, or another output than it shows, ends the process."""
    shown, names = blocks(page), {"__name__": "__main__"}
    for index, block in enumerate(shown):
        if block.language != "python":
            continue
        printed = run(page, block, names)
        following = shown[index + 1] if index + 1 < len(shown) else None
        if following is not None and following.follows and following.language == "text":
            compare(page, block, following.code, printed)


def run(page: str, block: Block, names: dict[str, object]) -> str:
    """Runs one block and returns what it prints."""
    code = compile("\n" * (block.line - 1) + block.code, str(DOCS / page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    return printed.getvalue()


def compare(page: str, block: Block, wanted: str, got: str) -> None:
    """Ends the process where a block does not print what the page says it prints."""
    checker = doctest.OutputChecker()
    if not checker.check_output(wanted, got, FLAGS):
        example = doctest.Example(block.code, wanted)
        difference = checker.output_difference(example, got, FLAGS)
        raise SystemExit(f"{page}, line {block.line}, prints something else:\n{difference}")


if __name__ == "__main__":
    main(sys.argv[1])
