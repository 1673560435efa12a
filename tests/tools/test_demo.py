"""tools/demo.py: the backbone that it pre-trains is one that every command takes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from photographs import photograph
from PIL import Image
from rectangles import write_coco

from bit_backbone.cli import main

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import demo

        digits = demo.draw_digits
        patch.setattr(demo, "draw_digits", lambda seed: digits(seed, 4))
        patch.setitem(demo.PRETRAINING, "steps", 20)
        patch.setitem(demo.PRETRAINING, "batch_size", 4)
        folder = tmp_path_factory.mktemp("demo") / "backbone_0"
        demo.pretrain(folder, 0)
        sys.modules.pop("demo")
    return folder


def commands(backbone: Path, folder: Path):
    photo = folder / "photos" / "class" / "a.png"
    weights = ("--weights", backbone)
    yield "features", photo, *weights, "--output", folder / "maps"
    yield "extract", photo.parent, *weights, "--output", folder / "all"
    yield "classify", photo, *weights
    yield ("finetune", "--train", photo.parents[1], *weights, "--output", folder / "classifier",
           "--steps", 1, "--batch-size", 2, "--resolution", "40,32")  # fmt: skip
    yield ("train", "--train", folder / "coco", "--test", folder / "coco", *weights, "--output",
           folder / "detector", "--model", "fasterrcnn_bit_tiny_fpn", "--steps", 1,
           "--warmup-steps", 0, "--pictures", 1)  # fmt: skip
    yield ("train", "--train", folder / "coco", "--test", folder / "coco", *weights, "--output",
           folder / "segmenter", "--model", "fcn_bit", "--steps", 1, "--warmup-steps", 0,
           "--pictures", 0)  # fmt: skip
    yield "info", backbone


@pytest.mark.parametrize("index", range(7))
def test_every_command_takes_it(index: int, backbone: Path, tmp_path: Path) -> None:
    for name in ("class", "other"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        photograph("horse@64x64").save(tmp_path / "photos" / name / "a.png")
    write_coco(tmp_path / "coco", 2)
    command = list(commands(backbone, tmp_path))[index]
    assert main([str(part) for part in command]) == 0


def test_it_knows_its_classes(backbone: Path, tmp_path: Path, capsys) -> None:
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    command = ["classify", str(tmp_path / "a.png"), "--weights", str(backbone), "--top", "10"]
    assert main(command) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert sorted(row.split()[-1] for row in rows) == [str(digit) for digit in range(10)]
