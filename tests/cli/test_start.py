"""What commands import before their work begins: torchvision and compilers take seconds."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from rectangles import write_coco

from bit_backbone import BitConfig, BitForImageClassification

HEAVY = (
    "torch._dynamo",
    "torch._inductor",
    "torch.distributed.fsdp",
    "torchvision",
    "sympy",
    "sklearn",
    "matplotlib",
)
SCRIPT = f"""
import sys
from bit_backbone.cli import main
status = main(sys.argv[1:])
print("imported", [name for name in {HEAVY} if name in sys.modules])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    config = BitConfig(
        num_groups=8, embedding_size=32, hidden_sizes=(32, 64), depths=(1, 1), num_labels=3
    )
    BitForImageClassification(config).save_pretrained(folder / "model")
    write_coco(folder / "coco")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (70, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / "a.png")
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "features images/a.png --weights model --output features",
        "classify images/a.png --weights model",
        "extract images --weights model --output vectors --pool avg",
        "convert model model.npz --format npz",
        "checkpoints",
        "checkpoints show model",
        "info R50x1",
        "info model --feature-norm preact --precision bfloat16",
        "info --device cpu",
        "scenes scenes --images 2",
        "convert-dataset coco converted",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_commands_without_a_detector_import_no_torchvision_and_no_compiler(command, folder):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, *command.split()],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "imported []"
