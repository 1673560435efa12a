"""``bit-backbone checkpoints`` and ``bit-backbone convert``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from official import TINY_CONFIG
from tiny_models import assert_equal_state, classifier, tiny_official

from bit_backbone import BitBackbone
from bit_backbone.checkpoints import load
from bit_backbone.checkpoints.formats import FORMATS
from bit_backbone.cli import main
from bit_backbone.cli.convert import FORMATS as OFFERED

ROOT = Path(__file__).parents[2]


class TestCheckpoints:
    def test_every_name_is_on_one_line_of_the_table(self, capsys):
        assert main(["checkpoints"]) == 0
        lines = capsys.readouterr().out.splitlines()
        for name, row in {
            "BiT-S-R50x1 ": ["R50x1", "1000", "ImageNet-1k", "official", "bucket", "Apache-2.0"],
            "BiT-M-R152x4 ": ["R152x4", "21843", "ImageNet-21k", "official", "bucket"],
            "BiT-M-R101x3-ILSVRC2012 ": ["R101x3", "1000", "84.38", "97.37"],
            "timm/resnetv2_152x4_bit.goog_in21k_ft_in1k ": ["84.95", "97.45", "timm_480", "hub"],
            "distill/R50x1_224 ": ["82.8", "timm_distilled"],
            "google/bit-50 ": ["R50x1", "1000", "timm_448", "hub"],
        }.items():
            (line,) = (line for line in lines if name in line)
            assert all(cell in line for cell in row), line
        assert "and 285 fine-tuned on VTAB-1k: vtab/BiT-M-{R50x1," in " ".join(lines)

    def test_a_pattern_selects_by_name_and_alias(self, capsys):
        main(["checkpoints", "vtab/*R50x1-run0-c*"])
        assert "vtab/BiT-M-R50x1-run0-caltech101" in capsys.readouterr().out
        main(["checkpoints", "RESNETV2_50x1_bitm"])
        assert "timm/resnetv2_50x1_bit.goog_in21k_ft_in1k" in capsys.readouterr().out

    def test_aliases_count_where_no_name_matches(self, capsys):
        """The 285 files of VTAB-1k are called BiT-M-... in the bucket."""
        main(["checkpoints", "BiT-M-*", "--json"])
        names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
        assert len(names) == 12
        assert not any(name.startswith("vtab/") for name in names)
        main(["checkpoints", "BiT-M-R50x1-run0-dtd*", "--json"])
        (entry,) = json.loads(capsys.readouterr().out)
        assert entry["name"] == "vtab/BiT-M-R50x1-run0-dtd"

    def test_json(self, capsys):
        main(["checkpoints", "google/*", "--json"])
        (entry,) = json.loads(capsys.readouterr().out)
        assert (entry["name"], entry["num_labels"]) == ("google/bit-50", 1000)

    def test_nothing_matches(self, capsys):
        assert main(["checkpoints", "R50x2"]) == 2
        assert "no published checkpoint matches 'R50x2'" in capsys.readouterr().err


def two_networks(path, **names):
    """A file of two networks; returns them."""
    models = {name: classifier() for name in names.values()}
    torch.save({name: model.state_dict() for name, model in models.items()}, path)
    return models


class TestShow:
    def test_every_part_is_on_one_line(self, tmp_path, capsys):
        two_networks(tmp_path / "a.pth", own="model", average="model_ema")
        assert main(["checkpoints", "show", str(tmp_path / "a.pth")]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{tmp_path / 'a.pth'}: torch.save\n")
        taken, other = (line for line in out.splitlines() if "network of depths" in line)
        assert all(cell in taken for cell in ("model ", "yes", "native", "10", "float32", "54"))
        assert "model_ema" in other
        assert "yes" not in other

    def test_json(self, tmp_path, capsys):
        main(["checkpoints", "show", str(tiny_official(tmp_path)), "--json"])
        content = json.loads(capsys.readouterr().out)
        (part,) = content["parts"]
        assert (content["kind"], part["part"], part["taken"]) == (".npz", "", True)
        assert (part["format"], part["labels"], part["dtype"]) == ("npz", 10, "float32")
        assert part["bytes"] == sum(p.numel() * 4 for p in classifier().parameters())

    def test_where_nothing_tells_which_is_meant(self, tmp_path, capsys):
        two_networks(tmp_path / "a.pth", one="left", other="right")
        assert main(["checkpoints", "show", str(tmp_path / "a.pth")]) == 0
        out = capsys.readouterr().out
        assert "yes" not in out
        assert "holds several BiT networks, 'left', 'right'" in out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["show"], "needs the file, folder or name to show"),
            (["show", "none.pth"], "'none.pth' is none of them"),
            (["*R50x1*", "*R101x1*"], "one pattern at a time"),
        ],
    )
    def test_bad_requests(self, arguments, message, capsys):
        assert main(["checkpoints", *arguments]) == 2
        assert message in capsys.readouterr().err


def taking_a_part(path, folder):
    """Every command that takes a checkpoint, but for training."""
    from PIL import Image

    Image.new("RGB", (40, 30), "red").save(folder / "photo.png")
    photo = str(folder / "photo.png")
    return {
        "convert": [str(path), str(folder / "b.pth"), "--format", "timm"],
        "info": [str(path), "--image-size", "64"],
        "features": [photo, "--weights", str(path), "--output", str(folder / "out")],
        "extract": [photo, "--weights", str(path), "--output", str(folder / "all")],
        "classify": [photo, "--weights", str(path)],
        "finetune": ["--train", str(folder), "--weights", str(path), "--output", "run"],
    }


@pytest.mark.parametrize("command", ["convert", "info", "features", "extract", "classify"])
def test_the_way_out_is_the_commands(command, tmp_path, capsys):
    two_networks(tmp_path / "a.pth", one="left", other="right")
    arguments = [command, *taking_a_part(tmp_path / "a.pth", tmp_path)[command]]
    assert main(arguments) == 2
    assert "'left', 'right': pass --part left for the first" in capsys.readouterr().err
    assert main([*arguments, "--part", "nowhere"]) == 2
    assert "has no part 'nowhere'" in capsys.readouterr().err


def test_a_part_is_converted(tmp_path):
    models = two_networks(tmp_path / "a.pth", own="model", average="ema")
    command = ["convert", *taking_a_part(tmp_path / "a.pth", tmp_path)["convert"]]
    assert main([*command, "--part", "ema"]) == 0
    model = classifier()
    load(model, tmp_path / "b.pth")
    assert_equal_state(model, models["ema"])


@pytest.mark.parametrize("command", ["info", "features"])
def test_a_part_of_no_checkpoint(command, tmp_path, capsys):
    arguments = taking_a_part("R50x1", tmp_path)[command]
    if command == "features":
        arguments = [arguments[0], *arguments[3:]]
    assert main([command, *arguments, "--part", "ema"]) == 2
    assert "--part names a part of a checkpoint, got 'ema' without" in capsys.readouterr().err


class TestConvert:
    def test_converts_and_says_so(self, tmp_path, capsys):
        source, target = tiny_official(tmp_path), tmp_path / "a.pth"
        assert main(["convert", str(source), str(target), "--format", "timm"]) == 0
        assert capsys.readouterr().out == (
            f"{source} (npz names, a network of depths (1, 2, 1, 1), stem width 16 and stage "
            f"widths (32, 64, 128, 256)) -> {target} (timm names): 54 tensors\n"
        )
        one, other = classifier(), classifier()
        load(one, source)
        load(other, target)
        assert_equal_state(one, other)

    def test_options(self, tmp_path, capsys):
        source, target = tiny_official(tmp_path), tmp_path / "a.pkl"
        target.write_bytes(b"old")
        command = ["convert", str(source), str(target), "--format", "detectron2"]
        assert main(command) == 2
        assert f"{target} exists" in capsys.readouterr().err
        assert target.read_bytes() == b"old"
        assert main([*command, "--overwrite", "--head", "drop", "--prefix", "backbone."]) == 0
        told = capsys.readouterr().out
        assert "52 tensors, left out 2 (classifier.weight, classifier.bias)" in told

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none.npz", "a.pth", "--format", "timm"], "'none.npz' is none of them"),
            (["SOURCE", "a.npy", "--format", "npz"], "must be .npz, got '.npy'"),
            (["SOURCE", "a", "--format", "timm"], "must be .safetensors or .pth"),
        ],
    )
    def test_bad_requests_exit_with_2(self, arguments, message, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        source = str(tiny_official(tmp_path))
        assert main(["convert", *(source if a == "SOURCE" else a for a in arguments)]) == 2
        assert message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["tiny.npz"]

    def test_every_format_is_offered(self):
        assert set(OFFERED) == set(FORMATS)

    def test_the_script_in_tools(self, tmp_path):
        source, target = tiny_official(tmp_path), tmp_path / "a.npz"
        script = str(ROOT / "tools" / "convert_checkpoint.py")
        command = [sys.executable, script, str(source), str(target), "--format", "npz"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment)
        assert target.is_file()


def test_features_of_a_checkpoint(tmp_path, capsys):
    from PIL import Image

    model = classifier()
    model.save_pretrained(tmp_path / "model")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photo.png")
    command = ["features", str(tmp_path / "photo.png"), "--output", str(tmp_path / "out")]
    assert main([*command, "--weights", str(tmp_path / "model"), "--out-indices", "1"]) == 0
    assert f"weights of {tmp_path}" in capsys.readouterr().out.replace("\n", "")
    from safetensors.torch import load_file

    (maps,) = load_file(tmp_path / "out" / "photo.safetensors").values()
    backbone = BitBackbone.from_pretrained(tmp_path / "model", out_indices=[1])
    assert backbone.config.hidden_sizes == TINY_CONFIG["hidden_sizes"]
    assert maps.shape[-3] == 32
