"""``bit-backbone info``."""

import pytest
import torch

from bit_backbone import BitConfig, BitModel
from bit_backbone.cli import main
from bit_backbone.kernels import native


def test_info_prints_costs_and_outputs(capsys):
    assert main(["info", "R101x3", "--image-size", "800x1333"]) == 0
    told = capsys.readouterr().out
    assert "R101x3 on 1 x 800 x 1333, float32" in told
    assert "381.78 M" in told
    for row in ("stage1", "[1, 768, 200, 334]", "[1, 6144, 25, 42]"):
        assert row in told


def test_options_reach_the_network(capsys):
    options = ["--out-features", "stage2", "stage4", "--output-stride", "8", "--batch", "2"]
    assert main(["info", "resnetv2_50x1_bit", "--image-size", "64", *options]) == 0
    told = capsys.readouterr().out
    assert "[2, 512, 8, 8]" in told
    assert "[2, 2048, 8, 8]" in told
    assert "stage3" not in told


def test_a_checkpoint_tells_its_own_network(tmp_path, capsys):
    """Its shapes do where it has no config.json, and options still count."""
    config = BitConfig(
        depths=(1, 1, 1, 1), embedding_size=32, hidden_sizes=(128, 128, 256, 256), output_stride=16
    )
    model = BitModel(config)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    model.save_pretrained(tmp_path / "saved")
    assert main(["info", str(tmp_path / "weights.pt"), "--image-size", "64"]) == 0
    assert "[1, 256, 2, 2]" in capsys.readouterr().out
    saved = ["info", str(tmp_path / "saved"), "--image-size", "64"]
    assert main(saved) == 0
    assert "[1, 256, 4, 4]" in capsys.readouterr().out
    assert main([*saved, "--output-stride", "8", "--out-indices", "4"]) == 0
    told = capsys.readouterr().out
    assert "[1, 256, 8, 8]" in told
    assert "stage3" not in told


def test_a_checkpoint_of_fewer_stages_shows_those_it_has(tmp_path, capsys):
    config = BitConfig(embedding_size=32, hidden_sizes=(128, 128, 256), depths=(1, 1, 1))
    BitModel(config).save_pretrained(tmp_path / "three")
    assert main(["info", str(tmp_path / "three"), "--image-size", "64"]) == 0
    told = capsys.readouterr().out
    assert "stage1" in told
    assert "stage3" in told


def test_a_variant_is_meant_whatever_lies_beside(tmp_path, monkeypatch, capsys):
    (tmp_path / "R50x1").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["info", "R50x1", "--image-size", "64"]) == 0
    assert "R50x1 on 1 x 64 x 64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["R50x2"], "a BiT variant must be one of R50x1"),
        (["R50x1", "--out-indices", "3", "1"], "ordered shallow to deep"),
        (["R50x1", "--batch", "0"], "batch must be at least 1"),
    ],
)
def test_bad_requests_exit_with_2(arguments, message, capsys):
    assert main(["info", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("size", ["800y600", "0x5", "-3", ""])
def test_bad_sizes_are_usage_errors(size, capsys):
    with pytest.raises(SystemExit):
        main(["info", "R50x1", f"--image-size={size}"])
    assert "HEIGHTxWIDTH" in capsys.readouterr().err


def test_info_says_which_kernels_run(capsys):
    assert main(["info", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == f"kernels on cpu: {native.status()}\n"
    assert main(["info", "R50x1", "--device", "cuda", "--image-size", "64"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("kernels on cuda: ")
    assert "multiply-accumulates" in told
    assert main(["info"]) == 2
    assert "needs a variant (R50x1" in capsys.readouterr().err
