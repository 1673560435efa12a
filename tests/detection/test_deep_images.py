"""How images are to be read, in bits and orientation: the run knows, and so do the commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from deep_images import write_png
from PIL import Image

from bit_backbone import BitConfig, BitForImageClassification, BitImageProcessor, cli
from bit_backbone.datasets import CocoFolder, SemanticFolder
from bit_backbone.detection.runs import bit_depth_of, exif_of

MODEL = ("--model", "fasterrcnn_bit_tiny_fpn", "--argument", "min_size=64", "--base-lr", "0.001")
SHORT = ("--steps", "2", "--batch-size", "2", "--warmup-steps", "1", "--pictures", "0")


def deepen(folder: Path) -> None:
    """Give every PNG of a folder 12 of 16 bits."""
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(np.uint16)
        write_png(path, (pixels * (4095 / 255)).round().astype(np.uint16))


@pytest.mark.parametrize("kind", [CocoFolder, SemanticFolder])
def test_a_data_set_scales_by_its_bits(kind, coco_folder: Path) -> None:
    before = kind(coco_folder)[0][0]
    deepen(coco_folder)
    assert kind(coco_folder, bit_depth=12)[0][0].equal(before)
    assert kind(coco_folder)[0][0].max() < 0.07


def test_a_run_keeps_its_bits(coco_folder: Path, tmp_path: Path, capsys) -> None:
    plain = tmp_path / "plain.png"
    image = coco_folder / "images" / "1.png"
    plain.write_bytes(image.read_bytes())
    deepen(coco_folder)
    target, data = str(tmp_path / "run"), str(coco_folder)
    request = ["train", *MODEL, *SHORT, "--train", data, "--test", data, "--output", target]
    assert cli.main([*request, "--bit-depth", "12"]) == 0
    assert bit_depth_of(target) == 12
    assert cli.main(request) == 2
    assert "bit_depth 12 -> None" in capsys.readouterr().err
    detect = ["detect", "--weights", target, "--json", "--min-score", "0"]
    found = []
    for path in (plain, image):
        assert cli.main([*detect, str(path)]) == 0
        found.append(json.loads(capsys.readouterr().out)["objects"])
    assert found[0] == found[1]
    assert cli.main([*detect, str(image), "--bit-depth", "9"]) == 3
    assert "9 bits are at most 511" in capsys.readouterr().err
    assert cli.main(["evaluate", target, "--test", data, "--pictures", "0"]) == 0


def test_a_run_keeps_how_its_images_are_turned(coco_folder: Path, tmp_path: Path, capsys) -> None:
    orientation = Image.Exif()
    orientation[274] = 6
    for path in (coco_folder / "images").iterdir():
        Image.open(path).save(path, exif=orientation)  # annotated as they are stored
    target, data = str(tmp_path / "run"), str(coco_folder)
    request = ["train", *MODEL, *SHORT, "--train", data, "--test", data, "--output", target]
    assert cli.main([*request, "--exif", "stored"]) == 0
    assert exif_of(target) == "stored"
    evaluate = ["evaluate", target, "--test", data, "--pictures", "0"]
    assert cli.main(evaluate) == 0
    capsys.readouterr()
    assert cli.main([*evaluate, "--exif", "upright"]) == 2
    assert "pass --exif stored if it was annotated as it is stored" in capsys.readouterr().err


def test_a_classifier_keeps_its_bits(tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 4096, (40, 44), np.uint16)
            write_png(tmp_path / "data" / name / f"{number}.png", pixels)
    sizes = {"embedding_size": 8, "hidden_sizes": (16, 16, 16, 32), "depths": (1, 1, 1, 1)}
    config = BitConfig(**sizes, num_groups=4, num_labels=2)
    BitForImageClassification(config).save_pretrained(tmp_path / "weights")
    request = ["finetune", "--train", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    request += ["--weights", str(tmp_path / "weights"), "--steps", "1", "--batch-size", "2"]
    request += ["--resolution", "40,32", "--device", "cpu", "--check"]
    assert cli.main([*request, "--bit-depth", "10"]) == 2
    assert "4 of the 4 images of the train set are" in capsys.readouterr().err
    assert cli.main([*request, "--bit-depth", "12"]) == 0
    assert BitImageProcessor.from_pretrained(tmp_path / "run" / "model").bit_depth == 12


@pytest.mark.parametrize("text", ["0", "33", "many", "-1"])
def test_a_number_of_bits_that_is_none(text: str, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["features", "a.png", "--output", "out", "--bit-depth", text])
    assert "auto or a number of bits up to 32" in capsys.readouterr().err
