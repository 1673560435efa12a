"""Whatever a decoder raises is that image's failure, in every command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plugin_images import RAISED, write_raising

from bit_backbone import BitConfig, BitForImageClassification, cli
from bit_backbone.preprocessing.images import decode, header_size, read
from bit_backbone.training.problems import read_problems
from bit_backbone.utils.unreadable import UnreadableImageError, reading

TINY = BitConfig(
    embedding_size=8, hidden_sizes=(16, 16, 16, 32), depths=(1, 1, 1, 1), num_groups=4,
    num_labels=2,
)  # fmt: skip


@pytest.mark.parametrize("name", RAISED)
def test_a_decoder_that_raises(name: str, tmp_path: Path) -> None:
    path = write_raising(tmp_path / "a.png", name)
    with pytest.raises(ValueError, match=rf"a.png is damaged or too large: .*from {name}"):
        decode(path, "a.png")
    with pytest.raises(UnreadableImageError), reading(path):
        read(path, convert_rgb=True, input_data_format=None, white=1.0)
    assert header_size(path) == (40, 30)


@pytest.mark.parametrize("name", ["MemoryError", "KeyboardInterrupt"])
def test_what_is_no_failure_of_the_image_passes(name: str, tmp_path: Path) -> None:
    with pytest.raises((MemoryError, KeyboardInterrupt)):
        decode(write_raising(tmp_path / "a.png", name), "a.png")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder for each of two classes, with one image that raises, and a checkpoint."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (40, 44, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{name}{number}.png")
    torch.manual_seed(0)
    BitForImageClassification(TINY).save_pretrained(tmp_path / "weights")
    write_raising(tmp_path / "data" / "dog" / "bad.png", "IndexError")
    return tmp_path


def test_commands_that_read_images(pictures: Path, capsys) -> None:
    images = [str(pictures / "data" / "dog" / name) for name in ("bad.png", "dog1.png")]
    weights, target = ["--weights", str(pictures / "weights")], str(pictures / "out")
    assert cli.main(["classify", *images, *weights]) == 3
    assert "bad.png is damaged or too large" in capsys.readouterr().err
    assert cli.main(["features", *images, *weights, "--output", target]) == 3
    assert "bad.png is damaged or too large" in capsys.readouterr().err
    options = ["--output", f"{target}2", "--pool", "avg", "--workers", "0", "--short-side", "32"]
    assert cli.main(["extract", str(pictures / "data"), *weights, *options]) == 3
    assert "8 of 9 images, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("workers", ["0", "1"])
def test_fine_tuning(workers: str, pictures: Path, capsys) -> None:
    data = str(pictures / "data")
    request = ["finetune", "--train", data, "--eval", data, "--output", str(pictures / "run")]
    request += ["--weights", str(pictures / "weights"), "--steps", "6", "--batch-size", "4"]
    request += ["--resolution", "40,32", "--device", "cpu", "--workers", workers]
    assert cli.main([*request, "--check"]) == 3
    out, err = capsys.readouterr()
    assert "train: 8 of 9 images can be read" in out
    assert "on 8 images" in out
    assert "left out: " in err
    assert {r["set"] for r in read_problems(pictures / "run")} == {"train", "test"}
    assert cli.main(request) == 3  # has nothing left to do, and says so again
    assert cli.main([*request, "--max-unreadable", "0", "--check"]) == 2


def test_the_rule_looks_at_what_can_be_read(pictures: Path, capsys) -> None:
    (pictures / "data" / "dog" / "cut.png").write_bytes(b"no image")
    request = ["finetune", "--train", str(pictures / "data"), "--output", str(pictures / "run")]
    request += ["--weights", str(pictures / "weights"), "--steps", "1", "--batch-size", "2"]
    assert cli.main([*request, "--max-unreadable", "0.5", "--device", "cpu"]) in (0, 3)
    assert "resize 160, crop 128" in capsys.readouterr().err
