"""The command's frame: exit statuses, messages on stderr, usage errors."""

import argparse
import os
import shlex
import subprocess
import sys
from types import ModuleType

import pytest

import bit_backbone
from bit_backbone.cli import command_line as cli


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command module of the test's own; the test says what it does by setting `outcome`."""

    def command(args: argparse.Namespace) -> int | None:
        if isinstance(module.outcome, BaseException):
            raise module.outcome
        return module.outcome

    def add_parser(subparsers: argparse._SubParsersAction) -> None:
        subparsers.add_parser("probe").set_defaults(func=command)

    module = ModuleType("probe_command")
    module.add_parser = add_parser
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setattr(cli, "COMMANDS", ("probe_command",))
    return module


@pytest.mark.parametrize(
    ("outcome", "status", "told"),
    [
        (None, 0, ""),
        (0, 0, ""),
        (3, 3, ""),
        (ValueError("depth must be positive, got -1"), 2, "depth must be positive, got -1"),
        (FileNotFoundError(2, "No such file", "a.jpg"), 2, "[Errno 2] No such file: 'a.jpg'"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_the_exit_status_and_the_message(outcome, status, told, probe, capsys) -> None:
    probe.outcome = outcome
    assert cli.main(["probe"]) == status
    assert capsys.readouterr().err == (f"bit-backbone: error: {told}\n" if told else "")


def test_debug_raises_the_error(probe) -> None:
    probe.outcome = ValueError("depth must be positive")
    with pytest.raises(ValueError, match="depth must be positive"):
        cli.main(["--debug", "probe"])


def test_a_bug_is_never_made_to_look_like_bad_input(probe) -> None:
    probe.outcome = KeyError("stage9")
    with pytest.raises(KeyError):
        cli.main(["probe"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "required: COMMAND"),
        (["sing"], "invalid choice: 'sing'"),
        (["probe", "--verbos"], "unrecognized arguments: --verbos"),
    ],
)
def test_usage_errors(arguments, told, probe, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert told in capsys.readouterr().err


def test_python_dash_m_tells_the_version() -> None:
    command = [sys.executable, "-m", "bit_backbone", "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == f"bit-backbone {bit_backbone.__version__}\n"


PRINTS_FOR_EVER = """
import sys, types
from bit_backbone.cli import command_line as cli
def command(args):
    while True:
        print("y")
module = types.ModuleType("yes")
module.add_parser = lambda subparsers: subparsers.add_parser("yes").set_defaults(func=command)
sys.modules["yes"] = module
cli.COMMANDS = ("yes",)
sys.exit(cli.main(["yes"]))
"""


def test_a_reader_that_goes_away_ends_the_command_quietly() -> None:
    command = [sys.executable, "-c", PRINTS_FOR_EVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize("arguments", [["checkpoints", "--json"], ["checkpoints"]])
def test_a_reader_that_was_never_there_is_one_that_went_away(arguments) -> None:
    command = [sys.executable, "-m", "bit_backbone", *arguments]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_closed_stdout_is_no_error() -> None:
    command = f"{shlex.quote(sys.executable)} -m bit_backbone checkpoints '*R50x1*' >&-"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_file_name_that_is_no_text_is_printed_escaped() -> None:
    code = PRINTS_FOR_EVER.replace('while True:\n        print("y")', 'print("\\udcff.png")')
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, env=strict, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\udcff.png\n", b"")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
@pytest.mark.parametrize(
    "command",
    ["extract . --output out", "classify . --weights bit", "detect . --weights run"],
)
def test_a_device_that_is_not_there(command, device, capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--device", device])
    assert f"such as cpu or cuda:0, got {device!r}: " in capsys.readouterr().err
