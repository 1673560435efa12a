"""``bit-backbone export``, and the commands that read what it wrote."""

import builtins
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import TINY, randomise, tiny
from PIL import Image

import bit_backbone
from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitImageProcessor
from bit_backbone.cli import main
from bit_backbone.detection.models import DetectorSpec
from bit_backbone.detection.runs import save_spec
from bit_backbone.export import export, load
from bit_backbone.training.state import STATE_NAME


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (20, 26, 3), np.uint8)
    Image.fromarray(noise).resize((131, 97)).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, size in {"a": (99, 70), "b": (64, 120), "c": (80, 80)}.items():
        noise = np.random.default_rng(1).integers(0, 256, (20, 26, 3), np.uint8)
        Image.fromarray(noise).resize(size).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def classifier(tmp_path):
    config = BitConfig(**TINY, num_labels=3, id2label={0: "cat", 1: "dog", 2: "eel"})
    folder = tmp_path / "classifier"
    randomise(BitForImageClassification(config)).save_pretrained(folder)
    BitImageProcessor(size=70, crop_size=64).save_pretrained(folder)
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_a_classifier_gives_what_its_checkpoint_gives(classifier, images, photo, tmp_path, capsys):
    file = tmp_path / "new" / "model.onnx"
    assert run("export", classifier, "--format", "onnx", "--output", file, "--images", images) == 0
    told = capsys.readouterr().out
    assert "70x99" in told
    assert "onnx, classification" in told
    answers = []
    for weights in (classifier, file):
        assert run("classify", photo, "--weights", weights, "--json") == 0
        answers.append(json.loads(capsys.readouterr().out)["predictions"])
    assert [a["label"] for a in answers[0]] == [a["label"] for a in answers[1]]
    for ours, theirs in zip(*answers, strict=True):
        assert theirs["probability"] == pytest.approx(ours["probability"], abs=1e-4)


def test_a_backbone_gives_its_maps(images, photo, tmp_path, capsys):
    from safetensors.torch import load_file

    backbone, file = tmp_path / "backbone", tmp_path / "model.xml"
    tiny(out_indices=(1, 2, 4)).save_pretrained(backbone)
    options = ("--out-indices", 1, 4, "--images", images)
    assert run("export", backbone, "--format", "openvino", "--output", file, *options) == 0
    assert (tmp_path / "model.bin").exists()
    for weights, out in ((backbone, "a"), (file, "b")):
        indices = ("--out-indices", 1, 4) if weights == backbone else ()
        arguments = ("--weights", weights, *indices, "--output", tmp_path / out)
        assert run("features", photo, *arguments) == 0
    ours, theirs = (load_file(tmp_path / out / "photo.safetensors") for out in "ab")
    assert set(ours) == set(theirs) == {"stage1", "stage4"}
    for name, value in ours.items():
        most = 1e-3 * float(value.abs().max())
        torch.testing.assert_close(theirs[name], value, atol=most, rtol=0)
    assert "stage4" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["fasterrcnn_bit_fpn", "fcn_bit"])
def test_a_run_without_weights(name, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    save_spec(folder, DetectorSpec(name, ("one", "two"), {"variant": BitConfig(**TINY).to_dict()}))
    assert run("export", folder, "--format", "onnx", "--output", tmp_path / "m.onnx") == 2
    assert f"holds no {STATE_NAME}; train first" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("name", ["fasterrcnn_bit_tiny_fpn", "fcn_bit"])
def test_a_run_gives_what_its_detector_gives(name, images, photo, tmp_path, capsys, monkeypatch):
    model, spec = _trained(name)
    monkeypatch.setattr("bit_backbone.export.sources.load_detector", lambda _: (model, spec))
    monkeypatch.setattr("bit_backbone.export.sources.bit_depth_of", lambda _: 12)
    folder = tmp_path / "run"
    folder.mkdir()
    save_spec(folder, spec)
    file = tmp_path / "model.onnx"
    assert run("export", folder, "--format", "onnx", "--output", file, "--images", images) == 0
    assert load(file).metadata.bit_depth == 12
    assert load(file).metadata.categories == spec.categories
    capsys.readouterr()
    assert run("detect", photo, "--weights", file, "--json", "--min-score", 0.05) == 0
    found = json.loads(capsys.readouterr().out)["objects"]
    assert found
    assert {entry["category"] for entry in found} <= set(spec.categories)


def _trained(name):
    arguments = {} if "tiny" in name else {"variant": BitConfig(**TINY).to_dict()}
    spec = DetectorSpec(name, ("one", "two"), arguments)
    model = randomise(spec.build()).eval()
    if "tiny" in name:
        torch.nn.init.constant_(model.roi_heads.box_predictor.cls_score.bias[:1], -1.0)
    return model, spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "onnx", "--output", "model.pt"), r"named \*\.onnx, got model\.pt"),
        (("--format", "onnx", "--output", "m.onnx", "--precision", "bfloat16"), "onnx takes float"),
        (("--format", "onnx", "--output", "m.onnx", "--no-with-nms"), "classification has none"),
        (("--format", "onnx", "--output", "/proc/no/m.onnx"), "No such file|Permission"),
        (("--format", "onnx", "--output", "m.onnx", "--images", "."), "images to verify with, and"),
    ],
)
def test_errors_leave_nothing(arguments, message, classifier, tmp_path, monkeypatch, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert run("export", classifier, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("bit-backbone: error") == 1
    assert re.search(message, error)
    assert not list(empty.iterdir())


def test_a_missing_extra_is_named(classifier, tmp_path, monkeypatch, capsys):
    actual = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "openvino":
            raise ImportError("No module named 'openvino'")
        return actual(name, *arguments, **options)

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(builtins, "__import__", without)
    assert run("export", classifier, "--format", "openvino", "--output", tmp_path / "m.xml") == 2
    assert 'pip install "bit-backbone[openvino]"' in capsys.readouterr().err
    assert not (tmp_path / "m.xml").exists()


def test_a_file_that_differs_is_not_written(images, tmp_path, monkeypatch):
    backbone = tiny(out_indices=(1,)).eval()
    from bit_backbone.export import writers

    def wrong(program, path, metadata, write=writers.WRITERS["onnx"]):
        for parameter in program.module.parameters():
            parameter.mul_(1.01)
        write(program, path, metadata)

    monkeypatch.setitem(writers.WRITERS, "onnx", wrong)
    target = tmp_path / "out" / "m.onnx"
    with pytest.raises(ValueError, match=r"70x99, and is not written: stage1 differs by"):
        export(backbone, target, format="onnx", images=images)
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_a_kill_leaves_the_earlier_file(signal_, classifier, tmp_path):
    target = tmp_path / "out" / "model.onnx"
    target.parent.mkdir()
    target.write_text("earlier")
    command = [sys.executable, "-m", "bit_backbone", "export", str(classifier), "--format", "onnx",
               "--output", str(target)]  # fmt: skip
    root = str(Path(bit_backbone.__file__).parents[1])
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root})
    deadline = time.monotonic() + 120
    while len(list(target.parent.iterdir())) == 1 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal_)
    assert process.wait(60) != 0
    assert target.read_text() == "earlier"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"onnx?" * 99, "cannot be read")],
)
def test_damaged_files(content, message, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(path)


def test_files_of_others_and_for_others(tmp_path, photo, images, capsys):
    onnx = pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=r"the exported file .* does not exist"):
        load(tmp_path / "none.onnx")
    (tmp_path / "a.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"named \*\.onnx, .* does not"):
        load(tmp_path / "a.pt")
    file = tmp_path / "m.onnx"
    export(BitBackbone(BitConfig(**TINY, out_indices=[1])), file, format="onnx", images=images)
    assert run("detect", photo, "--weights", file) == 2
    assert "detect takes a model for detection or segmentation" in capsys.readouterr().err
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, file)
    with pytest.raises(ValueError, match="has no description"):
        load(file)


@pytest.mark.parametrize("command", ["classify", "features", "detect"])
@pytest.mark.parametrize("name", ["m.pt2", "m.pt"])
def test_commands_load_no_program_of_torch(command, name, photo, tmp_path, capsys):
    file = tmp_path / name
    with zipfile.ZipFile(file, "w") as archive:  # as a stranger may send it
        archive.writestr("m/models/model.json", "{}")
        archive.writestr("m/data/sample_inputs/model.pt", Touch(tmp_path / "ran").pickled())
    output = ("--output", tmp_path / "out") if command == "features" else ()
    assert run(command, photo, "--weights", file, *output) == 2
    assert "can run any code when it is loaded" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")

    def pickled(self):
        content = io.BytesIO()
        torch.save((self,), content)
        return content.getvalue()


def test_an_archive_whose_list_of_files_is_damaged(tmp_path):
    file = tmp_path / "m.pt2"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/models/model.json", "{}")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"PK\x01\x02", b"PK??"))
    with pytest.raises(ValueError, match=r"named \*\.onnx, .* does not"):
        load(file)


def test_a_model_stays_in_training(images, tmp_path):
    model = tiny(out_indices=(1,)).train()
    export(model, tmp_path / "m.pt", format="torchscript", images=images)
    assert all(module.training for module in model.modules())
