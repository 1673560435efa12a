"""Damaged images in the middle of detection and segmentation: nothing ends, nothing is silent."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rectangles import VARIANT, write_coco
from test_training import SETTINGS, SPEC, run, same, wait_for_a_state

from bit_backbone import cli
from bit_backbone.datasets import CocoFolder, SemanticFolder
from bit_backbone.detection import DetectorSpec
from bit_backbone.training.problems import read_problems
from bit_backbone.training.state import RunState

MODEL = ("--model", "fasterrcnn_bit_tiny_fpn", "--argument", "min_size=64", "--base-lr", "0.001")
SHORT = ("--steps", "3", "--batch-size", "2", "--warmup-steps", "1", "--pictures", "2")


def cut(folder: Path, name: str = "2.png") -> Path:
    """Cut an image off in its pixels: its header is whole."""
    path = folder / "images" / name
    path.write_bytes(path.read_bytes()[:-900])
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_training_replaces_it_and_the_evaluation_leaves_it_out(
    workers: int, coco_folder: Path, tmp_path: Path
) -> None:
    path = cut(coco_folder)
    data = CocoFolder(coco_folder)
    settings = dataclasses.replace(SETTINGS, workers=workers)
    result = run(SPEC, data, tmp_path / "run", settings, eval_set=data)
    assert result.unreadable == 2  # of the training set and of the test set
    told = [(r["set"], r["file"]) for r in read_problems(tmp_path / "run")]
    assert told == [("train", str(path)), ("test", str(path))]
    content = json.loads((coco_folder / "instances.json").read_text())
    content["images"] = [r for r in content["images"] if r["id"] != 2]
    content["annotations"] = [r for r in content["annotations"] if r["image_id"] != 2]
    (coco_folder / "instances.json").write_text(json.dumps(content))
    rest = CocoFolder(coco_folder)
    again = run(SPEC, data, tmp_path / "run", settings, eval_set=rest)
    assert again.metrics == result.metrics


def test_a_segmenter_trains_and_is_evaluated(coco_folder: Path, tmp_path: Path) -> None:
    cut(coco_folder)
    data = SemanticFolder(coco_folder)
    spec = DetectorSpec("fcn_bit", data.categories, {"variant": VARIANT, "output_stride": 16})
    settings = dataclasses.replace(SETTINGS, base_lr=1e-3)
    result = run(spec, data, tmp_path / "run", settings, eval_set=data)
    assert result.unreadable == 2
    assert result.metrics["mIoU"] >= 0


SCRIPT = """
import sys
from bit_backbone.datasets import CocoFolder
from bit_backbone.detection import DetectionSettings, DetectorSpec, train
from bit_backbone.detection.transforms import train_transforms
if __name__ == "__main__":
    settings = DetectionSettings(steps=12, batch_size=2, warmup_steps=1, save_every=1)
    spec = DetectorSpec("fasterrcnn_bit_tiny_fpn", ("block", "bar"), {"min_size": 64})
    data = CocoFolder(sys.argv[1], transforms=train_transforms(["photometric", "hflip"]))
    train(spec, data, sys.argv[2], settings, show_progress=False)
"""


@pytest.mark.usefixtures("importable")
def test_a_kill_and_a_resumption_across_it(coco_folder: Path, tmp_path: Path) -> None:
    cut(coco_folder)
    command = [sys.executable, "-c", SCRIPT, str(coco_folder)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    killed = subprocess.Popen([*command, str(tmp_path / "killed")])
    wait_for_a_state(killed, tmp_path / "killed")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    states = [RunState.load(tmp_path / name) for name in ("whole", "killed")]
    assert states[0].step == states[1].step == 12
    assert same(states[0].model, states[1].model)
    assert len(read_problems(tmp_path / "killed")) == 1


@pytest.fixture
def options(coco_folder: Path, tmp_path: Path) -> list[str]:
    test = write_coco(tmp_path / "test", 3, seed=1)
    return ["--train", str(coco_folder), "--test", str(test)]


def test_the_commands_say_so_in_their_status(options, coco_folder: Path, tmp_path: Path, capsys):
    bad = [cut(coco_folder), cut(tmp_path / "test")]
    target = str(tmp_path / "run")
    assert cli.main(["train", *MODEL, *SHORT, *options, "--output", target, "--check"]) == 3
    out, err = capsys.readouterr()
    assert "train: 5 of 6 images can be read" in out
    assert "test: 2 of 3 images can be read" in out
    assert "2 test images" in out
    assert [r["file"] for r in read_problems(tmp_path / "run")] == [str(path) for path in bad]
    assert " ".join(err.split()).count("unreadable image, left out") == 2
    assert (tmp_path / "run" / "report.html").exists()
    assert cli.main(["evaluate", target, *options[2:], "--report"]) == 3
    out, err = capsys.readouterr()
    assert f"{bad[1]}, cannot be read" in err
    assert "2 test images" in out
    assert cli.main(["evaluate", target, *options[2:], "--max-unreadable", "0"]) == 2
    assert (
        "1 of the 3 images of the test set are: see above; pass --max-unreadable 0.1"
        in capsys.readouterr().err
    )


def test_a_check_finds_too_many_before_training(options, coco_folder, tmp_path, capsys) -> None:
    for name in ("1.png", "4.png"):
        cut(coco_folder, name)
    request = ["train", *MODEL, *SHORT, *options, "--output", str(tmp_path / "run")]
    assert cli.main([*request, "--check"]) == 2
    told = capsys.readouterr().err
    assert "2 of the 6 images of the train set are" in told
    assert "pass --max-unreadable" in told
    assert not (tmp_path / "run").exists()
    assert cli.main([*request, "--check", "--max-unreadable", "0.5"]) == 3


@pytest.mark.parametrize("text", ["-0.1", "1.1", "few"])
def test_a_share_that_is_none(text: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "--output", "run", "--max-unreadable", text])
    assert "a share from 0 to 1" in capsys.readouterr().err
