"""``bit-backbone checkpoints``: the published weights, and what each is."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import sys
from collections.abc import Iterable
from typing import Any

from bit_backbone.checkpoints.published import (
    VTAB_PATTERN,
    VTAB_RUNS,
    VTAB_TASKS,
    VTAB_VARIANTS,
    PublishedCheckpoint,
    catalog,
    vtab,
)

# Piped output is for grep: no line of the table is longer, and none is broken.
PIPED_WIDTH = 200


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "checkpoints",
        help="list the published weights",
        description="Lists every published BiT checkpoint. Each name is what `weights=`, "
        "`from_pretrained` and `bit-backbone convert` take.",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        help="show the names that match, '*R50x1*' or 'vtab/*-dtd'; where none does, those with an "
        "alias that matches",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from bit_backbone.cli.output import Output

    entries = _select(args.pattern)
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    console = Output(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    console.print(_table(entries))
    if args.pattern is None:
        console.print(_vtab_line())


def _select(pattern: str | None) -> list[PublishedCheckpoint]:
    if pattern is None:
        return list(catalog().values())
    every = (*catalog().values(), *vtab().values())
    # Files' names are aliases, and those of VTAB-1k begin like the files that they came from.
    entries = [e for e in every if _matches(pattern, e.name)] or [
        e for e in every if any(_matches(pattern, alias) for alias in e.aliases)
    ]
    if not entries:
        raise ValueError(
            f"no published checkpoint matches {pattern!r}; a pattern matches the whole name "
            "('*R50x1*'), and without one all are listed"
        )
    return entries


def _matches(pattern: str, name: str) -> bool:
    return fnmatch.fnmatch(name.lower(), pattern.lower())


def _table(entries: Iterable[PublishedCheckpoint]) -> Any:
    from rich.table import Table

    table = Table(
        "name", "variant", "labels", "trained on", "top-1", "top-5", "preset", "source", "licence"
    )
    for entry in entries:
        accuracy = ("" if value is None else f"{value:g}" for value in (entry.top1, entry.top5))
        table.add_row(
            entry.name,
            entry.variant,
            str(entry.num_labels),
            entry.data,
            *accuracy,
            entry.preset,
            entry.source,
            entry.licence,
        )
    return table


def _vtab_line() -> str:
    pattern = VTAB_PATTERN.format(
        variant="{" + ",".join(VTAB_VARIANTS) + "}",
        run="{" + ",".join(map(str, VTAB_RUNS)) + "}",
        task="TASK",
    )
    return (
        f"and {len(vtab())} fine-tuned on VTAB-1k: {pattern}, TASK one of {', '.join(VTAB_TASKS)} "
        "(`bit-backbone checkpoints 'vtab/*'` lists them)"
    )
