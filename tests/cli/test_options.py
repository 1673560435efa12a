"""One vocabulary of options in every command, and the spellings before, which warn."""

import argparse

import pytest

from bit_backbone.cli import build_parser
from bit_backbone.cli.options import add_precision_option, add_weights_option

REQUIRED = {
    "train": "--output r",
    "evaluate": "run --test d",
    "detect": "a.png --weights r",
    "classify": "a.png --weights w",
    "features": "a.png --output o",
    "extract": "s --output o",
    "finetune": "--train t --weights w --output o",
    "info": "R50x1",
}


def parse(command: str, *given: str) -> argparse.Namespace:
    return build_parser().parse_args([command, *REQUIRED[command].split(), *given])


@pytest.mark.parametrize("command", REQUIRED)
@pytest.mark.parametrize(
    ("given", "precision", "warning"),
    [
        ([], "float32", None),
        (["--precision", "bfloat16"], "bfloat16", None),
        (["--precision", "float16"], "float16", None),
        (["--precision", "fp32"], "float32", "--precision fp32 is now float32"),
        (["--precision", "bf16"], "bfloat16", "--precision bf16 is now bfloat16"),
        (["--precision", "fp16"], "float16", "--precision fp16 is now float16"),
        (["--amp"], "bfloat16", "--amp is now --precision bfloat16"),
    ],
)
def test_precision(command: str, given: list[str], precision: str, warning, capsys) -> None:
    assert parse(command, *given).precision == precision
    told = capsys.readouterr().err
    whole = f"bit-backbone: warning: {warning}; the old name will be removed\n"
    assert told == (whole if warning else "")


@pytest.mark.parametrize("precision", ["int8", "auto"])
@pytest.mark.parametrize("command", ["detect", "classify", "features", "extract"])
def test_precisions_of_inference(command: str, precision: str) -> None:
    assert parse(command, "--precision", precision).precision == precision
    with pytest.raises(SystemExit):
        parse("train", "--precision", precision)


@pytest.mark.parametrize("command", [name for name in REQUIRED if name != "info"])
def test_the_device(command: str) -> None:
    assert parse(command, "--device", "cpu").device == "cpu"
    assert parse(command).device is None


@pytest.mark.parametrize(
    ("command", "old", "dest", "value", "new"),
    [
        ("features", "--checkpoint", "weights", "w", "--weights"),
        ("extract", "--checkpoint", "weights", "w", "--weights"),
        ("train", "--weights-backbone", "weights_backbone", "w", "--weights"),
        ("info", "--dtype", "precision", "float64", "--precision"),
    ],
)
def test_an_old_name(command: str, old: str, dest: str, value: str, new: str, capsys) -> None:
    assert vars(parse(command, old, value))[dest] == value
    assert f"warning: {old} is now {new}; the old name will be removed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "value"),
    [
        ("detect", "a.png --checkpoint run", "run"),
        ("classify", "a.png --checkpoint=w", "w"),
        ("finetune", "--train t --output o --checkpoint w", "w"),
    ],
)
def test_an_old_name_of_a_required_option(command: str, given: str, value: str, capsys) -> None:
    assert build_parser().parse_args([command, *given.split()]).weights == value
    assert "--checkpoint is now --weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "one of the arguments --weights is required"),
        (["--weights", "a", "--checkpoint", "b"], "--checkpoint: not allowed with argument"),
        (["--weights", "a", "--precision", "int8"], "invalid choice: 'int8'"),
        (["--weights", "a", "--amp", "3"], "unrecognized arguments: 3"),
    ],
)
def test_a_wrong_use_is_a_usage_error(given: list[str], message: str, capsys) -> None:
    parser = argparse.ArgumentParser()
    add_weights_option(parser, "W", "weights", required=True)
    add_precision_option(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(given)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", REQUIRED)
def test_old_names_are_not_in_the_help(command: str, capsys) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    told = capsys.readouterr().out
    for old in ("--amp", "--checkpoint ", "--weights-backbone", "--dtype {float32", "--test-only"):
        assert old not in told
