"""The same file through our loader, timm's and transformers', compared in float64."""

from functools import partial

import numpy as np
import pytest
import torch
from official import TINY, TINY_CONFIG, official_arrays, official_shape, write_official

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitModel
from bit_backbone.checkpoints import convert, load

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

PEER_EPS = 1e-8
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(1, 3, 33, 47, generator=GENERATOR, dtype=torch.float64)
TINY_WIDTH_3 = {"depths": (1, 1, 1), "stem": 48, "widths": (96, 192, 384)}
NETWORKS = {
    "tiny, no head": (TINY, 8, 0),
    "tiny, 10 labels": (TINY, 8, 10),
    "tiny, 21843 labels": (TINY, 8, 21843),
    "tiny, width 3": (TINY_WIDTH_3, 8, 1000),
    "R50x1, 1000 labels": (official_shape("R50x1"), 32, 1000),
}


def equal(ours, theirs):
    """Within 1e-12 of the largest value: rounding, and nothing else."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-12 * theirs.abs().max()


def config_of(network, groups, labels):
    return BitConfig(
        embedding_size=network["stem"],
        hidden_sizes=network["widths"],
        depths=network["depths"],
        num_groups=groups,
        num_labels=labels,
        weight_standardization_eps=PEER_EPS,
    )


def timm_model(network, groups, labels):
    """timm's class and BiT's own settings of it, without weights, in float64."""
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2

    model = ResNetV2(
        layers=network["depths"],
        channels=network["widths"],
        stem_chs=network["stem"],
        stem_type="fixed",
        conv_layer=partial(StdConv2d, eps=PEER_EPS),
        norm_layer=partial(GroupNormAct, num_groups=groups),
        num_classes=labels,
    )
    return model.double().eval()


@pytest.fixture(params=[*NETWORKS, *(pytest.param(v, marks=pytest.mark.slow) for v in ("R101x3",))])
def case(request):
    return NETWORKS.get(request.param) or (official_shape(request.param), 32, 10)


def test_an_official_file_computes_what_timm_computes(case, tmp_path):
    network, groups, labels = case
    path = write_official(tmp_path / "official.npz", head=labels, **network)
    theirs = timm_model(network, groups, labels)
    theirs.load_pretrained(str(path))
    with torch.no_grad():
        maps = theirs.forward_intermediates(IMAGES, intermediates_only=True)
        logits = theirs(IMAGES)

    config = config_of(network, groups, labels)
    backbone = BitBackbone(config, out_indices=range_of(config)).double()
    load(backbone, path)
    classifier = BitForImageClassification(config).double().eval()
    load(classifier, path)
    with torch.no_grad():
        features = backbone(IMAGES)
        ours = classifier(IMAGES).logits
    assert len(features) == len(network["depths"])
    for ours_map, their_map in zip(features.values(), maps[1:], strict=True):
        equal(ours_map, their_map)
    equal(ours, logits.flatten(1))


def range_of(config):
    return list(range(1, len(config.depths) + 1))


def test_an_official_file_computes_what_transformers_computes(case, tmp_path):
    """By the folder that we convert it to; transformers reads no .npz."""
    network, groups, labels = case
    path = write_official(tmp_path / "official.npz", head=labels, **network)
    config = config_of(network, groups, labels)
    convert(path, tmp_path / "folder", "transformers", config=config)
    kind = transformers.BitForImageClassification if labels else transformers.BitModel
    theirs, info = kind.from_pretrained(
        tmp_path / "folder", dtype=torch.float64, output_loading_info=True
    )
    assert not any(info.values()), info
    classifier = BitForImageClassification(config).double().eval()
    load(classifier, path)
    with torch.no_grad():
        expected = theirs.eval()(IMAGES, output_hidden_states=True)
        ours = classifier(IMAGES, output_hidden_states=True)
    assert len(ours.hidden_states) == len(expected.hidden_states) == len(network["depths"]) + 1
    for ours_map, their_map in zip(ours.hidden_states, expected.hidden_states, strict=True):
        equal(ours_map, their_map)
    if labels:
        equal(ours.logits, expected.logits)
    else:
        equal(ours.logits, expected.pooler_output.flatten(1))


@pytest.mark.parametrize("variant", ["R50x1", pytest.param("R152x2", marks=pytest.mark.slow)])
def test_a_timm_model_loads_whole(variant, tmp_path):
    theirs = timm.create_model(f"resnetv2_{variant[1:]}_bit", num_classes=10).double().eval()
    torch.save(theirs.state_dict(), tmp_path / "timm.pth")
    ours = BitForImageClassification.from_pretrained(tmp_path / "timm.pth", dtype=torch.float64)
    assert ours.config == BitConfig.from_variant(
        variant, num_labels=10, weight_standardization_eps=PEER_EPS
    )
    with torch.no_grad():
        equal(ours(IMAGES).logits, theirs(IMAGES))


@pytest.mark.parametrize("features_only", [False, True])
def test_timm_names_of_both_kinds_of_model(features_only):
    theirs = timm.create_model("resnetv2_50x1_bit", features_only=features_only)
    backbone = BitBackbone("R50x1", out_indices=[1, 2, 3, 4])
    report = load(backbone, theirs.state_dict())
    assert report.format == "timm"
    assert report.complete
    assert len(report.loaded) == len(list(backbone.parameters()))
    assert report.beyond == (() if features_only else ("norm.weight", "norm.bias"))


def test_timm_loads_what_we_convert(tmp_path):
    path = write_official(tmp_path / "official.npz", head=10, **official_shape("R50x1"))
    convert(path, tmp_path / "timm.safetensors", "timm")
    theirs = timm.create_model(
        "resnetv2_50x1_bit", num_classes=10, checkpoint_path=tmp_path / "timm.safetensors"
    )
    direct = timm.create_model("resnetv2_50x1_bit", num_classes=10)
    direct.load_pretrained(str(path))
    for name, value in direct.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name


def transformers_config(**settings):
    return transformers.BitConfig(**{**TINY_CONFIG, "num_labels": 10, **settings})


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (transformers.BitBackbone, BitBackbone),
        (transformers.BitModel, BitModel),
        (transformers.BitForImageClassification, BitForImageClassification),
    ],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("shard", ["1GB", "200KB"])
def test_folders_go_both_ways(theirs, ours, layer_type, shard, tmp_path):
    settings = {"layer_type": layer_type}
    if theirs is transformers.BitBackbone:
        settings["out_features"] = ["stage2", "stage4"]
    original = theirs(transformers_config(**settings)).double().eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    original.save_pretrained(tmp_path / "theirs", max_shard_size=shard)
    model = ours.from_pretrained(tmp_path / "theirs", dtype=torch.float64)
    assert model.config.weight_standardization_eps == PEER_EPS
    compare(model, original)

    model.save_pretrained(tmp_path / "ours", max_shard_size=shard)
    sharded = (tmp_path / "ours" / "model.safetensors.index.json").exists()
    assert sharded == (shard == "200KB")
    back, info = theirs.from_pretrained(
        tmp_path / "ours", dtype=torch.float64, output_loading_info=True
    )
    # A backbone of ours has no final norm where it returns raw features.
    allowed = {"bit.norm.weight", "bit.norm.bias"} if ours is BitBackbone else set()
    assert set(info["missing_keys"]) <= allowed, info
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    compare(model, back.eval())
    for name, value in back.state_dict().items():
        if name not in info["missing_keys"]:
            assert torch.equal(value, original.state_dict()[name]), name


def compare(ours, theirs):
    if ours.config.layer_type == "bottleneck":
        # transformers pads before the stem's norm: same weights, other values (and theirs wrong).
        return
    with torch.no_grad():
        mine, other = ours(IMAGES), theirs(IMAGES)
    if isinstance(ours, BitBackbone):
        for mine_map, other_map in zip(mine.values(), other.feature_maps, strict=True):
            equal(mine_map, other_map)
    elif isinstance(ours, BitModel):
        equal(mine.pooler_output, other.pooler_output)
    else:
        equal(mine.logits, other.logits)


def test_a_wide_network_saved_here_loads_in_transformers(tmp_path):
    """transformers fails on every width_factor but 1, so folders hold the widths themselves."""
    config = BitConfig(**TINY_CONFIG, width_factor=2, weight_standardization_eps=PEER_EPS)
    model = BitForImageClassification(config).double().eval()
    model.save_pretrained(tmp_path)
    back = transformers.BitForImageClassification.from_pretrained(tmp_path, dtype=torch.float64)
    compare(model, back.eval())


def test_the_default_epsilon_moves_transformers_little(tmp_path):
    """transformers computes with 1e-8 whatever a folder says; ours is the official 1e-10."""
    path = write_official(tmp_path / "official.npz", head=10, **official_shape("R50x1"))
    model = BitForImageClassification.from_pretrained(path)
    assert model.config.weight_standardization_eps == 1e-10
    model.save_pretrained(tmp_path / "folder")
    back = transformers.BitForImageClassification.from_pretrained(tmp_path / "folder")
    reloaded = BitForImageClassification.from_pretrained(tmp_path / "folder")
    images = IMAGES.float()
    with torch.no_grad():
        ours, theirs = model(images).logits, back.eval()(images).logits
        assert torch.equal(reloaded(images).logits, ours)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_nothing_of_timms_silence(tmp_path):
    """timm keeps a random head of another size and accepts a deeper net's file; we do neither."""
    path = write_official(tmp_path / "official.npz", head=10, **TINY)
    arrays = official_arrays(head=10, depths=(1, 3, 1, 1))
    deeper = write_official(tmp_path / "deeper.npz", arrays)
    timm_model(TINY, 8, 7).load_pretrained(str(path))
    timm_model(TINY, 8, 10).load_pretrained(str(deeper))
    model = BitForImageClassification(BitConfig(**TINY_CONFIG, num_labels=7))
    with pytest.raises(ValueError, match="10 labels"):
        load(model, path)
    with pytest.raises(ValueError, match=r"depths \(1, 3, 1, 1\)"):
        load(BitForImageClassification(BitConfig(**TINY_CONFIG, num_labels=10)), deeper)
    assert np.load(path)["resnet/head/conv2d/bias"].shape == (10,)
