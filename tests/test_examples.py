"""The examples run as they stand, here in small."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NUMBER = r"[\d.]+"

# Script, options that make it short, and the last lines that it prints.
RUNS = [
    ("own_head", ["--steps", "2"], rf"step 2, loss {NUMBER}\n\d+% of the digits' pixels in .*\n"),
    (
        "torchvision_detector",
        ["--steps", "2", "--images", "8", "--output", "out"],
        rf"step 2, loss {NUMBER}\nAP50 {NUMBER} on 2 unseen scenes\n\d+ objects in out/found.png\n",
    ),
    (
        "torchvision_segmenter",
        ["--steps", "2"],
        rf"step 2, loss {NUMBER}\nmean IoU {NUMBER} on 16 unseen scenes\n",
    ),
    (
        "detectron2_detector",
        ["--iterations", "2", "--images", "8", "--output", "out", "SOLVER.IMS_PER_BATCH", "2"],
        r"AP50 (nan|[\d.]+) after 2 iterations\n",
    ),
    (
        "finetune_digits",
        ["--steps", "2", "--examples-per-class", "2", "--output", "out"],
        rf"top-1 {NUMBER}% on 450 digits of other writers\nthe classifier is out/model\n",
    ),
    ("convert_checkpoints", [], r"every one of \d+ tensors is the same: True\n"),
]


@pytest.mark.parametrize(("name", "options", "ending"), RUNS, ids=[run[0] for run in RUNS])
def test_an_example_runs(name, options, ending, tmp_path, monkeypatch, capsys) -> None:
    if name.startswith("detectron2") and importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    script = EXAMPLES / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    runpy.run_path(str(script), run_name="__main__")
    assert re.search(f"{ending}$", capsys.readouterr().out)


def test_every_example_is_listed_and_run() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    listed = re.findall(r"^\| \[(\w+)\.py\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert scripts == set(listed) == {run[0] for run in RUNS}
