"""Prose uses the words of the field: the docs, help, messages, docstrings and comments."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")])
MODULES = sorted(
    path
    for folder in ("bit_backbone", "tools", "examples", "configs")
    for path in (ROOT / folder).rglob("*.py")
)

# What must not stand there, and what does instead.
REPLACEMENTS = {
    r"\banew\b": "again, from scratch",
    r"\bhollow\b": "on the meta device, empty weights",
    r"\brefus(e|es|ed|ing|al)\b": "reject, raise",
    r"\brecipes?\b": "settings, hyper-parameters",
    r"\b(goes|go|went|gone|going) on\b": "resume, continue",
    r"\btold\b|\btells?\b(?! apart)": "report, say, show, describe",
    r"\btwins?\b": "counterpart, copy, baseline",
    r"\bwatched\b": "checked, monitored",
    r"(?<!leave )(?<!leave it )(?<!let )\balone\b": "only, by itself",
    r"\bbehind\b(?! (a proxy|one gate|the gate|a firewall))": "after",
    r"\bspelt\b": "written, named",
    r"\bto be had\b": "available",
    r"\bas its users get\b": "with default settings",
    r"\ba clock\b": "seconds",
}
ON_PAGES = {r"\bfloors?\b": "lower bound"}  # code rounds, too


def prose_of_page(text: str) -> Iterator[tuple[int, str]]:
    """Lines outside of code: code blocks and `code` hold names, and output as it was printed."""
    is_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith(("```", "~~~")):
            is_code = not is_code
        elif not is_code:
            yield number, re.sub(r"`[^`]*`|\]\([^)]*\)|\{[^}]*\}", "", line)


def prose_of_module(source: str) -> Iterator[tuple[int, str]]:
    """Strings with a blank, which people read, and comments."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for offset, line in enumerate(node.value.splitlines()):
                yield node.lineno + offset, re.sub(r"`[^`]*`", "", line)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], re.sub(r"`[^`]*`", "", token.string)


def faults(lines: Iterator[tuple[int, str]], replacements: dict[str, str]) -> list[str]:
    return [
        f"{number}: {found.group()!r} -> {right}: {line.strip()}"
        for number, line in lines
        for wrong, right in replacements.items()
        for found in re.finditer(wrong, line, re.IGNORECASE)
    ]


def faults_of_page(text: str) -> list[str]:
    return faults(prose_of_page(text), REPLACEMENTS | ON_PAGES)


def faults_of_module(source: str) -> list[str]:
    return faults(prose_of_module(source), REPLACEMENTS)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages(path):
    assert faults_of_page(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules(path):
    assert faults_of_module(path.read_text(encoding="utf-8")) == []


WRONG, RIGHT = ("The run goes on.", "Told nothing", "for it alone"), ("Leave it alone", "The end")


@pytest.mark.parametrize("text", [*WRONG, *RIGHT])
def test_the_list_finds_what_it_should(text):
    is_wrong = text in WRONG
    assert bool(faults_of_page(text)) == is_wrong
    for code in (f'"""{text} and so."""\n', f'x = "{text}"\n', f"y = 1  # {text}\n"):
        assert bool(faults_of_module(code)) == is_wrong
    assert faults_of_page(f"```\n{text}\n```\n`{text}`") == []
