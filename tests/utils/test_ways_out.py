"""Messages tell Python's users an argument, and a command's users an option."""

import argparse

import pytest

from bit_backbone.utils.ways_out import after, either, for_command, in_python, passing

PARSER = argparse.ArgumentParser()
PARSER.add_argument("--head", choices=("zero", "new"))
PARSER.add_argument("-b", "--batch-size", type=int)
PARSER.add_argument("--overwrite", action="store_true")
PARSER.add_argument("positional")


@pytest.mark.parametrize(
    ("name", "value", "python", "command"),
    [
        ("head", "new", 'pass head="new"', "pass --head new"),
        ("head", "drop", 'pass head="drop"', ""),
        ("batch_size", 1, "pass batch_size=1", "pass --batch-size 1"),
        ("overwrite", True, "pass overwrite=True", "pass --overwrite"),
        ("overwrite", False, "pass overwrite=False", ""),
        ("positional", "a", 'pass positional="a"', ""),
        ("strict", False, "pass strict=False", ""),
    ],
)
def test_passing(name, value, python, command):
    assert passing(name, value) == python
    assert passing(name, value, "to continue") == f"{python} to continue"
    with for_command(PARSER):
        assert passing(name, value) == command
        assert passing(name, value, "to continue") == (command and f"{command} to continue")
    assert passing(name, value) == python


def test_what_only_python_can_do():
    assert in_python("build another") == "build another"
    with for_command(PARSER):
        assert in_python("build another") == ""


@pytest.mark.parametrize(
    ("ways", "text"),
    [
        ((), ""),
        (("", ""), ""),
        (("a",), "a"),
        (("a", "", "b"), "a, or b"),
        (("a", "b", "c"), "a, b, or c"),
    ],
)
def test_ways_are_joined(ways, text):
    assert either(*ways) == text
    assert after("; ", *ways) == (text and f"; {text}")
