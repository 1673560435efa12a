"""What options tell of a network, and the weights that the folder of a run stands for."""

import pytest
import torch
from photographs import photograph
from rectangles import VARIANT
from safetensors.torch import load_file

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitModel
from bit_backbone.cli import main
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.detection.runs import save_spec
from bit_backbone.extraction.run import native_size
from bit_backbone.training.state import MODEL_FOLDER, STATE_NAME, RunState

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
    yield "finetune", "--train", photos, "--weights", weights, "--output", output
    yield "classify", photo, "--weights", weights
    yield "convert", weights, output, "--format", "timm"
    yield "info", weights


def test_a_fine_tuning_that_is_not_finished_has_no_weights(photos, tmp_path, capsys):
    weights = tmp_path / "run"
    weights.mkdir()
    (weights / STATE_NAME).touch()
    output = tmp_path / "output"
    for command in commands(photos, weights, output):
        assert main([str(part) for part in command]) == 2, command
        assert f"{weights} is the folder of a fine-tuning that has not" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("index", [0, 1, 3, 4, 5])  # finetune would train for 500 steps
def test_the_folder_of_a_fine_tuning_stands_for_its_classifier(index, photos, tmp_path):
    model = BitForImageClassification(TWO_STAGES.replace(num_labels=3))
    model.save_pretrained(tmp_path / "run" / MODEL_FOLDER)
    output = tmp_path / "output.safetensors"
    command = list(commands(photos, tmp_path / "run", output))[index]
    assert main([str(part) for part in command]) == 0
    if command[0] == "convert":
        assert load_file(output)["head.fc.weight"].shape[0] == 3


@pytest.mark.parametrize("name", ["retinanet_bit_fpn", "fcn_bit"])
def test_the_folder_of_a_detector_stands_for_its_backbone(name, photos, tmp_path):
    run = tmp_path / "run"
    spec = DetectorSpec(name, ("cat",), {"variant": VARIANT})
    torch.manual_seed(0)
    model = spec.build()
    save_spec(run, spec)
    RunState(1, {}, model.state_dict(), {}).save(run)
    photo = str(photos / "class" / "horse.png")
    command = ["features", photo, "--weights", str(run), "--output", str(tmp_path / "maps")]
    assert main([*command, "--out-indices", "4"]) == 0
    found = load_file(tmp_path / "maps" / "horse.safetensors")["stage4"]
    pixels = native_size()(photo, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        body = model.eval().get_submodule("backbone.body")
        expected = list(body(pixels).values())[-1][0]
    # the command optimizes its network, which rounds differently
    torch.testing.assert_close(found, expected, atol=2e-5 * float(expected.abs().max()), rtol=0)
    assert BitBackbone.from_pretrained(run / "backbone").config.hidden_sizes == (16, 32, 64, 64)
