"""``bit-backbone checkpoints``: the published weights, and what a file holds."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
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
from bit_backbone.cli.show import show

SHOW = "show"


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "checkpoints",
        help="list published weights, or show the contents of a file",
        description="Lists every published BiT checkpoint. `weights=`, `from_pretrained`, "
        "`bit-backbone convert` and others accept each name. `show FILE` lists the networks in a "
        "checkpoint instead, without reading a tensor: the name for --part, the format, the "
        "variant, the size of the head, and types and size of the tensors.",
        usage="%(prog)s [-h] [--json] [PATTERN | show FILE]",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        help="list only names that match, such as '*R50x1*' or 'vtab/*-dtd'; if none does, those "
        "with an alias that matches",
    )
    parser.add_argument("file", nargs="?", help="after show: a file, a folder or a name")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> None:
    """Prints the table."""
    from bit_backbone.cli.output import Output

    if args.pattern == SHOW:
        if args.file is None:
            raise ValueError("`checkpoints show` needs the file, folder or name to show")
        show(args.file, args.json)
        return
    if args.file is not None:
        raise ValueError(f"one pattern at a time, got {args.pattern!r} and {args.file!r}")
    entries = _select(args.pattern)
    if args.json:
        print(json.dumps([dataclasses.asdict(entry) for entry in entries], indent=2))
        return
    console = Output.of_tables()
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
