"""torch.int8: close to float32, exact in its sums, and rejected where it cannot be."""

import copy
import json
import pickle

import pytest
import torch
from networks import TINY, randomise, tiny

from bit_backbone import (
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    optimize_for_inference,
)
from bit_backbone.checkpoints import CheckpointError
from bit_backbone.inference import (
    fast_dtype,
    int8,
    load_int8,
    optimize_in_place,
    quantization,
)
from bit_backbone.inference.int8 import Int8Conv2d, Int8PreActUnit
from bit_backbone.kernels import native

NETWORKS = {
    "default": {},
    "same": {"global_padding": "same"},
    "valid": {"global_padding": "valid"},
    "dilated": {"output_stride": 8},
    "preact": {"feature_norm": "preact"},
}


pytestmark = pytest.mark.usefixtures("fast_int8")


def backbone(**options):
    return tiny(out_indices=(0, 1, 2, 3, 4), **options).eval()


def similarity(found, expected):
    return {
        name: float(torch.cosine_similarity(found[name].flatten(), value.flatten(), 0))
        for name, value in expected.items()
    }


@pytest.mark.parametrize("size", [(1, 64, 96), (2, 131, 97)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_maps_are_close_to_float32s(kind, size):
    model = backbone(**NETWORKS[kind])
    images = torch.randn(size[0], 3, *size[1:])
    if kind == "valid":
        images = torch.randn(size[0], 3, 160, 192)
    fast = optimize_for_inference(model, dtype=torch.int8)
    assert sum(isinstance(module, Int8Conv2d) for module in fast.modules()) == 16
    with torch.inference_mode():
        found, expected = fast(images), model(images)
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}
    assert all(value.dtype == torch.float32 for value in found.values())
    assert torch.equal(found["stem"], expected["stem"]) or kind == "preact"
    assert min(similarity(found, expected).values()) > 0.998


@pytest.mark.parametrize("name", ["conv1", "conv2"])
def test_the_operators_give_what_plain_arithmetic_gives(name, monkeypatch):
    """Sums of 8-bit products are whole numbers, and so equal however they are made."""
    if not fast_dtype.has_int8():
        pytest.skip("this processor has no dot product of 8-bit integers")
    conv = getattr(optimize_for_inference(backbone(), dtype=torch.int8).stage3[0], name)
    levels = torch.randint(0, 256, (2, conv.in_channels, 9, 13), dtype=torch.uint8)
    found = conv(levels)
    monkeypatch.setattr(int8, "_has_operator", lambda: False)
    torch.testing.assert_close(found, conv(levels), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_levels_after_a_norm(dtype, layout):
    if not native.library():
        pytest.skip("the native kernels are not built here")
    unit = backbone().stage2[0]
    x = (3 * torch.randn(2, 64, 13, 17)).to(dtype).contiguous(memory_format=layout)
    x = x[:, : unit.norm1.num_channels].contiguous(memory_format=layout)
    steps = (quantization.bound_of(unit.norm1) / 255).clamp(min=1e-12)
    arguments = x, unit.norm1.num_groups, unit.norm1.weight.detach(), unit.norm1.bias.detach()
    found = native.group_norm_relu_uint8(*arguments, steps, unit.norm1.eps)
    exact = unit.norm1(x.float()).detach() / steps[:, None, None]
    assert found.dtype == torch.uint8
    assert found.stride() == x.stride()
    assert (found.float() - exact.clamp(0, 255)).abs().max() < 0.501
    assert len(found.unique()) > 40


def test_measured_scales_cut_off_nothing():
    model = backbone()
    images = torch.randn(2, 3, 96, 96)
    seen = []
    model.stage3[0].norm2.register_forward_hook(lambda *values: seen.append(values[-1]))
    model(images)
    fast = optimize_for_inference(model, dtype=torch.int8, calibration=[images])
    largest = seen[0].amax((0, 2, 3))
    torch.testing.assert_close(fast.stage3[0].conv2.input_steps * 255, largest)
    assert min(similarity(fast(images), model(images)).values()) > 0.999


def test_the_original_is_as_it_was_and_the_copy_is_smaller():
    model = backbone()
    before = copy.deepcopy(model.state_dict())
    fast = optimize_for_inference(model, dtype=torch.int8)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    units = [name for name in before if ".conv" in name and "stem" not in name]
    sizes = [sum(s[n].nbytes for n in units) for s in (fast.state_dict(), before)]
    assert sizes[0] * 4 == sizes[1]
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()


def test_in_place_and_from_an_optimized_model():
    model = backbone()
    images = torch.randn(1, 3, 64, 64)
    expected = optimize_for_inference(model, dtype=torch.int8)(images)
    again = optimize_for_inference(optimize_for_inference(model), dtype=torch.int8)(images)
    in_place = optimize_in_place(model, dtype=torch.int8)
    for found in (again, in_place(images)):
        assert min(similarity(found, expected).values()) > 0.9999
    assert optimize_for_inference(in_place)(images).keys() == expected.keys()


@pytest.mark.parametrize("way", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies(way):
    fast = optimize_for_inference(backbone(), dtype=torch.int8)
    images = torch.randn(1, 3, 64, 64)
    expected = fast(images)
    copied = way(fast)
    assert all(torch.equal(copied(images)[name], value) for name, value in expected.items())


def test_states_of_8_bits_load_and_others_do_not():
    first, second = backbone(), randomise(backbone())
    fast, other = (optimize_for_inference(m, dtype=torch.int8) for m in (first, second))
    images = torch.randn(1, 3, 64, 64)
    fast(images)
    fast.load_state_dict(other.state_dict())
    assert min(similarity(fast(images), other(images)).values()) > 0.9999
    before = copy.deepcopy(fast.state_dict())
    with pytest.raises(ValueError, match=r"stage1.0.*in 8 bits.* torch.float32 in the state dict"):
        fast.load_state_dict(first.state_dict())
    assert torch.equal(before["stage1.0.conv1.weight"], fast.stage1[0].conv1.weight)


def test_steps_stay_in_float32_when_the_network_is_cast():
    fast = optimize_for_inference(backbone(), dtype=torch.int8)
    conv = fast.stage1[0].conv1
    before = conv.weight_steps.clone()
    fast.to(torch.bfloat16)
    assert torch.equal(conv.weight_steps, before)
    assert conv.dtype == torch.bfloat16
    assert fast.stage1[0].norm1.weight.dtype == torch.float32


def test_what_lies_between_the_convolutions_may_be_bfloat16(monkeypatch):
    monkeypatch.setattr("bit_backbone.inference.optimize.fast_dtype", lambda _: torch.bfloat16)
    model = backbone(feature_norm="preact")
    images = torch.randn(2, 3, 97, 131)
    fast = optimize_for_inference(model, dtype=torch.int8)
    assert fast.stage1[0].conv1.dtype == torch.bfloat16
    assert min(similarity(fast(images), model(images)).values()) > 0.997
    monkeypatch.setattr(native, "library", lambda: None)
    assert min(similarity(fast(images), model(images)).values()) > 0.997


def test_hooks_see_norms_and_convolutions():
    model = backbone()
    seen = []
    for module in (model.stage2[0].norm2, model.stage2[0].conv2, model.stage2[0]):
        module.register_forward_hook(lambda m, _, y: seen.append((type(m), y.dtype)))
    fast = optimize_for_inference(model, dtype=torch.int8)
    images = torch.randn(1, 3, 64, 64)
    fast(images)
    assert [kind for kind, _ in seen][1:] == [Int8Conv2d, Int8PreActUnit]
    assert all(dtype == torch.float32 for _, dtype in seen)


def test_a_classifier_and_a_detector():
    from bit_backbone.torchvision import fasterrcnn_bit_fpn

    config = BitConfig(**TINY, num_labels=5)
    model = randomise(BitForImageClassification(config)).eval()
    images = torch.randn(3, 3, 64, 64)
    fast = optimize_for_inference(model, dtype=torch.int8)
    found, expected = fast(images).logits, model(images).logits
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    detector = fasterrcnn_bit_fpn(variant=BitConfig(**TINY), num_classes=3, min_size=96).eval()
    fast = optimize_for_inference(detector, dtype=torch.int8)
    assert any(isinstance(module, Int8PreActUnit) for module in fast.modules())
    assert set(fast([torch.rand(3, 80, 96)])[0]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize(
    ("options", "arguments", "message"),
    [
        ({"layer_type": "bottleneck"}, {}, "takes pre-activation networks.*bfloat16"),
        ({"hidden_act": "gelu"}, {}, "activation relu.*has gelu.*bfloat16"),
        ({}, {"compile": True}, "not compiled: leave compile out"),
        ({}, {"calibration": []}, "at least one input"),
    ],
)
def test_what_cannot_be(options, arguments, message):
    with pytest.raises(ValueError, match=message):
        optimize_for_inference(backbone(**options), dtype=torch.int8, **arguments)


def test_calibration_is_for_int8():
    with pytest.raises(ValueError, match=r"calibration is for dtype torch.int8, got dtype 'auto'"):
        optimize_for_inference(backbone(), dtype="auto", calibration=[torch.rand(1, 3, 64, 64)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_must_be_finite(value):
    fast = optimize_for_inference(backbone(), dtype=torch.int8)
    images = torch.randn(1, 3, 64, 64)
    images[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match="must be finite"):
        fast(images)


def test_a_processor_without_8_bits_gets_the_next_best(monkeypatch):
    monkeypatch.setattr(quantization, "has_int8", lambda: False)
    with pytest.warns(UserWarning, match=r"no dot product .* computes in torch.float32 instead"):
        fast = optimize_for_inference(backbone(), dtype=torch.int8)
    assert not any(isinstance(module, Int8Conv2d) for module in fast.modules())


@pytest.mark.parametrize(
    ("flags", "limit", "expected"),
    [
        (("avx512_vnni",), "", True),
        (("avx_vnni",), "AVX2_VNNI", True),
        (("avx512_vnni",), "AVX2_VNNI", False),
        (("amx_int8",), "avx512_core_vnni", True),
        (("avx512_vnni",), "AVX512_CORE", False),
        (("avx2", "avx512f"), "", False),
    ],
)
def test_processors_with_8_bits(flags, limit, expected, monkeypatch):
    monkeypatch.setattr(fast_dtype, "_cpu_flags", lambda: frozenset(flags))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert fast_dtype.has_int8() is expected


@pytest.mark.parametrize("kind", [BitBackbone, BitForImageClassification])
def test_a_folder(kind, tmp_path):
    config = BitConfig(**TINY) if kind is BitBackbone else BitConfig(**TINY, num_labels=5)
    model = randomise(kind(config)).eval()
    fast = optimize_for_inference(model, dtype=torch.int8)
    model.save_pretrained(tmp_path / "float")
    fast.save_pretrained(tmp_path / "int8")
    found = load_int8(kind, tmp_path / "int8")
    assert type(found) is kind
    assert found.config == model.config
    images = torch.randn(2, 3, 64, 64)
    expected, ours = (
        m(images) if kind is BitBackbone else {"": m(images).logits} for m in (fast, found)
    )
    assert min(similarity(ours, expected).values()) > 0.9999
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < 0.4 * sizes[1]  # the stem and the names are much of a tiny network


def test_folders_that_are_rejected(tmp_path):
    model = backbone()
    fast = optimize_for_inference(model, dtype=torch.int8)
    fast.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"quantized network.*load_int8"):
        BitBackbone.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path / "float")
    with pytest.raises(CheckpointError, match="no network in 8 bits: load it with from_pretrained"):
        load_int8(BitBackbone, tmp_path / "float")
    with pytest.raises(CheckpointError, match=r"holds a BitBackbone.*got the class BitForImage"):
        load_int8(BitForImageClassification, tmp_path)
    weights = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (weights[:200], weights[:-50]):
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="cannot be read as a network in 8 bits"):
            load_int8(BitBackbone, tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_int8(BitBackbone, tmp_path / "none")
    config = json.loads((tmp_path / "config.json").read_text())
    for damaged in (None, [], ["BitBackbone", "BitModel"], 3):
        (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": damaged}))
        with pytest.raises(
            CheckpointError, match=r"cannot be read.*write it again by save_pretrained"
        ):
            load_int8(BitBackbone, tmp_path)
