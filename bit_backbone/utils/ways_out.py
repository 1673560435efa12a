"""Names the setting that helps in a message: as a Python argument, or as a command's option.

Functions that raise errors are called both from Python and, indirectly, by commands. So the code
that raises states the helpful argument, and each command declares its options once, for all
messages.
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
    """Messages raised inside name the options of this parser's command."""
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
    """Returns "pass ..." with an argument or option, or "" if the command has no such option.

    Args:
        name: Name of the argument; the option has the same name with dashes.
        value: The value to pass.
        why: The text that follows in the message.
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
    """Returns advice that only applies in Python, or "" inside a command."""
    return advice if _OPTIONS.get() is None else ""


def either(*ways: str) -> str:
    """Joins the ways out that are not empty: "a", "a, or b", "a, b, or c"; "" if all are empty."""
    open_ways = [way for way in ways if way]
    return ", or ".join(filter(None, (", ".join(open_ways[:-1]), *open_ways[-1:])))


def after(separator: str, *ways: str) -> str:
    """Returns the separator and the joined ways out, or "" if there are none."""
    advice = either(*ways)
    return separator + advice if advice else ""


def _quoted(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) and '"' not in value else repr(value)


def _spaced(why: str) -> str:
    return f" {why}" if why else ""
