"""optimize_for_inference: the same numbers, and a model that says what it is no longer for."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from live_filters import LiveFilters, filter_bytes
from measured_memory import peak_of
from networks import ALL, KINDS, PADDINGS, TINY, largest_difference, randomise, tiny
from torch import nn

from bit_backbone import (
    BitBackbone,
    BitConfig,
    BitForImageClassification,
    BitModel,
    optimize_for_inference,
)
from bit_backbone.inference import optimize_in_place
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.inference.norm import CHUNK, LONGEST_SUM, InferenceGroupNormAct
from bit_backbone.kernels import native
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.network.std_conv import StdConv2d

# Odd; the first one long enough for chunked moments; each twice, for filters laid out in between.
SIZES = ((163, 171), (163, 171), (163, 171), (156, 161), (163, 171))


def optimized(model: nn.Module, **options: object) -> nn.Module:
    """Without the allocator's setting, which would stay with the process that runs the tests."""
    return optimize_for_inference(model, **{"keep_pages": False, **options})


def check_equal(found, expected, tolerance=1e-5, sizes=SIZES, dtype=torch.float32) -> None:
    for index, size in enumerate(sizes):
        images = torch.randn(1 + index % 2, 3, *size, dtype=dtype)
        with torch.no_grad():
            assert largest_difference(dict(found(images)), dict(expected(images))) < tolerance


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_features_of_every_kind_of_network(layer_type, feature_norm, padding, channels_last):
    options = {"layer_type": layer_type, "feature_norm": feature_norm, "global_padding": padding}
    backbone = tiny(**options, depths=(1, 2, 1, 2), output_stride=16, out_indices=ALL).eval()
    check_equal(optimized(backbone, channels_last=channels_last), backbone)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_act": "gelu", "drop_path_rate": 0.3},
        {"hidden_act": "selu", "embedding_dynamic_padding": True},
        {"width_factor": 2, "output_stride": 8},
        {"out_indices": (0,)},
        {"out_indices": (1, 2), "feature_norm": "preact"},
    ],
)
def test_features_of_other_networks(options):
    backbone = tiny(**({"out_indices": ALL, "depths": (2, 1, 1, 2)} | options))
    backbone.set_grad_checkpointing()
    check_equal(optimized(backbone), backbone.eval())


@pytest.mark.parametrize("num_channels", [1, 4])
def test_images_with_other_channels(num_channels):
    backbone = tiny(num_channels=num_channels, out_indices=ALL).eval()
    nn.init.uniform_(backbone.stem.conv.gain)
    images = torch.randn(2, num_channels, 70, 90)
    with torch.no_grad():
        assert largest_difference(optimized(backbone)(images), backbone(images)) < 1e-5


@pytest.mark.parametrize("model_class", [BitModel, BitForImageClassification])
def test_models_with_a_head(model_class):
    model = randomise(model_class(BitConfig(**TINY, num_labels=5))).eval()
    fast = optimized(model)
    assert type(fast) is model_class
    check_equal(fast, model)
    with torch.no_grad():
        images = torch.randn(1, 3, 64, 64)
        found, expected = (m(images, output_hidden_states=True) for m in (fast, model))
    states = (dict(enumerate(output.hidden_states)) for output in (found, expected))
    assert largest_difference(*states) < 1e-5


def test_float64_is_exact():
    backbone = tiny(out_indices=ALL, depths=(2, 2, 2, 2)).double().eval()
    check_equal(optimized(backbone), backbone, tolerance=1e-13, dtype=torch.float64)


@pytest.mark.parametrize(
    "size", [(33, 33), (64, 64), (1, CHUNK), (1, CHUNK + 1), (2, CHUNK + 3), (32, 32)]
)
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("act", ["relu", "gelu", None])
def test_group_norm_for_inference(size, in_place, is_native, act, monkeypatch):
    if not is_native:
        monkeypatch.setattr(native, "library", lambda: None)
    norm = GroupNormAct(8, 32, act)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (torch.randn(2, 32, *size) + 3).to(memory_format=torch.channels_last)
    x *= torch.linspace(0.1, 30, 32)[:, None, None]  # channels of a group differ
    before = x.clone()
    expected = copy.deepcopy(norm).double()(x.double())
    InferenceGroupNormAct.adopt(norm)
    norm.in_place = in_place
    with torch.no_grad():
        found = norm(x)
    assert (found - expected).abs().max() < 5e-6 * expected.abs().max()
    overwrites = in_place and (native.library() is not None or size[0] * size[1] > LONGEST_SUM)
    assert torch.equal(x, before) != overwrites
    if act != "gelu":  # which makes a map of its own
        assert (found.data_ptr() == x.data_ptr()) == overwrites


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("channels", [16, 36, 64])
def test_group_norm_of_other_channels_is_an_error(channels, channels_last):
    """As after pruning a convolution alone: the native kernel would read beyond the weights."""
    norm = GroupNormAct(8, 32).eval().requires_grad_(False)
    InferenceGroupNormAct.adopt(norm)
    x = torch.randn(1, channels, 13, 13)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    with pytest.raises(RuntimeError, match="xpected"), torch.no_grad():
        norm(x)


def test_the_original_stays_trainable_and_as_it_is():
    backbone = tiny(out_indices=(1, 4)).train()
    before = copy.deepcopy(backbone.state_dict())
    optimized(backbone)
    assert backbone.training
    assert all(type(m) is not FoldedConv2d for m in backbone.modules())
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())
    sum(f.sum() for f in backbone(torch.randn(1, 3, 64, 64)).values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("channels_last", [True, False])
def test_in_place_weights_are_there_once(channels_last):
    original, images = tiny().eval(), torch.randn(1, 3, 63, 71)
    expected, once = dict(optimized(original)(images)), filter_bytes(original)
    alive = LiveFilters(original)
    backbone = copy.deepcopy(original)
    found = optimize_in_place(backbone, channels_last=channels_last, keep_pages=False)
    assert found is backbone
    for _ in range(3):  # of which the others would lay filters out
        assert largest_difference(dict(found(images)), expected) < 1e-5
        assert alive.bytes() == once
    with pytest.raises(ValueError, match="cannot be trained"):
        backbone.train()


def test_what_cannot_be_optimized_in_place_is_left_as_it_is():
    norm = nn.Sequential(GroupNormAct(2, 4))
    for change in (lambda: optimize_in_place(norm), lambda: optimize_in_place(tiny(), dtype=1)):
        with pytest.raises(ValueError, match=r"takes a BiT model|dtype must be"):
            change()
    assert type(norm[0]) is GroupNormAct
    assert norm.training


def test_optimizing_twice_changes_nothing_more():
    backbone = tiny(out_indices=ALL).eval()
    once = optimized(backbone, dtype=torch.bfloat16)
    twice = optimized(once, dtype=torch.float32)
    assert len(twice._forward_pre_hooks) == 1
    check_equal(optimized(optimized(backbone)), backbone)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        # the filters were rounded to bfloat16, the features no longer are
        assert largest_difference(twice(images), backbone(images)) < 0.05
    assert twice.stem.conv.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_returns_float32(dtype):
    backbone = tiny(out_indices=ALL).eval()
    fast = optimized(backbone, dtype=dtype)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = fast(images), backbone(images)
    assert {f.dtype for f in found.values()} == {torch.float32}
    assert {p.dtype for p in fast.parameters()} == {dtype}
    assert largest_difference(found, expected) < 0.05


@pytest.mark.parametrize("part", ["whole", "stem", "stage1"])
def test_training_is_rejected(part):
    fast = optimized(tiny())
    module = fast if part == "whole" else fast.get_submodule(part)
    with pytest.raises(ValueError, match="optimized for inference cannot be trained"):
        module.train()
    fast.eval()
    if part == "whole":
        assert not any(m.training for m in fast.modules())


@pytest.mark.parametrize("change", ["images", "parameters", "norms"])
def test_gradients_are_rejected(change):
    fast = optimized(tiny())
    images = torch.randn(1, 3, 64, 64, requires_grad=change == "images")
    if change == "parameters":
        fast.requires_grad_(True)
    elif change == "norms":
        fast.stage1[0].norm2.requires_grad_(True)
    with pytest.raises(ValueError, match="optimized for inference cannot be trained"):
        fast(images)
    with torch.no_grad():
        fast(images)


def test_what_is_rejected():
    with pytest.raises(ValueError, match=r"takes a BiT model.*got a Linear"):
        optimized(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r'dtype must be None, "auto", torch.float32.*torch.int16'):
        optimized(tiny(), dtype=torch.int16)


def test_hooks_and_shared_modules_stay():
    backbone = tiny(out_indices=(1,), depths=(3, 1, 1, 1)).eval()
    backbone.stage1[2] = backbone.stage1[1]
    seen = []
    for module in (backbone.stage1[1], backbone.stage1[1].conv3, backbone.stage1[1].norm2):
        module.register_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    fast = optimized(backbone)
    assert fast.stage1[2] is fast.stage1[1]
    check_equal(fast, backbone, sizes=SIZES[:1])
    fast_ones = ["InferenceGroupNormAct", "FoldedConv2d", "InPlacePreActUnit"]
    assert seen[:6] == 2 * fast_ones


def test_shared_weights_are_standardized_once():
    backbone = tiny(depths=(3, 1, 1, 1)).eval()
    backbone.stage1[2].conv2.weight = backbone.stage1[1].conv2.weight
    check_equal(optimized(backbone), backbone, sizes=SIZES[:1])


def test_subclasses_of_users_stay():
    class Noisy(StdConv2d):
        def forward(self, x):
            return super().forward(x) + 1

    backbone = tiny(depths=(2, 1, 1, 1), out_indices=(1,)).eval()
    backbone.stage1[1].conv3 = Noisy(8, 32, 1).eval()
    backbone.stage1[1].norm2 = nn.Identity()
    fast = optimized(backbone)
    assert type(fast.stage1[1].conv3) is Noisy
    check_equal(fast, backbone, sizes=SIZES[:1])


def test_copies_pickles_and_state_dicts():
    backbone = tiny(out_indices=ALL).eval()
    fast = optimized(backbone)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = [fast(images) for _ in range(2)][-1]  # filters are laid out now
        file = io.BytesIO()
        torch.save(fast, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)), loaded):
            assert largest_difference(other(images), expected) < 1e-6
            with pytest.raises(ValueError, match="cannot be trained"):
                other.train()
    assert list(fast.state_dict()) == list(backbone.state_dict())


@pytest.mark.parametrize("source", ["plain", "optimized"])
@pytest.mark.parametrize("target", ["plain", "optimized"])
@pytest.mark.parametrize("assign", [False, True])
def test_weights_of_either_load_into_either(source, target, assign):
    teacher = tiny(out_indices=ALL).eval()
    student = tiny(out_indices=ALL).eval()
    giver = optimized(teacher) if source == "optimized" else teacher
    taker = optimized(student) if target == "optimized" else student
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        [taker(images) for _ in range(2)]  # filters of the student are laid out
        taker.load_state_dict(giver.state_dict(), assign=assign)
        assert largest_difference(taker(images), teacher(images)) < 1e-5


def test_from_pretrained_reads_what_an_optimized_model_saved(tmp_path):
    backbone = tiny(out_indices=ALL).eval()
    optimized(backbone).save_pretrained(tmp_path)
    check_equal(BitBackbone.from_pretrained(tmp_path).eval(), backbone, sizes=SIZES[:1])


def test_changed_weights_are_laid_out_again():
    fast = optimized(tiny(out_indices=ALL))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = [fast(images) for _ in range(3)][-1]
        fast.stage1[0].conv2.weight.mul_(-1)
        after = fast(images)
    assert largest_difference(after, before) > 0.01


def test_filters_are_laid_out_for_small_maps_alone():
    fast = optimized(tiny(out_indices=ALL))
    strided, first = fast.stage2[0].conv2, fast.stage1[0].conv2
    for unit in (fast.stage1[0], fast.stage2[0]):
        unit.register_forward_hook(lambda *_: None)  # layers run one by one
    for size, laid_out in ((88, (True, True)), (92, (False, True)), (184, (False, False))):
        with torch.no_grad():
            [fast(torch.randn(1, 3, size, size)) for _ in range(2)]
        found = tuple(conv._seen[1] is not None for conv in (first, strided))
        assert found == laid_out, size  # 484, 529 and 2116 pixels in stage1; a quarter behind it


@pytest.mark.parametrize(("unit", "maps"), [(0, 6), (1, 1.25)])
def test_a_unit_holds_no_map_longer_than_needed(unit, maps):
    config = BitConfig(hidden_sizes=(256,), depths=(2,), out_indices=[1])
    unit = optimized(BitBackbone(config)).stage1[unit]
    x = torch.randn(1, unit.conv1.in_channels, 48, 64).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        # Either the normalised x, the branch and the shortcut, or the first and a narrow branch.
        assert peak_of(lambda: unit(x)) == pytest.approx(maps * x.nbytes, rel=0.03)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_optimized_and_run_under_any_mode(mode):
    backbone = tiny(out_indices=ALL).eval()
    images = torch.randn(1, 3, 64, 64)
    with mode():
        fast = optimized(backbone)
        with torch.inference_mode():
            [fast(images) for _ in range(3)]
        found = fast(images)
        assert largest_difference(found, backbone(images)) < 1e-5


def test_empty_batches_and_autocast():
    backbone = tiny(out_indices=ALL).eval()
    fast = optimized(backbone)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert fast(images[:0])["stage1"].shape[0] == 0
        with torch.autocast("cpu", torch.bfloat16):
            assert largest_difference(fast(images), backbone(images)) < 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("padding", PADDINGS)
def test_compilers_tracers_and_exporters(padding):
    torch.compiler.reset()
    backbone = tiny(global_padding=padding, out_indices=(0, 2, 4), depths=(2, 1, 1, 1)).eval()
    fast = optimized(backbone)
    images = torch.randn(1, 3, 171, 163)
    with torch.no_grad():
        exported = torch.export.export(fast, (images,))
        assert not any("bit_backbone" in str(node.target) for node in exported.graph.nodes)
        others = {
            "script": torch.jit.script(fast),
            "trace": torch.jit.trace(fast, images, strict=False),
            "export": exported.module(),
            "fx": torch.fx.symbolic_trace(fast),
            "dynamo": torch.compile(fast, backend="aot_eager", fullgraph=True),
        }
        expected = backbone(images)
        for name, other in others.items():
            assert largest_difference(other(images), expected) < 1e-5, name


@pytest.mark.slow
def test_compiled_by_inductor():
    torch.compiler.reset()
    backbone = tiny(out_indices=ALL, depths=(2, 2, 1, 1), hidden_act="gelu").eval()
    fast = optimized(backbone, compile=True)
    torch._dynamo.utils.counters.clear()
    check_equal(fast, backbone, sizes=((171, 163), (171, 163), (168, 174)))
    # One graph for a single image and one for more of them, of any size.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    check_equal(fast, backbone, sizes=((64, 80),))
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()


def test_every_tap_survives_the_sums_in_place():
    """Outputs of stages, and a detector's own use of them, must not be overwritten later."""
    backbone = tiny(out_indices=ALL, depths=(2, 2, 2, 2)).eval()
    fast = optimized(backbone)
    copies = {}
    for name in backbone.out_features:
        fast.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: copies.update({name: o.clone()})
        )
    with torch.no_grad():
        found = fast(torch.randn(1, 3, 64, 64))
    assert all(torch.equal(found[name], copies[name]) for name in found)


_KEEP = """
import torch, resource
from bit_backbone import keep_pages
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
assert keep_pages() is True
faults()  # the heap grows, once or a few times
after = faults()
assert after < before / 4, (before, after)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_pages_are_kept():
    done = subprocess.run([sys.executable, "-c", _KEEP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("keep", "calls"), [(True, 1), (False, 0)])
def test_keep_pages_asks_the_allocator(monkeypatch, keep, calls):
    asked = []
    name = "bit_backbone.inference.optimize.keep_pages_of_process"
    monkeypatch.setattr(name, lambda: asked.append(True))
    optimize_for_inference(tiny(), keep_pages=keep)
    assert len(asked) == calls


def test_pages_of_other_c_libraries_are_left_alone(monkeypatch):
    from bit_backbone.inference import allocator as pages

    monkeypatch.setattr(pages.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert pages.keep_pages.__wrapped__() is False


def test_a_deep_network_is_as_exact_as_the_original():
    backbone = BitBackbone("R50x1", out_indices=[1, 2, 3, 4]).eval()
    images = torch.rand(1, 3, 128, 100) * 2 - 1
    with torch.no_grad():
        exact = copy.deepcopy(backbone).double()(images.double())
        found, plain = optimized(backbone)(images), backbone(images)
    for name, level in exact.items():
        errors = [(maps[name] - level).abs().max() for maps in (found, plain)]
        assert errors[0] < 2 * errors[1], name


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_hooks_on_convolutions_see_and_replace_what_they_return(name):
    backbone = tiny(depths=(2, 1, 1, 1), out_indices=(1,)).eval()
    images, seen = torch.randn(1, 3, 128, 128), []

    def halve(module, args, output):
        seen.append(output)
        return output / 2

    backbone.stage1[1].get_submodule(name).register_forward_hook(halve)
    fast = optimized(backbone)
    with torch.no_grad():
        found, expected = fast(images), backbone(images)
    assert largest_difference(found, expected) < 1e-5
    torch.testing.assert_close(*seen, rtol=1e-4, atol=1e-4)


def replace_projection(stage):
    stage[0].downsample = nn.Identity()


def remove_projection(stage):
    stage[0].downsample = None


@pytest.mark.parametrize(
    ("change", "feature_norm"),
    [
        (replace_projection, "none"),
        (replace_projection, "preact"),
        (remove_projection, "none"),
        (remove_projection, "preact"),
    ],
)
def test_a_changed_shortcut_leaves_the_tap_before_it_alone(change, feature_norm):
    backbone = tiny(
        feature_norm=feature_norm,
        hidden_sizes=(16, 64, 128, 256),
        depths=(2, 1, 1, 1),
        out_indices=ALL,
    ).eval()
    change(backbone.stage1)
    check_equal(optimized(backbone), backbone, sizes=SIZES[:1])


def test_a_compiled_model_refuses_new_weights():
    backbone = tiny(hidden_act="gelu")
    fast = optimized(backbone, compile=True)
    with pytest.raises(ValueError, match=r"compile=True are part of its code: load weights into"):
        nn.Sequential(fast).load_state_dict(nn.Sequential(backbone).state_dict())
