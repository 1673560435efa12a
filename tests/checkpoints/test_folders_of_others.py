"""Folders that other codebases saved: timm's names and preprocessing, networks inside of others."""

import json
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import LABELS, assert_equal_state, classifier

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitImageProcessor
from bit_backbone.checkpoints import convert
from bit_backbone.cli import main

NAMES = [f"kind {index}" for index in range(LABELS)]
PREPARATION = {"input_size": [3, 64, 64], "crop_pct": 1.0, "interpolation": "bilinear",
               "mean": [0.25] * 3, "std": [0.5] * 3, "num_classes": LABELS}  # fmt: skip


def timm_folder(folder, **changed):
    model = classifier()
    convert(model.state_dict(), folder / "model.safetensors", "timm")
    values = {
        "architecture": "resnetv2_50x1_bit",
        "num_classes": LABELS,
        "label_names": NAMES,
        "pretrained_cfg": PREPARATION,
    }
    (folder / "config.json").write_text(json.dumps(values | changed))
    return model


def test_timms_folder_has_its_names_and_preprocessing(tmp_path, capsys):
    timm_folder(tmp_path)
    model = BitForImageClassification.from_pretrained(tmp_path, num_groups=8)
    assert model.config.id2label == dict(enumerate(NAMES))
    processor = BitImageProcessor.from_pretrained(tmp_path)
    assert processor.image_mean == (0.25,) * 3
    assert processor.size == {"shortest_edge": 64}
    assert processor.crop_rounding == "even"


def test_the_command_uses_both(tmp_path, capsys, monkeypatch):
    timm_folder(tmp_path)
    Image.new("RGB", (90, 70), "red").save(tmp_path / "a.png")
    monkeypatch.setattr(
        BitForImageClassification,
        "from_pretrained",
        partial(BitForImageClassification.from_pretrained, num_groups=8),
    )
    used = []
    monkeypatch.setattr(
        BitImageProcessor, "replace",
        lambda self, _real=BitImageProcessor.replace, **o: (used.append(self), _real(self, **o))[1],
    )  # fmt: skip
    command = ["classify", str(tmp_path / "a.png"), "--checkpoint", str(tmp_path), "--json"]
    assert main(command) == 0
    (best, *_) = json.loads(capsys.readouterr().out)["predictions"]
    assert best["label"] in NAMES
    assert used[-1].size == {"shortest_edge": 64}


@pytest.mark.parametrize("names", [NAMES[:3], [*NAMES, "one more"]])
def test_names_that_do_not_fit_the_head_are_left_out(names, tmp_path):
    timm_folder(tmp_path, label_names=names)
    with pytest.warns(UserWarning, match=f"names {len(names)} labels, and the head of .* has 10"):
        model = BitForImageClassification.from_pretrained(tmp_path, num_groups=8)
    assert model.config.id2label is None


@pytest.mark.parametrize("overrides", [{"head": "drop"}, {"head": "new", "num_labels": 3}])
def test_another_head_has_no_names(overrides, tmp_path):
    timm_folder(tmp_path)
    model = BitForImageClassification.from_pretrained(tmp_path, num_groups=8, **overrides)
    assert model.config.id2label is None


BOTTLENECK = {
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128],
    "depths": [1, 2, 1],
    "num_groups": 8,
    "layer_type": "bottleneck",
    "embedding_dynamic_padding": True,
    "global_padding": "same",
}


def hybrid(folder):
    """A folder of a larger model around a bottleneck network, as transformers saves it."""
    torch.manual_seed(0)
    body = BitBackbone(BitConfig(**BOTTLENECK, out_indices=[1, 2, 3]))
    own = folder / "own.safetensors"
    prefix = "dpt.embeddings.backbone.bit."
    report = convert(body.state_dict(), own, "transformers", prefix=prefix)
    assert report.written
    from safetensors.torch import load_file

    tensors = load_file(own) | {"dpt.embeddings.projection.weight": torch.ones(4, 128, 1, 1)}
    own.unlink()
    save_file(tensors, folder / "model.safetensors")
    inner = {"model_type": "bit", **BOTTLENECK, "out_features": ["stage1", "stage3"]}
    values = {"model_type": "dpt", "is_hybrid": True, "backbone_config": inner}
    (folder / "config.json").write_text(json.dumps(values))
    return body


def test_the_network_in_a_hybrid_is_what_its_folder_says(tmp_path):
    body = hybrid(tmp_path)
    model = BitBackbone.from_pretrained(tmp_path)
    assert model.config.layer_type == "bottleneck"
    assert (model.config.global_padding, model.config.embedding_dynamic_padding) == ("same", True)
    assert model.out_features == ("stage1", "stage3")
    assert_equal_state(model, body)
    images = torch.rand(1, 3, 63, 50)
    torch.testing.assert_close(model(images)["stage3"], body(images)["stage3"])


def test_bare_weights_of_a_bottleneck_network_do_not_show_its_padding(tmp_path):
    body = hybrid(tmp_path)
    file = tmp_path / "model.safetensors"
    with pytest.warns(UserWarning, match="weights do not show how it pads.*global_padding="):
        BitBackbone.from_pretrained(file, num_groups=8, out_indices=[3])
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = {"global_padding": "same", "embedding_dynamic_padding": True}
        model = BitBackbone.from_pretrained(file, num_groups=8, out_indices=[1, 2, 3], **told)
    assert_equal_state(model, body)


def test_a_real_hybrid_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    inner = transformers.BitConfig(**BOTTLENECK, out_features=["stage1", "stage2", "stage3"])
    config = transformers.DPTConfig(
        is_hybrid=True, backbone_config=inner, hidden_size=32, num_hidden_layers=4,
        num_attention_heads=2, intermediate_size=32, image_size=64,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8],
        readout_type="project", neck_ignore_stages=[0, 1],
    )  # fmt: skip
    theirs = transformers.DPTModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = BitBackbone.from_pretrained(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.embeddings.backbone(images).feature_maps
        found = list(model(images).values())
    for mine, peer in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, peer, rtol=1e-4, atol=1e-4)
