"""bit-backbone finetune: from folders of images to a saved classifier."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from bit_backbone import BitConfig, BitForImageClassification, BitImageProcessor
from bit_backbone.cli import build_parser, main
from bit_backbone.cli.finetune import _with_weights_of as with_weights_of
from bit_backbone.finetune import LabelledImages
from bit_backbone.training.state import RunState

TINY = BitConfig(
    embedding_size=8, hidden_sizes=(16, 16, 16, 32), depths=(1, 1, 1, 1), num_groups=4,
    num_labels=9,
)  # fmt: skip
COLOURS = {"blue": (20, 40, 220), "green": (20, 200, 40), "red": (220, 40, 20)}


@pytest.fixture
def folders(tmp_path):
    """Coloured noise in folders, a checkpoint beside it."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 6, "eval": 3}.items():
        for name, colour in COLOURS.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(colour, 40, (30, 44, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(noise).save(folder / f"{i}.png")
    BitForImageClassification(TINY).save_pretrained(tmp_path / "checkpoint")
    return tmp_path


def command(folders, *arguments, train="train", checkpoint="checkpoint"):
    return main([
        "finetune", "--train", str(folders / train), "--weights", str(folders / checkpoint),
        "--output", str(folders / "run"), "--batch-size", "6", "--device", "cpu",
        "--resolution", "40,32", *map(str, arguments),
    ])  # fmt: skip


def test_from_folders_to_predictions(folders, capsys):
    arguments = ("--eval", folders / "eval", "--steps", "40", "--base-lr", "0.05")
    assert command(folders, *arguments) == 0
    out, err = capsys.readouterr()
    assert "on 18 images of 3 classes: 40 steps of 6, resize 40, crop 32, mixup 0" in err
    assert out.startswith("top-1 100.00%, loss 0.")  # 3 classes have no top-5
    model = BitForImageClassification.from_pretrained(folders / "run" / "model")
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    processor = BitImageProcessor.from_pretrained(folders / "run" / "model")
    assert processor.size == {"height": 32, "width": 32}
    picture = str(folders / "eval" / "green" / "0.png")
    main(["classify", picture, "--weights", str(folders / "run" / "model"), "--json"])
    best = json.loads(capsys.readouterr().out)["predictions"][0]
    assert best["label"] == "green"
    assert main(["classify", picture, "--weights", str(folders / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0] == best
    assert command(folders, *arguments) == 0  # has nothing left to do
    assert capsys.readouterr().out == out


def test_few_examples_and_a_random_head(folders, capsys):
    arguments = ("--examples-per-class", "2", "--head", "random", "--seed", "3", "--steps", "1")
    assert command(folders, *arguments, "--grad-checkpointing", "--precision", "bfloat16") == 0
    assert "on 6 images of 3 classes" in capsys.readouterr().err
    assert RunState.load(folders / "run").settings["examples_per_class"] == 2
    # step 0 has learning rate 0 unless there is no warm-up
    weight = BitForImageClassification.from_pretrained(folders / "run" / "model").classifier.weight
    assert weight.std() > 0.01


def test_the_rule_chooses_the_resolution(folders, monkeypatch, capsys):
    seen = {}

    def stop(model, train_set, folder, settings, **options):
        seen.update(shape=train_set[0][0].shape, head=model.classifier.weight.abs().sum().item())
        raise KeyboardInterrupt

    monkeypatch.setattr("bit_backbone.finetune.training.finetune", stop)
    common = ["finetune", "--train", str(folders / "train"), "--output", str(folders / "run"),
              "--weights", str(folders / "checkpoint")]  # fmt: skip
    assert main(common) == 130
    assert seen == {"shape": (3, 128, 128), "head": 0.0}
    assert "500 steps of 512, resize 160, crop 128, mixup 0" in capsys.readouterr().err
    assert main([*common, "--image-size", "96x96"]) == 130
    assert seen["shape"] == (3, 480, 480)


def test_a_signal_is_told_in_the_exit_status(folders, monkeypatch, capsys):
    from bit_backbone.finetune.training import FineTuneResult

    monkeypatch.setattr(
        "bit_backbone.finetune.training.finetune",
        lambda *_, **__: FineTuneResult(None, 7, None, 15),
    )
    assert command(folders) == 143
    assert "after step 7; the same command resumes it" in capsys.readouterr().err
    assert not (folders / "run" / "model").exists()


def test_evaluation_keeps_the_classes_of_training(folders):
    for image in (folders / "eval" / "blue").iterdir():
        image.unlink()
    (folders / "eval" / "blue").rmdir()
    labelled = LabelledImages(folders / "eval", classes=["blue", "green", "red"])
    assert labelled.classes == ["blue", "green", "red"]
    assert sorted(set(labelled.targets)) == [1, 2]


def test_a_class_may_be_called_like_a_split(folders):
    (folders / "vehicles").mkdir()
    (folders / "eval" / "red").rename(folders / "vehicles" / "train")
    labelled = LabelledImages(folders / "vehicles", classes=["bus", "car", "train"])
    assert set(labelled.targets) == {2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--train", "nowhere"), "files ROOT/CLASS/IMAGE; under nowhere"),
        (("--eval", "strange"), "strange has folders of classes that the training images do not"),
        (("--eval", "empty"), "files ROOT/CLASS/IMAGE"),
        (
            ("--train", "splits"),
            "a data set's splits: test, train; name one of them, splits/train",
        ),
        (("--examples-per-class", "7"), "every class needs 7 examples, but class 0 has 6"),
        (("--batch-size", "0"), "a whole number of at least 1, got '0'"),
        (
            ("--resolution", "32,40"),
            "as large as the resized image, got resize 32 and",
        ),
        (("--resolution", "40,0"), "at least 1 pixel"),
        (("--resolution", "40"), "RESIZE,CROP in pixels, such as 512,480; got '40'"),
        (("--mixup-alpha", "-1"), "mixup_alpha must be at least 0, got -1.0"),
        (("--weights", "BiT-M-R5x1"), "BiT-M-R50x1"),
    ],
)
def test_what_is_rejected(folders, arguments, message, monkeypatch, capsys):
    (folders / "strange" / "violet").mkdir(parents=True)
    (folders / "empty").mkdir()
    for split in ("train", "test"):
        (folders / "splits" / split / "red").mkdir(parents=True)
    monkeypatch.chdir(folders)
    try:
        status = command(folders, *arguments)
    except SystemExit as exit_:  # argparse
        status = exit_.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_classes_without_any_image_are_rejected(tmp_path):
    (tmp_path / "red").mkdir()
    with pytest.raises(ValueError, match="files ROOT/CLASS/IMAGE, found none under"):
        LabelledImages(tmp_path, classes=["blue", "red"])


def test_the_weights_of_a_sharded_run_are_read_from_its_state(folders):
    """Its own model has ended with its processes."""
    assert command(folders, "--steps", "2") == 0
    args = build_parser().parse_args([
        "finetune", "--train", "x", "--weights", str(folders / "checkpoint"),
        "--output", str(folders / "run"),
    ])  # fmt: skip
    model = with_weights_of(args, sorted(COLOURS))
    saved = BitForImageClassification.from_pretrained(folders / "run" / "model").state_dict()
    assert model.state_dict().keys() == saved.keys()
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())


def test_another_preparation_is_no_resumption(folders, capsys):
    assert command(folders, "--steps", "1") == 0
    assert command(folders, "--steps", "1", "--no-flip") == 2
    assert "with other settings (flip True -> False)" in capsys.readouterr().err


def test_another_checkpoint_or_head_is_no_resumption(folders, capsys):
    same = dataclasses.replace(TINY, global_padding="same")
    model = BitForImageClassification.from_pretrained(folders / "checkpoint")
    BitForImageClassification(TINY).save_pretrained(folders / "other")
    padded = BitForImageClassification(same)
    padded.load_state_dict(model.state_dict())
    padded.save_pretrained(folders / "padded")
    assert command(folders, "--steps", "1") == 0
    capsys.readouterr()
    for options, message in (
        ({"checkpoint": "other"}, "initial_weights '"),
        ({"checkpoint": "padded"}, "(network.global_padding None -> 'same')"),
    ):
        assert command(folders, "--steps", "1", **options) == 2
        assert message in capsys.readouterr().err
    assert command(folders, "--steps", "1", "--head", "random") == 2
    assert "zero_head True -> False" in capsys.readouterr().err
    saved = BitForImageClassification.from_pretrained(folders / "run" / "model")
    assert saved.config.global_padding is None
    model.save_pretrained(folders / "copy")
    assert command(folders, "--steps", "1", checkpoint="copy") == 0


def test_a_broken_image_is_named(folders, capsys):
    path = folders / "train" / "red" / "0.png"
    path.write_bytes(path.read_bytes()[:2000])
    assert command(folders, "--steps", "3") == 3
    assert f"cannot read the image {path}: " in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_gives_one_classifier(folders):
    import os
    import subprocess
    import sys
    from pathlib import Path

    base = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "bit_backbone", "finetune", "--train", str(folders / "train"), "--weights",
            str(folders / "checkpoint"), "--output", str(folders / "run"), "--batch-size", "6",
            "--device", "cpu", "--resolution", "40,32", "--steps", "2"]  # fmt: skip
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(base, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("the classifier is") == 1
    assert torch.isfinite(
        BitForImageClassification.from_pretrained(folders / "run" / "model").classifier.weight
    ).all()


def test_recomputed_norms_change_no_weight(folders):
    weights = []
    for name, extra in (("kept", ()), ("made", ("--activation-recompute",))):
        arguments = [*extra, "--output", str(folders / name), "--steps", "2"]
        assert command(folders, *arguments) == 0
        model = BitForImageClassification.from_pretrained(folders / name / "model")
        weights.append(model.state_dict())
    kept, made = weights
    assert all(torch.equal(kept[name], made[name]) for name in kept)
