"""The pages of the site, cut into the blocks of code that they show."""

import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n`]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: What the fence says.
        code: What it holds.
        line: Where its code begins, counted from 1.
        follows: Whether nothing but blank lines stands between it and the block before.
    """

    language: str
    code: str
    line: int
    follows: bool


def page_names() -> list[str]:
    """Every page, as a path below docs/."""
    return sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


@cache
def blocks(page: str) -> tuple[Block, ...]:
    """The blocks of a page, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found, end = [], 0
    for fence in _FENCE.finditer(text):
        follows = bool(found) and not text[end : fence.start()].strip()
        line = text.count("\n", 0, fence.start("code")) + 1
        found.append(Block(fence["language"], textwrap.dedent(fence["code"]), line, follows))
        end = fence.end()
    return tuple(found)


def commands(page: str) -> list[str]:
    """The command lines of a page, continued lines joined; of ``console`` those behind a prompt."""
    lines = []
    for block in blocks(page):
        joined = re.sub(r"\\\n\s*", "", block.code)
        if block.language == "console":
            lines += re.findall(r"^\$ (.+)$", joined, re.MULTILINE)
        elif block.language in ("sh", "bash"):
            lines += [line for line in joined.splitlines() if line and not line.startswith("#")]
    return lines
