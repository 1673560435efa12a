"""torch.int8 on other processors, in PyTorch's modes, and of models that a user has changed."""

import argparse
import copy
import os
import subprocess
import sys

import pytest
import torch
from networks import TINY, randomise, tiny
from torch import nn

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, optimize_for_inference
from bit_backbone.inference import load_int8, optimize_in_place, quantization
from bit_backbone.inference.int8 import Int8Conv2d
from bit_backbone.network import GroupNormAct
from bit_backbone.utils.ways_out import for_command

pytestmark = pytest.mark.usefixtures("fast_int8")


def backbone(**options):
    return tiny(out_indices=(1, 2, 3, 4), **options).eval()


def int8(model, **options):
    return optimize_for_inference(model, dtype=torch.int8, **options)


def count(model):
    return sum(isinstance(module, Int8Conv2d) for module in model.modules())


def assert_close(found, expected, least=0.998):
    for name, value in expected.items():
        assert torch.cosine_similarity(found[name].flatten(), value.flatten(), 0) > least, name


SATURATING = """
import torch
from bit_backbone import BitBackbone, BitConfig
from bit_backbone.inference import optimize, quantization
quantization.has_int8 = lambda: True
quantization.fast_dtype = optimize.fast_dtype = lambda _: torch.float32
unit = optimize.optimize_for_inference(
    BitBackbone(BitConfig(embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1],
                          num_groups=8)), dtype=torch.int8).stage3[0]
for conv in (unit.conv1, unit.conv2):
    levels = torch.full((1, conv.in_channels, 8, 8), 255, dtype=torch.uint8)
    conv.weight.fill_(127)
    found = (conv(levels) / conv.weight_steps[:, None, None])[0, :, 2, 2]
    print(found.mean().item() / (255 * 127 * conv.weight[0].numel()))
"""


@pytest.mark.parametrize("limit", ["AVX2", ""])
def test_products_do_not_saturate_without_a_dot_product_of_8_bits(limit):
    """A model in int8 may come from another machine; oneDNN adds in 16 bits without VNNI."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": limit}
    run = subprocess.run(
        [sys.executable, "-c", SATURATING],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert [float(line) for line in run.stdout.split()] == pytest.approx([1.0, 1.0], rel=1e-5)


def test_inference_mode():
    fast = int8(backbone())
    images = torch.randn(1, 3, 64, 64)
    expected = fast(images)
    with torch.inference_mode():
        copied = copy.deepcopy(fast)
        assert_close(copied(images), expected, 0.9999)
    with torch.no_grad():
        assert_close(copied(images), expected, 0.9999)


def test_a_folder_read_in_inference_mode_runs_everywhere(tmp_path):
    int8(backbone()).save_pretrained(tmp_path)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        loaded = load_int8(BitBackbone, tmp_path)
        expected = loaded(images)
    assert_close(loaded(images), expected, 0.9999)
    assert list(loaded._forward_pre_hooks.values()).count(quantization._check_finite) == 1


def test_no_images():
    found = int8(backbone())(torch.randn(0, 3, 64, 64))
    assert found["stage4"].shape == (0, 256, 2, 2)


@pytest.mark.parametrize("cast", [torch.float16, torch.float64])
def test_types_that_the_operators_do_not_give(cast):
    conv = int8(backbone()).stage2[0].conv2
    levels = torch.randint(0, 256, (1, conv.in_channels, 9, 13), dtype=torch.uint8)
    expected = conv(levels)
    found = conv.to(cast)(levels)
    assert found.dtype == cast
    torch.testing.assert_close(found.float(), expected, rtol=2e-3, atol=2e-3)


def test_compilers_exporters_and_transforms_get_the_plain_arithmetic():
    model = backbone()
    fast, images = int8(model), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        exported = torch.export.export(fast, (images,)).module()
        traced = torch.jit.trace(fast, (images,), strict=False)
        compiled = torch.compile(fast, backend="eager")
        for way in (exported, traced, compiled):
            assert_close(way(images), expected)
        mapped = torch.vmap(lambda image: fast(image[None])["stage4"][0])(images)
    assert_close({"stage4": mapped}, {"stage4": expected["stage4"]})


def test_the_meta_device():
    assert int8(backbone()).to("meta")(torch.empty(1, 3, 64, 64, device="meta"))["stage4"].is_meta


def test_large_images_in_float16_are_finite():
    model = backbone()
    images = 200 * torch.rand(1, 3, 64, 64)
    assert_close(int8(model)(images.half()), model(images), 0.99)


def test_images_by_keyword_must_be_finite():
    model = randomise(BitForImageClassification(BitConfig(**TINY, num_labels=5))).eval()
    images = torch.full((1, 3, 64, 64), float("nan"))
    with pytest.raises(ValueError, match="must be finite"):
        int8(model)(pixel_values=images)


def test_a_layer_in_two_places_stays_in_floating_point():
    model = backbone(depths=(1, 3, 1, 1))
    model.stage2[2].conv2 = model.stage2[1].conv2
    model.stage2[2].norm2.bias.data += 20  # values of another scale
    images = torch.randn(1, 3, 64, 64)
    fast = int8(model)
    assert count(fast) == 4 * 4
    assert_close(fast(images), model(images))


class Squared(nn.ReLU):
    """A user's activation, with values beyond the scales of ReLU's."""

    def forward(self, x):
        return super().forward(x) ** 3


class Noisy(GroupNormAct):
    """A user's norm."""

    def forward(self, x):
        return super().forward(x) ** 3


def with_activation(unit):
    unit.norm2.act = Squared()


def with_norm(unit):
    unit.norm2.__class__ = Noisy


@pytest.mark.parametrize("change", [with_activation, with_norm])
def test_units_that_a_user_changed_stay_in_floating_point(change):
    model = backbone()
    change(model.stage3[0])
    images = torch.randn(1, 3, 64, 64)
    fast = int8(model)
    assert count(fast) == 3 * 4
    assert_close(fast(images), model(images))


def test_hooks_see_activations():
    model = backbone()
    seen = []
    model.stage2[0].norm2.act.register_forward_hook(lambda *_: seen.append(1))
    int8(model)(torch.randn(1, 3, 64, 64))
    assert seen == [1]


def test_a_model_without_units_of_this_package():
    model = backbone()
    for module in list(model.modules()):
        if type(module).__name__ == "PreActUnit":
            module.__class__ = type("Mine", (type(module),), {})
    with pytest.raises(
        ValueError, match=r"units of this package.*BitBackbone that has none.*bfloat16"
    ):
        int8(model)


@pytest.mark.parametrize("layer", ["conv2", "norm2"])
def test_weights_must_be_finite(layer):
    model = backbone()
    getattr(model.stage2[0], layer).weight.data.view(-1)[0] = float("nan")
    with pytest.raises(ValueError, match=rf"finite weights, and the {layer}.weight .* load other"):
        int8(model)


def test_calibration_images_must_be_finite():
    images = torch.full((1, 3, 64, 64), float("nan"))
    with pytest.raises(ValueError, match=r"calibration takes finite images.*leave it out"):
        int8(backbone(), calibration=[images])


def test_a_calibration_that_fails_leaves_no_hooks():
    model = backbone()
    with pytest.raises(ValueError, match="must be a torch tensor"):
        optimize_in_place(model, dtype=torch.int8, calibration=[torch.rand(1, 3, 64, 64), "image"])
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dtype": torch.float32}, "dtype torch.float32"),
        ({"dtype": "auto"}, "dtype 'auto'"),
        ({"compile": True}, "compile=True"),
        ({"dtype": torch.int8, "calibration": [torch.rand(1, 3, 64, 64)]}, "calibration"),
    ],
)
def test_what_a_model_in_8_bits_does_not_become(options, named):
    fast = int8(backbone())
    with pytest.raises(
        ValueError, match=f"cannot be optimized again, got {named}: optimize the model that"
    ):
        optimize_for_inference(fast, **options)


def test_the_warning_of_a_model_that_is_in_8_bits_already(monkeypatch):
    fast = int8(backbone())
    monkeypatch.setattr(quantization, "has_int8", lambda: False)
    with pytest.warns(UserWarning, match=r"no dot product .* are computed in torch.float32"):
        assert count(int8(fast)) == 16


def test_steps_of_another_type_are_loaded_as_float32():
    fast, other = int8(backbone()), int8(randomise(backbone()))
    state = {k: v.double() if "steps" in k else v for k, v in other.state_dict().items()}
    fast.load_state_dict(state, assign=True)
    images = torch.randn(1, 3, 64, 64)
    assert fast.stage1[0].conv1.input_steps.dtype == torch.float32
    assert_close(fast(images), other(images), 0.9999)


def test_other_devices_than_cpus():
    model = backbone().to("meta")
    with pytest.raises(ValueError, match="is for CPUs: move the model there, or take bfloat16"):
        int8(model)
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    with for_command(parser), pytest.raises(ValueError, match="is for CPUs: pass --device cpu, or"):
        int8(model)
