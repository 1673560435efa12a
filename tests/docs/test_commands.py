"""Every command line of the site and of the README is one that the programs take."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pages import ROOT, commands, page_names

from bit_backbone.cli import build_parser

PAGES = [page for page in (*page_names(), "../README.md") if commands(page)]


def bit_backbone(arguments: list[str]) -> None:
    if arguments != ["--version"]:
        build_parser().parse_args(arguments)


def python(arguments: list[str]) -> None:
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
        return
    script = Path(arguments[0])
    assert (ROOT / script).is_file(), f"no such script: {script}"
    parse = SCRIPTS.get(script.name)
    if parse is not None:
        parse(arguments[1:])
    else:
        options = [part for part in arguments[1:] if part.startswith("--")]
        source = (ROOT / script).read_text(encoding="utf-8")
        assert all(f'"{option}"' in source for option in options)


def with_detectron2(arguments: list[str]) -> None:
    if importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2, whose parser this is, is not installed")
    from detectron2.engine import default_argument_parser

    parsed = default_argument_parser().parse_args(arguments)
    assert parsed.config_file == "..." or (ROOT / parsed.config_file).is_file()


def torchrun(arguments: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args(arguments)
    if not parsed.module:
        python([parsed.training_script, *parsed.training_script_args])
        return
    assert parsed.training_script == "bit_backbone"
    bit_backbone(parsed.training_script_args)


def make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {part for part in arguments if "=" not in part} <= set(targets)


def pip(arguments: list[str]) -> None:
    extras = re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert arguments[0] == "install"
    named = re.findall(r"\.\[([\w,]+)\]", " ".join(arguments))
    assert set(",".join(named).split(",")) <= {"", *extras}


SCRIPTS: dict[str, Callable[[list[str]], object]] = {
    "train_torchvision.py": lambda arguments: bit_backbone(["train", *arguments]),
    "convert_checkpoint.py": lambda arguments: bit_backbone(["convert", *arguments]),
    "train_net.py": with_detectron2,
    "lazyconfig_train_net.py": with_detectron2,
}
PROGRAMS: dict[str, Callable[[list[str]], object]] = {
    "bit-backbone": bit_backbone,
    "python": python,
    "torchrun": torchrun,
    "make": make,
    "pip": pip,
    # what it clones is not ours to say
    "git": lambda arguments: None,
    "cd": lambda arguments: None,
}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_understood(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(page):
        for command in line.split("&&"):
            program, *arguments = shlex.split(command, comments=True)
            if arguments and arguments[-1] == "...":  # further options of the reader's
                del arguments[-1]
            assert program in PROGRAMS, f"nothing checks {program!r} in {line!r}"
            try:
                PROGRAMS[program](arguments)
            except SystemExit as error:
                sys.stdout.write(line)
                pytest.fail(f"{line}: {capsys.readouterr().err or error}")
