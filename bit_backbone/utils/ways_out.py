"""How a message says what to pass: as an argument to Python, as an option to a command's user.

A message is made far below the command that a user has called, and the same function is called from
Python. So whoever raises says what would help, and the command says once, for all messages, which
options it has.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_OPTIONS: ContextVar[Mapping[str, argparse.Action] | None] = ContextVar("options", default=None)


@contextmanager
def for_command(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Messages that are made inside are for the user of a command with this parser's options."""
    options = {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    }
    token = _OPTIONS.set(options)
    try:
        yield
    finally:
        _OPTIONS.reset(token)


def passing(name: str, value: Any, why: str = "") -> str:
    """Returns "pass ..." with an argument, or "" for a user whose command has no such option.

    Args:
        name: Of the argument; an option has its name with dashes.
        value: What to pass.
        why: What follows in the message.
    """
    options = _OPTIONS.get()
    if options is None:
        return f"pass {name}={value if isinstance(value, bool) else _quoted(value)}{_spaced(why)}"
    option = options.get(name)
    if option is None or (option.choices is not None and value not in option.choices):
        return ""
    is_switch = option.nargs == 0
    if is_switch and option.const != value:
        return ""
    shown = "" if is_switch else f" {value}"
    return f"pass {option.option_strings[-1]}{shown}{_spaced(why)}"


def in_python(advice: str) -> str:
    """Returns advice that no user of a command can follow, or "" for such a user."""
    return advice if _OPTIONS.get() is None else ""


def either(*ways: str) -> str:
    """Joins the ways out that there are: "a", "a, or b", "a, b, or c"; "" where there is none."""
    open_ways = [way for way in ways if way]
    return ", or ".join(filter(None, (", ".join(open_ways[:-1]), *open_ways[-1:])))


def after(separator: str, *ways: str) -> str:
    """Returns the ways out after what separates them from the rest of a message, if there are."""
    advice = either(*ways)
    return separator + advice if advice else ""


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)


def _spaced(why: str) -> str:
    return f" {why}" if why else ""
