"""What options tell of a network, and folders that are taken for weights and are none."""

import pytest
from photographs import photograph
from safetensors.torch import load_file

from bit_backbone import BitConfig, BitModel
from bit_backbone.checkpoints.sources import CONFIG_FILE
from bit_backbone.cli import main
from bit_backbone.cli.finetune import MODEL_FOLDER
from bit_backbone.training.state import STATE_NAME

TWO_STAGES = BitConfig(embedding_size=32, hidden_sizes=(128, 128), depths=(1, 1))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "class"
    folder.mkdir(parents=True)
    photograph("horse@64x64").save(folder / "horse.png")
    return folder.parent


def test_a_checkpoint_of_fewer_stages_gives_every_one_it_has(photos, tmp_path):
    BitModel(TWO_STAGES).save_pretrained(tmp_path / "two")
    weights = ["--weights", str(tmp_path / "two")]
    photo = str(photos / "class" / "horse.png")
    assert main(["features", photo, *weights, "--output", str(tmp_path / "maps")]) == 0
    assert set(load_file(tmp_path / "maps" / "horse.safetensors")) == {"stage1", "stage2"}
    assert main(["extract", str(photos), *weights, "--output", str(tmp_path / "all")]) == 0
    assert list((tmp_path / "all").glob("**/*.tar"))


def commands(photos, weights, output):
    """Yields a call of every command that takes weights."""
    photo = photos / "class" / "horse.png"
    yield "features", photo, "--weights", weights, "--output", output
    yield "extract", photos, "--weights", weights, "--output", output
    yield "finetune", "--train", photos, "--checkpoint", weights, "--output", output
    yield "classify", photo, "--checkpoint", weights
    yield "convert", weights, output, "--format", "timm"
    yield "info", weights


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{MODEL_FOLDER}/{CONFIG_FILE}", "is the folder of a fine-tuning: its classifier is "),
        (STATE_NAME, "is the folder of a training run: `bit-backbone detect` takes a detector's"),
    ],
)
def test_the_folder_of_a_run_is_told_from_weights(content, message, photos, tmp_path, capsys):
    weights = tmp_path / "run"
    (weights / content).parent.mkdir(parents=True)
    (weights / content).touch()
    output = tmp_path / "output"
    for command in commands(photos, weights, output):
        assert main([str(part) for part in command]) == 2, command
        assert f"{weights} {message}" in capsys.readouterr().err
    assert not output.exists()
