"""The network's own laws: dilation, padding, parameters, recomputation, random depth."""

import copy
import itertools

import pytest
import torch
from networks import ALL, KINDS, TINY, largest_difference, relative_difference, saved_bytes, tiny
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import VARIANTS, BitConfig
from bit_backbone.network import BitNetwork, Unit, layers
from bit_backbone.network.layers import activation

# Parameters with a head of 1000 classes, in millions, as published.
PARAMETERS = {
    "R50x1": "25.55",
    "R101x1": "44.54",
    "R50x3": "217.32",
    "R152x2": "236.34",
    "R101x3": "387.93",
    "R152x4": "936.53",
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts(variant):
    config = BitConfig.from_variant(variant)
    with torch.device("meta"):
        trunk = BitNetwork(config, last=4, norm=True)
        head = nn.Linear(config.channels[-1], 1000)
    count = sum(p.numel() for p in itertools.chain(trunk.parameters(), head.parameters()))
    assert f"{count / 1e6:.2f}" == PARAMETERS[variant]


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 3, 2, 3)])
@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_without_norms_dilation_is_exact(monkeypatch, layer_type, depths, output_stride):
    class ActivationAlone(nn.Module):
        def __init__(self, groups, channels, act):
            super().__init__()
            self.act = nn.Identity() if act is None else activation(act)

        def forward(self, x):
            return self.act(x.clone())

    monkeypatch.setattr(layers, "GroupNormAct", ActivationAlone)
    arguments = TINY | {"depths": depths, "layer_type": layer_type, "out_indices": ALL}
    strided = BitBackbone(BitConfig(**arguments)).double()
    dilated = BitBackbone(BitConfig(**arguments, output_stride=output_stride)).double()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 3, 129, 97, dtype=torch.float64)
    dense = dilated(x)
    steps = [full // own for full, own in zip(strided.strides, dilated.strides, strict=True)]
    assert steps[-1] == 32 // output_stride
    sampled = {n: f[..., ::s, ::s] for (n, f), s in zip(dense.items(), steps, strict=True)}
    assert largest_difference(sampled, strided(x)) < 1e-12


def reference(backbone: BitBackbone, x: torch.Tensor, padding: str) -> dict[str, torch.Tensor]:
    """The pre-activation network once more, as plain functions of a state dict."""
    weights, config = backbone.state_dict(), backbone.config

    def conv(name, x, stride=1):
        weight = weights[f"{name}.weight"]
        flat = weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        scale = (flat.var(1, correction=0, keepdim=True) + 1e-10).sqrt()
        size = weight.shape[-1]
        if padding == "same":
            total = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[-2:]]
            x = F.pad(x, [total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)])
        return F.conv2d(x, (centred / scale).reshape_as(weight), stride=stride)

    def norm(name, x):
        parameters = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return F.relu(F.group_norm(x, config.num_groups, *parameters))

    def unit(name, x, stride):
        first = f"{name}.downsample.conv.weight" in weights
        a = norm(f"{name}.norm1", x)
        shortcut = conv(f"{name}.downsample.conv", a, stride) if first else x
        a = conv(f"{name}.conv2", norm(f"{name}.norm2", conv(f"{name}.conv1", a)), stride)
        a = conv(f"{name}.conv3", norm(f"{name}.norm3", a))
        top, left = ((s - t) // 2 for s, t in zip(shortcut.shape[-2:], a.shape[-2:], strict=True))
        return a + shortcut[..., top : top + a.shape[-2], left : left + a.shape[-1]]

    x = conv("stem.conv", x, 2)
    if padding == "same":
        total = [(-(-n // 2) - 1) * 2 + 3 - n for n in x.shape[-2:]]
        pads = [total[1] // 2, -(-total[1] // 2), total[0] // 2, -(-total[0] // 2)]
        x = F.pad(x, pads, value=-float("inf"))
    x = F.max_pool2d(x, 3, 2)
    features = {"stem": x}
    for stage in config.stages:
        for index in range(stage.depth):
            x = unit(f"{stage.name}.{index}", x, stage.stride if index == 0 else 1)
        features[stage.name] = x
    return features


@pytest.mark.parametrize(
    ("padding", "size"),
    [
        ("same", (129, 97)),
        ("same", (96, 128)),
        ("same", (7, 1)),
        ("valid", (129, 107)),
        ("valid", (110, 128)),
    ],
)
def test_paddings_against_plain_functions(padding, size):
    backbone = tiny(global_padding=padding, depths=(1, 1, 2, 1), out_indices=ALL).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    assert largest_difference(backbone(x), reference(backbone, x, padding)) < 1e-12


@pytest.mark.parametrize("padding", [None, "same"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_one_pixel_is_enough(padding, dynamic, layer_type, feature_norm):
    backbone = BitBackbone(
        BitConfig(
            depths=(1, 1, 1, 1),
            width_factor=0.5,  # 32 channels in 32 groups: groups of a single value
            global_padding=padding,
            embedding_dynamic_padding=dynamic,
            layer_type=layer_type,
            feature_norm=feature_norm,
            out_indices=ALL,
        )
    )
    pixel = torch.randn(1, 3, 1, 1)
    alone, among = backbone(pixel), backbone(torch.cat([pixel, torch.randn(1, 3, 1, 1)]))
    for name, feature in alone.items():
        assert feature.shape[-2:] == (1, 1)
        assert feature.isfinite().all()
        torch.testing.assert_close(feature, among[name][:1], rtol=1e-3, atol=1e-3)


def test_nothing_but_the_scale_of_the_stem_reaches_the_stages():
    backbone, x = tiny(out_indices=ALL).double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    once, thrice = backbone(x), backbone(3 * x)
    assert relative_difference(thrice["stem"], 3 * once["stem"]) < 1e-12
    assert relative_difference(thrice["stage4"], once["stage4"]) < 1e-3


def gradients(backbone, x, seed=3):
    torch.manual_seed(seed)
    backbone.zero_grad()
    features = backbone(x)
    sum(f.square().mean() for f in features.values()).backward()
    return features | {name: p.grad.clone() for name, p in backbone.named_parameters()}


@pytest.mark.parametrize("out_indices", [ALL, (2,)])
@pytest.mark.parametrize("drop_path_rate", [0.0, 0.5])
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_checkpointing_is_bit_for_bit(layer_type, feature_norm, drop_path_rate, out_indices):
    backbone = tiny(
        layer_type=layer_type,
        feature_norm=feature_norm,
        drop_path_rate=drop_path_rate,
        out_indices=out_indices,
        depths=(2, 2, 1, 2),
    ).train()
    x = torch.randn(4, 3, 49, 65)
    plain = gradients(backbone, x)
    backbone.set_grad_checkpointing()
    recomputed = gradients(backbone, x)
    assert plain.keys() == recomputed.keys()
    different = [name for name in plain if not torch.equal(plain[name], recomputed[name])]
    assert not different
    backbone.set_grad_checkpointing(False)
    assert not any(m.grad_checkpointing for m in backbone.modules() if isinstance(m, Unit))


def test_random_depth_is_random_and_repeats_with_its_seed():
    backbone, x = tiny(drop_path_rate=0.7, depths=(2, 2, 2, 2)).train(), torch.randn(8, 3, 33, 33)
    first, again, other = (gradients(backbone, x, seed)["stage4"] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    backbone.eval()
    never = tiny(depths=(2, 2, 2, 2)).eval()
    never.load_state_dict(backbone.state_dict())
    assert torch.equal(backbone(x)["stage4"], never(x)["stage4"])


@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_checkpointing_stores_less(layer_type, feature_norm):
    backbone = tiny(
        layer_type=layer_type, feature_norm=feature_norm, out_indices=ALL, depths=(3, 3, 3, 3)
    ).train()
    x = torch.randn(1, 3, 128, 128)
    plain = saved_bytes(lambda: backbone(x))
    backbone.set_grad_checkpointing()
    # what stays is the stem and one input per unit
    assert saved_bytes(lambda: backbone(x)) < plain / 2


def test_checkpointing_covers_every_unit(monkeypatch):
    recomputed = []

    def checkpoint(forward, unit, *arguments, **options):
        recomputed.append(unit)
        return forward(unit, *arguments)

    monkeypatch.setattr("bit_backbone.kernels.recompute.checkpoint", checkpoint)
    for feature_norm in ("none", "preact"):
        recomputed.clear()
        backbone = tiny(depths=(2, 1, 3, 1), feature_norm=feature_norm)
        backbone.set_grad_checkpointing()
        backbone(torch.randn(1, 3, 33, 33))
        units = [m for m in backbone.modules() if isinstance(m, Unit)]
        assert recomputed == units


def test_checkpointed_evaluation_needs_no_gradient():
    backbone, x = tiny().eval(), torch.randn(1, 3, 33, 33)
    twin = copy.deepcopy(backbone)
    twin.set_grad_checkpointing()
    with torch.no_grad():
        assert torch.equal(backbone(x)["stage4"], twin(x)["stage4"])


@pytest.mark.parametrize("feature_norm", ["none", "preact"])
def test_hooks_see_every_stage_and_unit(feature_norm):
    backbone = tiny(depths=(2, 1, 1, 1), feature_norm=feature_norm, out_indices=ALL)
    seen = []
    for name, module in backbone.named_modules():
        if name.startswith("stage") and name.count(".") < 2:
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    backbone(torch.randn(1, 3, 33, 33))
    assert sorted(seen) == [
        "stage1", "stage1.0", "stage1.1", "stage2", "stage2.0",
        "stage3", "stage3.0", "stage4", "stage4.0",
    ]  # fmt: skip


def test_replaced_parts_are_used():
    class FourTimesSmaller(nn.Module):
        def forward(self, images):
            return nn.functional.avg_pool2d(images, 4).repeat(1, 16, 1, 1)[:, :16]

    backbone = tiny(out_indices=(0, 2)).eval()
    backbone.stem = FourTimesSmaller()
    backbone.stage1 = nn.Sequential(nn.Identity(), backbone.stage1)
    images = torch.randn(1, 3, 32, 32)
    features = backbone(images)
    torch.testing.assert_close(features["stem"], FourTimesSmaller()(images))
    torch.testing.assert_close(
        features["stage2"], backbone.stage2(backbone.stage1(features["stem"]))
    )


def test_images_too_small_for_valid_padding_are_rejected():
    backbone = tiny(global_padding="valid").eval()
    assert backbone(torch.randn(1, 3, 75, 75))["stage4"].shape == (1, 256, 1, 1)
    with pytest.raises(ValueError, match=r"at least 75 pixels high and wide, got \[1, 3, 75, 74\]"):
        backbone(torch.randn(1, 3, 75, 74))


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_forward_mode_differentiation(layer_type):
    backbone = tiny(layer_type=layer_type, depths=(2, 1, 1, 1)).double().eval()
    x, direction = torch.randn(2, 1, 3, 33, 33, dtype=torch.float64)
    with torch.no_grad():
        with forward_ad.dual_level():
            output = backbone(forward_ad.make_dual(x, direction))["stage4"]
            found = forward_ad.unpack_dual(output).tangent
        after, before = (backbone(x + step * direction)["stage4"] for step in (1e-6, -1e-6))
    assert relative_difference(found, (after - before) / 2e-6) < 1e-6
