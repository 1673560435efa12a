"""MODEL.WEIGHTS: "bit://...": every tensor, or an error; converted once."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.file_io import PathManager
from tiny_detectron2 import TINY, read, shrink, shrink_heads, shrink_lazy, tiny_cfg

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification
from bit_backbone.checkpoints import CheckpointError, convert
from bit_backbone.detectron2 import Detectron2BitBackbone, get_config_file

ROOT = Path(__file__).parents[2]
AT_ROOT = {"PYTHONPATH": str(ROOT)}
FASTER = "COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml"
FILES = {"npz": "a.npz", "timm": "a.safetensors", "transformers": "folder", "torch": "a.pth"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bit_backbone"


@pytest.fixture
def network() -> BitForImageClassification:
    model = BitForImageClassification(BitConfig(**TINY, num_labels=10))
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def saved(network: nn.Module, tmp_path, format_: str) -> str:
    path = tmp_path / FILES[format_]
    convert(network.state_dict(), path, format_, config=network.config)
    return str(path)


class Detector(nn.Module):
    """The backbone where detectron2's models have it."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.backbone = build_backbone(tiny_cfg(**options))


def load(model: nn.Module, path: str) -> None:
    DetectionCheckpointer(model, save_to_disk=False).load(path)


def expected_features(network: nn.Module, images: torch.Tensor, **options) -> dict:
    ours = BitBackbone(network.config.replace(**options), weights=network.state_dict())
    with torch.no_grad():
        return ours.eval()(images)


@pytest.mark.parametrize("format_", FILES)
@pytest.mark.parametrize("norm", ["none", "preact"])
def test_every_format_loads_whole(format_, norm, network, tmp_path, caplog) -> None:
    """Beside an FPN with GroupNorm, whose norm.weight must not get the network's."""
    model = Detector(
        BACKBONE__NAME="build_bit_fpn_backbone", FPN__NORM="GN", BIT__FEATURE_NORM=norm
    )
    with caplog.at_level(logging.INFO, "detectron2.bit_backbone"):
        load(model, f"bit://{saved(network, tmp_path, format_)}")
    bottom_up = model.backbone.bottom_up
    count = len(bottom_up.state_dict())
    assert f"backbone.bottom_up got {count} of its {count} BiT tensors from bit://" in caplog.text
    assert torch.equal(model.backbone.fpn_lateral2.norm.weight, torch.ones(256))
    images = torch.rand(1, 3, 65, 43)
    names = bottom_up.out_features
    expected = expected_features(network, images, out_features=names, feature_norm=norm)
    with torch.no_grad():
        for name, feature in bottom_up.eval()(images).items():
            assert torch.equal(feature, expected[name])


@pytest.mark.parametrize(
    "options",
    [
        {"BACKBONE__NAME": "build_bit_backbone"},
        {"BACKBONE__NAME": "build_bit_backbone", "BIT__OUT_FEATURES": ["res2", "res3"]},
        {
            "BACKBONE__NAME": "build_bit_backbone",
            "BIT__OUT_FEATURES": ["stage3"],
            "BIT__FEATURE_NORM": "preact",
        },
    ],
)
@pytest.mark.parametrize("source", ["bit://", "detectron2 names"])
def test_bare_and_shallow_backbones_get_their_part(options, source, network, tmp_path) -> None:
    """The norm behind stage3 is the one that stage4 begins with, and not the final one."""
    path = f"bit://{saved(network, tmp_path, 'npz')}"
    if source != "bit://":
        path = str(tmp_path / "converted.pth")
        convert(network.state_dict(), path, "detectron2", head="drop")
    model = Detector(**options)
    load(model, path)
    images = torch.rand(1, 3, 64, 64)
    config = model.backbone.config
    expected = expected_features(
        network, images, out_features=config.out_features, feature_norm=config.feature_norm
    )
    with torch.no_grad():
        features = model.backbone.eval()(images)
    for feature, value in zip(features.values(), expected.values(), strict=True):
        assert torch.equal(feature, value)


def test_fresh_norms_stay_fresh_and_are_told(network, tmp_path, caplog) -> None:
    model = Detector(BACKBONE__NAME="build_bit_fpn_backbone", BIT__FEATURE_NORM="groupnorm")
    load(model, f"bit://{saved(network, tmp_path, 'npz')}")
    bottom_up = model.backbone.bottom_up
    assert torch.equal(bottom_up.stage4[0].conv1.weight, network.stage4[0].conv1.weight)
    assert torch.equal(bottom_up.feature_norms["stage4"].weight, torch.ones(256))
    assert "backbone.bottom_up.feature_norms" in caplog.text  # fvcore's list of missing keys


def test_one_channel_gets_the_sum_of_the_colours(network, tmp_path) -> None:
    cfg = tiny_cfg(BACKBONE__NAME="build_bit_fpn_backbone", BIT__FEATURE_NORM="none")
    cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = "L", [127.5], [127.5]
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    load(model, f"bit://{saved(network, tmp_path, 'npz')}")
    grey = torch.rand(1, 1, 64, 64)
    expected = expected_features(network, grey.expand(1, 3, 64, 64), out_features=["stage4"])
    with torch.no_grad():
        features = model.backbone.bottom_up.eval()(grey)
    torch.testing.assert_close(features["stage4"], expected["stage4"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("DEPTHS", [1, 1, 2, 1], r"a\.npz.* does not fit the model:\n  this file is .*\n  missing"),
        ("WIDTH_FACTOR", 2, r"misshapen"),
        ("HIDDEN_SIZES", [32, 64, 128, 192], r"misshapen"),
    ],
)
def test_another_network_is_rejected(key, value, message, network, tmp_path) -> None:
    """With width 2 every shape differs, which fvcore's checkpointer would answer with silence."""
    model = Detector(BACKBONE__NAME="build_bit_fpn_backbone", **{f"BIT__{key}": value})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load(model, f"bit://{saved(network, tmp_path, 'npz')}")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_deeper_file_of_detectron2_names_is_rejected(network, tmp_path) -> None:
    path = tmp_path / "deeper.pth"
    deeper = BitBackbone(**{**TINY, "depths": (1, 1, 2, 1)}, feature_norm="preact")
    convert(deeper.state_dict(), path, "detectron2")
    with pytest.raises(CheckpointError, match=r"unexpected in the file: .*stage3\.1\."):
        load(Detector(BACKBONE__NAME="build_bit_fpn_backbone"), str(path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("bit://", "bit:// needs a published name"),
        ("bit://BiT-M-R50x7", r"'BiT-M-R50x7' is none of them: did you mean"),
        ("bit:///nowhere/a.npz", r"'/nowhere/a.npz' is none of them"),
    ],
)
def test_what_does_not_exist_is_rejected(path: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(Detector(BACKBONE__NAME="build_bit_fpn_backbone"), path)


def test_a_backbone_alone_takes_weights_without_a_warning(network, tmp_path, caplog) -> None:
    path = saved(network, tmp_path, "npz")
    names = ("stage2", "stage3")
    at_once = Detectron2BitBackbone(**TINY, out_features=names, weights=path)
    later = Detectron2BitBackbone(**TINY, out_features=names)
    load(later, f"bit://{path}")
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    for module in (at_once, later):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, network.state_dict()[name])


def test_a_file_without_bit_is_told(tmp_path, caplog) -> None:
    torch.save({"model": {"roi_heads.weight": torch.ones(1)}}, tmp_path / "heads.pth")
    load(Detector(BACKBONE__NAME="build_bit_fpn_backbone"), str(tmp_path / "heads.pth"))
    assert "backbone.bottom_up got 0 of its" in caplog.text


def test_a_training_checkpoint_resumes_exactly(tmp_path, caplog) -> None:
    """Of a shallow network: its norm is under the name of a whole network's final norm."""
    options = {
        "BACKBONE__NAME": "build_bit_fpn_backbone",
        "BIT__FEATURE_NORM": "preact",
        "FPN__IN_FEATURES": ["stage2", "stage3"],
    }
    first, second = Detector(**options), Detector(**options)
    nn.init.normal_(first.backbone.bottom_up.norm.weight)
    DetectionCheckpointer(first, str(tmp_path)).save("model")
    with caplog.at_level(logging.INFO, "detectron2.bit_backbone"):
        load(second, str(tmp_path / "model.pth"))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    count = len(first.backbone.bottom_up.state_dict())
    assert f"got {count} of its {count} BiT tensors from the checkpoint" in caplog.text


def test_a_source_is_converted_once_until_it_changes(network, tmp_path, cache) -> None:
    path = saved(network, tmp_path, "npz")
    first = PathManager.get_local_path(f"bit://{path}")
    stamp = os.stat(first).st_mtime_ns
    assert PathManager.get_local_path(f"bit:{path}") == first
    assert os.stat(first).st_mtime_ns == stamp
    os.utime(path, ns=(1, 1))
    assert PathManager.get_local_path(f"bit://{path}") != first
    assert len(list(cache.glob("*.pth"))) == 2
    with PathManager.open(f"bit://{path}", "rb") as file:
        assert "model" in torch.load(file, weights_only=True)
    with pytest.raises(ValueError, match="its mode must be 'rb', got 'r'"):
        PathManager.open(f"bit://{path}")


def test_a_failed_conversion_leaves_nothing(tmp_path, cache) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 not a zip file")
    with pytest.raises(CheckpointError):
        PathManager.get_local_path(f"bit://{tmp_path}/broken.npz")
    assert list(cache.glob("*.pth")) == []


def c4_model() -> nn.Module:
    name = "COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_C4_1x.py"
    return instantiate(shrink_lazy(LazyConfig.load(get_config_file(name)).model))


def test_c4_computes_what_the_whole_network_does(network, tmp_path, caplog) -> None:
    model = c4_model().eval()
    path = saved(network, tmp_path, "npz")
    with caplog.at_level(logging.INFO, "detectron2.bit_backbone"):
        load(model, f"bit-c4://{path}")
    assert "roi_heads.res5 got" in caplog.text
    images = torch.rand(1, 3, 64, 64)
    expected = expected_features(network, images, out_features=["stage4"], feature_norm="preact")
    with torch.no_grad():
        out = model.roi_heads.res5(model.backbone(images)["stage3"])
    torch.testing.assert_close(out, expected["stage4"])
    load(c4_model(), f"bit://{path}")
    assert "roi_heads.res5 got 0 of its" in caplog.text


def test_c4_refuses_another_last_stage(network, tmp_path) -> None:
    path = saved(network, tmp_path, "npz")
    name = "COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_C4_1x.py"
    cfg = shrink_lazy(LazyConfig.load(get_config_file(name)).model)
    cfg.roi_heads.res5.depths = (1, 1, 1, 2)
    with pytest.raises(CheckpointError, match=r"does not fit stage4 .*stage4\.1\."):
        load(instantiate(cfg), f"bit-c4://{path}")


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_what_the_converter_writes_loads_whole(suffix, network, tmp_path, caplog) -> None:
    source, target = saved(network, tmp_path, "timm"), tmp_path / f"converted.{suffix}"
    command = [sys.executable, "tools/convert_checkpoint.py", source, str(target)]
    options = ["--format", "detectron2", "--head", "drop"]
    subprocess.run([*command, *options], cwd=ROOT, check=True, env={**os.environ, **AT_ROOT})
    model = build_model(shrink_heads(shrink(read(FASTER))))
    with caplog.at_level(logging.INFO, "detectron2.bit_backbone"):
        load(model, str(target))
    count = len(model.backbone.bottom_up.state_dict())
    assert f"backbone.bottom_up got {count} of its {count} BiT tensors" in caplog.text
    assert torch.equal(model.backbone.bottom_up.norm.weight, network.norm.weight)
