"""Loading: every tensor accounted for, or an error that says what is wrong."""

import copy
import logging

import numpy as np
import pytest
import torch
from official import TINY, TINY_CONFIG, official_arrays, write_official
from tiny_models import LABELS, assert_unchanged, backbone, classifier, kernel, snapshot
from torch import nn

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitModel
from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.utils.empty_weights import init_empty_weights

IMAGES = torch.randn(2, 3, 33, 47)


def test_every_array_arrives_where_it_belongs(arrays, path):
    model = classifier()
    report = load(model, path)
    assert report.complete
    assert report.format == "npz"
    assert sorted(report.loaded) == sorted(model.state_dict())
    state = model.state_dict()
    for name, array in {
        "stem.conv.weight": "resnet/root_block/standardized_conv2d/kernel",
        "stage2.1.conv2.weight": "resnet/block2/unit02/b/standardized_conv2d/kernel",
        "stage3.0.downsample.conv.weight": "resnet/block3/unit01/a/proj/standardized_conv2d/kernel",
    }.items():
        assert torch.equal(state[name], kernel(arrays[array])), name
    for name, array in {
        "stage1.0.norm1.weight": "resnet/block1/unit01/a/group_norm/gamma",
        "stage4.0.norm3.bias": "resnet/block4/unit01/c/group_norm/beta",
        "norm.weight": "resnet/group_norm/gamma",
        "classifier.bias": "resnet/head/conv2d/bias",
    }.items():
        assert torch.equal(state[name], torch.from_numpy(arrays[array])), name
    head = arrays["resnet/head/conv2d/kernel"]
    assert torch.equal(state["classifier.weight"], torch.from_numpy(head[0, 0].T))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_every_way_numpy_stores_an_array(arrays, path, compressed, order, byte_order, tmp_path):
    expected = classifier()
    load(expected, path)
    stored = {
        name: np.asarray(array.astype(f"{byte_order}f4"), order=order)
        for name, array in arrays.items()
    }
    (np.savez_compressed if compressed else np.savez)(tmp_path / "stored.npz", **stored)
    model = classifier()
    load(model, tmp_path / "stored.npz")
    assert_unchanged(model, snapshot(expected))


def test_numbered_layers_and_any_file_name(arrays, path, tmp_path):
    numbered = write_official(tmp_path / "numbered.npz", head=LABELS, numbered=True)
    numbered = numbered.rename(tmp_path / "weights.of.somebody")
    one, other = classifier(), classifier()
    load(one, path)
    load(other, numbered)
    assert_unchanged(one, snapshot(other))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_converted_to_the_models(dtype, tmp_path):
    arrays = official_arrays(head=0, dtype=dtype)
    model = backbone()
    load(model, write_official(tmp_path / "a.npz", arrays))
    expected = kernel(arrays["resnet/root_block/standardized_conv2d/kernel"]).float()
    assert torch.equal(model.stem.conv.weight, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"out_indices": (0,)},
        {"out_indices": (1, 2)},
        {"out_indices": (4,)},
        {"out_indices": (1, 3), "feature_norm": "preact"},
        {"out_indices": (0,), "feature_norm": "preact"},
        {"out_indices": (2, 4), "feature_norm": "preact"},
        {"out_indices": (1, 3), "feature_norm": "groupnorm"},
    ],
    ids=str,
)
@pytest.mark.parametrize("meta", [False, True], ids=["real", "meta"])
def test_a_backbone_loads_the_part_it_has(path, settings, meta):
    whole = classifier()
    load(whole, path)
    with init_empty_weights(when=meta):
        model = backbone(**settings)
    report = load(model, path)
    own = [name for name in model.state_dict() if name.startswith("feature_norms.")]
    assert sorted((*report.loaded, *own)) == sorted(model.state_dict())
    assert (report.fresh if meta else report.kept) == tuple(own)
    assert report.head == ("classifier.weight", "classifier.bias")
    assert not any(tensor.is_meta for tensor in model.state_dict().values())

    last = model.out_indices[-1]
    behind = {f"stage{i}" for i in range(last + 1, 5)} | {"norm"}
    accounted = {name.split(".")[0] for name in report.beyond}
    if settings.get("feature_norm") == "preact" and last == 4:
        assert not accounted
    else:
        assert accounted == behind

    with torch.no_grad():
        ours = model(IMAGES)
        names = list(whole.config.stage_names)
        expected = (
            whole.activated_taps(IMAGES, names)
            if settings.get("feature_norm") == "preact"
            else whole.raw_taps(IMAGES, names)
        )
    if settings.get("feature_norm") == "groupnorm":
        for name, norm in model.feature_norms.items():
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))
            torch.testing.assert_close(ours[name], norm(expected[name]))
    else:
        for name, feature in ours.items():
            torch.testing.assert_close(feature, expected[name])


def test_weights_argument_and_default_device(path):
    model = BitBackbone(BitConfig(**TINY_CONFIG), out_indices=[1, 2], weights=path)
    assert model.stem.conv.weight.device.type == "cpu"
    assert model.stem.conv.weight.requires_grad
    loaded = backbone(out_indices=[1, 2])
    load(loaded, str(path))
    assert_unchanged(model, snapshot(loaded))
    with pytest.raises(CheckpointError, match="the model is R50x1"):
        BitBackbone("R50x1", weights=path)


def test_nothing_is_drawn_at_random(path):
    before = torch.get_rng_state()
    BitBackbone(BitConfig(**TINY_CONFIG), weights=path)
    BitForImageClassification.from_pretrained(path, num_groups=8)
    assert torch.equal(torch.get_rng_state(), before)


class TestHeads:
    def test_keep_is_the_default(self, arrays, path):
        model = classifier()
        load(model, path)
        bias = torch.from_numpy(arrays["resnet/head/conv2d/bias"])
        assert torch.equal(model.classifier.bias, bias)

    def test_drop_leaves_the_models_head(self, path):
        model = classifier(num_labels=7)
        before = model.classifier.weight.clone()
        report = load(model, path, head="drop")
        assert torch.equal(model.classifier.weight, before)
        assert report.head == report.kept == ("classifier.weight", "classifier.bias")
        assert report.fresh == ()

    def test_new_draws_another(self, path):
        model = classifier()
        before = model.classifier.weight.clone()
        report = load(model, path, head="new")
        assert not torch.equal(model.classifier.weight, before)
        assert report.fresh == ("classifier.weight", "classifier.bias")

    @pytest.mark.parametrize("head", ["drop", "new"])
    def test_on_the_meta_device_a_head_is_initialised(self, path, head):
        with init_empty_weights():
            model = classifier(num_labels=7)
        report = load(model, path, head=head)
        assert report.fresh == ("classifier.weight", "classifier.bias")
        reference = nn.Linear(256, 7)
        assert model.classifier.weight.shape == reference.weight.shape
        assert 0.5 < model.classifier.weight.std() / reference.weight.std() < 2

    @pytest.mark.parametrize(
        ("model", "head", "message"),
        [
            ({"num_labels": 7}, 10, 'the file has 10 labels: pass head="new"'),
            ({"num_labels": 7}, 0, 'the file has no labels: pass head="new"'),
        ],
    )
    def test_another_size_is_rejected(self, model, head, message, tmp_path):
        path = write_official(tmp_path / "a.npz", head=head)
        model = classifier(**model)
        before = snapshot(model)
        with pytest.raises(CheckpointError, match=message):
            load(model, path)
        assert_unchanged(model, before)

    def test_unknown_policy(self, path):
        with pytest.raises(ValueError, match="head must be one of 'keep', 'drop', 'new', got 'x'"):
            load(backbone(), path, head="x")


def test_nan_is_loaded_with_a_warning(arrays, tmp_path):
    damaged = copy.deepcopy(arrays)
    damaged["resnet/group_norm/beta"][3] = np.nan
    damaged["resnet/block1/unit01/b/standardized_conv2d/kernel"][0, 0, 0, 0] = -np.inf
    path = write_official(tmp_path / "nan.npz", damaged)
    with pytest.warns(UserWarning, match=r"NaN or infinite values in stage1.0.conv2.weight, norm."):
        report = load(classifier(), path)
    assert report.not_finite == ("stage1.0.conv2.weight", "norm.bias")


class TestModels:
    def test_a_model_inside_another_one(self, path):
        class Detector(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Module()
                self.body.bottom_up = backbone(out_indices=[1, 2])
                self.box_head = nn.Linear(3, 3)

        model = Detector()
        before = model.box_head.weight.clone()
        report = load(model, path)
        assert report.complete
        assert torch.equal(model.box_head.weight, before)
        expected = backbone(out_indices=[1, 2])
        load(expected, path)
        assert_unchanged(model.body.bottom_up, snapshot(expected))

    def test_a_detectors_checkpoint_loads_into_a_backbone(self, path):
        source = backbone(out_indices=[1, 2])
        load(source, path)
        state = {f"backbone.bottom_up.{n}": t for n, t in source.state_dict().items()}
        state["roi_heads.box.weight"] = torch.ones(3)
        model = backbone(out_indices=[1, 2])
        report = load(model, {"model": state, "iteration": 7})
        assert report.format == "detectron2"
        assert report.outside == ("roi_heads.box.weight",)
        assert_unchanged(model, snapshot(source))

    def test_a_compiled_model(self, path):
        model = backbone(out_indices=[1])
        load(torch.compile(model), path)
        expected = backbone(out_indices=[1])
        load(expected, path)
        assert_unchanged(model, snapshot(expected))

    def test_frozen_stays_frozen_and_kept_weights_are_fresh(self, path):
        model = backbone(out_indices=[1]).eval().freeze(2)
        with torch.no_grad():
            before = model(IMAGES)["stage1"]
            load(model, path)
            after = model(IMAGES)["stage1"]
        assert not torch.equal(before, after)
        assert not any(parameter.requires_grad for parameter in model.parameters())

    def test_an_optimizer_keeps_its_parameters(self, path):
        model = backbone(out_indices=[1])
        held = list(model.parameters())
        load(model, path)
        assert all(a is b for a, b in zip(held, model.parameters(), strict=True))

    def test_a_dict_of_tensors_is_copied(self, path):
        source = backbone()
        load(source, path)
        state = source.state_dict()
        with init_empty_weights():
            model = backbone()
        load(model, state)
        with torch.no_grad():
            model.stem.conv.weight.zero_()
        assert state["stem.conv.weight"].abs().sum() > 0

    def test_the_state_dict_of_a_partial_network_loads_back(self, path):
        source = backbone(out_indices=[1, 2], feature_norm="preact")
        load(source, path)
        model = backbone(out_indices=[1, 2], feature_norm="preact")
        load(model, source.state_dict())
        assert_unchanged(model, snapshot(source))
        with pytest.raises(CheckpointError, match="missing from the file"):
            load(backbone(out_indices=[3]), source.state_dict())

    def test_a_peers_model_is_rejected(self):
        timm = pytest.importorskip("timm")
        theirs = timm.create_model("resnetv2_50x1_bit", num_classes=0)
        with pytest.raises(CheckpointError, match="ResNetV2 has timm's names: convert the file"):
            load(theirs, theirs.state_dict())

    def test_no_bit_model_is_rejected(self, path):
        with pytest.raises(CheckpointError, match="the Linear holds no BiT network"):
            load(nn.Linear(2, 2), path)

    @pytest.mark.parametrize("source", [nn.Linear(2, 2), 3, None])
    def test_what_is_no_source(self, source):
        with pytest.raises(
            CheckpointError, match="a checkpoint is a name, a path, a Source or a dict"
        ):
            load(backbone(), source)


def test_the_report_reads_well(path, caplog):
    caplog.set_level(logging.INFO)
    with init_empty_weights():
        model = backbone(out_indices=[1, 2], feature_norm="groupnorm", num_channels=1)
    text = str(load(model, path))
    assert text.startswith(f"{path} (npz names, a network of depths (1, 2, 1, 1), stem width 16")
    for line in (
        "loaded 30 tensors",
        "left out, the file's head: 2 tensors: classifier.weight, classifier.bias",
        "left out, after the model's last stage: 22 tensors: stage3.0.norm1.weight, ",
        "initialised at random: 4 tensors: feature_norms.stage1.weight, ",
        "adapted to the image's channels: stem.conv.weight",
    ):
        assert line in text
    assert text in caplog.text


def test_the_mapping_of_every_layer_type(tmp_path):
    source = BitModel(BitConfig(**TINY_CONFIG, layer_type="bottleneck"))
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    model = backbone(layer_type="bottleneck")
    report = load(model, tmp_path / "a.pth")
    assert report.complete
    assert "stem.norm.weight" in report.loaded
    assert "stage1.0.downsample.norm.bias" in report.loaded
    with pytest.raises(CheckpointError, match="this file is a bottleneck network of depths"):
        load(backbone(), tmp_path / "a.pth")


def test_tiny_is_what_the_writer_writes():
    assert TINY["widths"] == TINY_CONFIG["hidden_sizes"]
    assert TINY["depths"] == TINY_CONFIG["depths"]
