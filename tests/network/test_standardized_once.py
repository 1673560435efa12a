"""Kept standardized weights: computed once while nothing changes, and never stale.

Standardization forgets a filter's scale and shift, so every change here is another one.
"""

import concurrent.futures
import copy
import gc
import pickle
import weakref

import pytest
import torch
from networks import ALL, largest_difference, tiny
from torch import nn
from torch.nn import functional as F

from bit_backbone.network import std_conv as convolution
from bit_backbone.network.std_conv import StdConv2d, standardize


def frozen(conv):
    """Training with the weight frozen: gradients are on, none reaches the weight."""
    conv.train()
    conv.weight.requires_grad_(False)
    return torch.enable_grad()


def evaluating(conv):
    conv.eval()
    return torch.no_grad()


def inferring(conv):
    conv.eval()
    return torch.inference_mode()


SITUATIONS = [frozen, evaluating, inferring]


def other(weight):
    return torch.randn_like(weight)


def without_grad(change):
    def changed(conv):
        with torch.no_grad():
            change(conv.weight)

    return changed


def stepped(optimizer, **options):
    def changed(conv):
        conv.weight.grad = other(conv.weight)
        optimizer([conv.weight], **options).step()

    return changed


def stepped_after_a_look(optimizer, **options):
    """The gradient is there, the model is looked at, and only then the step comes."""

    def changed(conv):
        conv.weight.grad = other(conv.weight)
        with torch.no_grad():
            conv(torch.ones(1, 4, 5, 5, dtype=conv.weight.dtype))
        optimizer([conv.weight], **options).step()
        conv.weight.grad = None

    return changed


def trained(conv):
    """A whole step, with the mode left as it is; fused optimizers leave the version alone."""
    wanted = conv.weight.requires_grad
    conv.weight.requires_grad_(True)
    with torch.inference_mode(False), torch.enable_grad():
        conv(torch.randn(1, 4, 5, 5)).square().sum().backward()
    torch.optim.SGD([conv.weight], lr=1.0, fused=True).step()
    conv.weight.grad = None
    conv.weight.requires_grad_(wanted)


def set_data(conv):
    conv.weight.data = other(conv.weight)


def swap_data_back_and_forth(conv):
    """As exponential averages are swapped in for an evaluation and out again."""
    before = conv.weight.data
    conv.weight.data = other(conv.weight)
    with torch.no_grad():
        conv(torch.ones(1, 4, 5, 5))
    conv.weight.data = before.mul_(other(before))


def write_through_data(mode):
    def changed(conv):
        conv.weight.data.mul_(other(conv.weight))
        getattr(conv, mode)()

    return changed


def load(assign):
    def changed(conv):
        conv.load_state_dict({"weight": other(conv.weight)}, assign=assign)

    return changed


def in_inference_mode(conv):
    with torch.inference_mode():
        conv.weight.mul_(other(conv.weight))


def swap_tensors(conv):
    torch.utils.swap_tensors(conv.weight, nn.Parameter(other(conv.weight), False))


def to_empty(conv):
    conv.to_empty(device="cpu")
    nn.init.normal_(conv.weight)


CHANGES = {
    "add_": without_grad(lambda w: w.add_(other(w))),
    "copy_": without_grad(lambda w: w.copy_(other(w))),
    "nn.init": without_grad(nn.init.orthogonal_),
    "foreach": without_grad(lambda w: torch._foreach_lerp_([w], [other(w)], 0.5)),
    "one element": without_grad(lambda w: w[0, 0, 0, 0].fill_(9.0)),
    "detach": lambda conv: conv.weight.detach().mul_(other(conv.weight)),
    "inference_mode": in_inference_mode,
    "SGD": stepped(torch.optim.SGD, lr=1.0),
    "SGD fused": stepped(torch.optim.SGD, lr=1.0, fused=True),
    "AdamW foreach": stepped(torch.optim.AdamW, lr=1.0, foreach=True),
    "AdamW fused": stepped(torch.optim.AdamW, lr=1.0, fused=True),
    "look, SGD fused": stepped_after_a_look(torch.optim.SGD, lr=1.0, fused=True),
    "training step": trained,
    "data =": set_data,
    "data swapped": swap_data_back_and_forth,
    "data.mul_, eval": write_through_data("eval"),
    "data.mul_, train": write_through_data("train"),
    "load_state_dict": load(assign=False),
    "load_state_dict assign": load(assign=True),
    "new parameter": lambda conv: setattr(conv, "weight", nn.Parameter(other(conv.weight), False)),
    "swap_tensors": swap_tensors,
    "to_empty": to_empty,
    "double": lambda conv: conv.double(),
    "half": lambda conv: conv.half(),
    "bfloat16": lambda conv: conv.to(torch.bfloat16),
    "channels_last": lambda conv: conv.to(memory_format=torch.channels_last),
    "share_memory": lambda conv: conv.share_memory(),
    "requires_grad": lambda conv: conv.requires_grad_(not conv.weight.requires_grad),
}


def uncached(conv, x):
    weight = standardize(conv.weight.detach().clone(), conv.eps)
    return F.conv2d(x.to(weight.dtype), weight, padding=1)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_never_stale(situation, change):
    conv, x = StdConv2d(4, 8, 3), torch.randn(2, 4, 6, 6)
    mode = situation(conv)
    with mode:
        before = conv(x)
        assert torch.equal(before, uncached(conv, x))
        assert conv._kept is not None
    CHANGES[change](conv)
    for _ in range(2):
        with situation(conv) if change.startswith("data.mul_") else mode:
            after = conv(x.to(conv.weight.dtype))
        torch.testing.assert_close(after, uncached(conv, x), rtol=0, atol=0)
    if change not in ("double", "channels_last", "share_memory", "requires_grad"):
        assert not torch.equal(before, after.to(before.dtype)), "the change changed nothing"


class Counter:
    """Counts standardizations, by the weight that they are of."""

    def __init__(self, monkeypatch):
        self.calls = {}
        monkeypatch.setattr(convolution, "standardize", self)

    def __call__(self, weight, eps):
        self.calls[weight.data_ptr()] = self.calls.get(weight.data_ptr(), 0) + 1
        return standardize(weight, eps)

    def of(self, module):
        convs = [m for m in module.modules() if isinstance(m, StdConv2d)]
        return {self.calls.get(conv.weight.data_ptr(), 0) for conv in convs}


def test_frozen_stages_are_standardized_once_in_training_and_the_rest_each_time(monkeypatch):
    counter = Counter(monkeypatch)
    backbone = tiny().train().freeze(2)
    optimizer = torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1)
    for _ in range(4):
        backbone(torch.randn(1, 3, 33, 33))["stage4"].square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counter.of(backbone.stem) == counter.of(backbone.stage1) == {1}
    assert counter.of(backbone.stage2) == counter.of(backbone.stage4) == {4}
    kept = [m._kept is not None for m in backbone.modules() if isinstance(m, StdConv2d)]
    assert sum(kept) == 5  # the stem's, and stage1's four


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_evaluation_standardizes_once(monkeypatch, mode):
    counter = Counter(monkeypatch)
    backbone = tiny().eval()
    with mode():
        for size in (33, 64, 33):
            backbone(torch.randn(1, 3, size, size))
    assert counter.of(backbone) == {1}


def test_training_keeps_nothing(monkeypatch):
    counter = Counter(monkeypatch)
    backbone = tiny()
    for _ in range(3):
        backbone(torch.randn(1, 3, 33, 33))
    assert counter.of(backbone) == {3}
    assert all(m._kept is None for m in backbone.modules() if isinstance(m, StdConv2d))


@pytest.mark.parametrize("forget", ["train", "eval", "float", "forward with gradients"])
def test_kept_weights_are_let_go(forget):
    conv = StdConv2d(4, 8, 3).eval()
    with torch.no_grad():
        conv(torch.randn(1, 4, 5, 5))
    kept = weakref.ref(conv._kept[2])
    if forget == "forward with gradients":
        conv(torch.randn(1, 4, 5, 5))
    else:
        getattr(conv, forget)()
    gc.collect()
    assert kept() is None


def test_copies_and_files_hold_no_kept_weight():
    conv, x = StdConv2d(4, 8, 3).eval().requires_grad_(False), torch.randn(1, 4, 5, 5)
    before = conv(x)
    twin, read = copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))
    assert list(conv.state_dict()) == ["weight"]
    for module in (twin, read):
        assert module._kept is None
        assert torch.equal(module(x), before)
        module.weight.mul_(other(module.weight))
        assert not torch.equal(module(x), before)
    assert torch.equal(conv(x), before)


def test_freezing_and_unfreezing_between_training_steps():
    backbone, x = tiny(), torch.randn(2, 3, 33, 33)
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, fused=True)
    for at in (0, 2, 5, 0, 3, 0):
        backbone.freeze(at)
        optimizer.zero_grad()
        features = backbone(x)
        fresh = copy.deepcopy(backbone)(x)
        assert largest_difference(features, fresh) == 0
        if at < 5:
            features["stage4"].square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert largest_difference(backbone(x), copy.deepcopy(backbone)(x)) == 0


def test_frozen_weights_met_in_inference_mode_can_be_trained_through():
    backbone, x = tiny().freeze(3), torch.randn(1, 3, 33, 33)
    with torch.inference_mode():
        backbone(x)
    pixels = x.clone().requires_grad_()
    backbone(pixels)["stage4"].sum().backward()
    assert pixels.grad.abs().sum() > 0
    assert backbone.stage4[0].conv1.weight.grad is not None


def test_autocast_keeps_the_exact_weight():
    conv, x = StdConv2d(4, 8, 3).eval().requires_grad_(False), torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert torch.equal(conv(x), uncached(conv, x))


def test_functional_call_uses_the_weights_that_it_is_given():
    conv, x = StdConv2d(4, 8, 3).eval().requires_grad_(False), torch.randn(1, 4, 6, 6)
    before = conv(x)
    for wrap in (lambda t: t, nn.Parameter):
        weight = wrap(other(conv.weight))
        found = torch.func.functional_call(conv, {"weight": weight}, (x,))
        assert torch.equal(found, F.conv2d(x, standardize(weight, conv.eps), padding=1))
        assert torch.equal(conv(x), before)


def test_vmap_over_an_ensemble():
    members, x = [tiny().eval().requires_grad_(False) for _ in range(3)], torch.randn(1, 3, 33, 33)
    for member in members:
        member(x)
    weights, buffers = torch.func.stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def call(weights, buffers):
        return torch.func.functional_call(base, (weights, buffers), (x,))["stage4"]

    found = torch.func.vmap(call)(weights, buffers)
    expected = torch.stack([member(x)["stage4"] for member in members])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def gradient(backbone, x):
    return torch.func.grad(lambda x: backbone(x)["stage4"].square().mean())(x)


def tangent(backbone, x):
    return torch.func.jvp(lambda x: backbone(x)["stage4"], (x,), (x,))[1]


def mapped(backbone, x):
    return torch.func.vmap(lambda x: backbone(x[None])["stage4"])(x)


def traced_with_fakes(backbone, x):
    from torch.fx.experimental.proxy_tensor import make_fx

    trace = make_fx(
        lambda x: backbone(x)["stage4"], tracing_mode="symbolic", _allow_non_fake_inputs=True
    )
    return trace(x)(x)


@pytest.mark.parametrize("transform", [gradient, tangent, mapped, traced_with_fakes])
def test_what_a_transform_computes_does_not_outlive_it(transform):
    backbone, x = tiny().eval().requires_grad_(False), torch.randn(1, 3, 33, 33)
    expected = copy.deepcopy(backbone)(x)
    first = transform(backbone, x)
    assert largest_difference(backbone(x), expected) == 0
    torch.testing.assert_close(transform(backbone, x), first)  # with kept weights now


def test_inside_torch_compile_weights_are_never_stale():
    backbone, x = tiny(out_indices=ALL).eval().requires_grad_(False), torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        backbone(x)  # keeps weights that the compiled graph must not take for constants
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        assert largest_difference(compiled(x), copy.deepcopy(backbone)(x)) < 1e-5
        for weight in backbone.parameters():
            weight.mul_(other(weight))


def test_many_threads_share_kept_weights():
    backbone = tiny(out_indices=ALL).eval().requires_grad_(False)
    batches = [torch.randn(1, 3, 33, 33 + i) for i in range(16)]
    expected = [copy.deepcopy(backbone)(x) for x in batches]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(backbone, batches))
    assert max(map(largest_difference, found, expected)) == 0


@pytest.mark.parametrize("keep", [slice(0, 4), slice(None, None, 2)])
@pytest.mark.parametrize("replace", ["data", "parameter"])
def test_pruned_filters_are_noticed(keep, replace):
    conv, x = StdConv2d(4, 8, 3).requires_grad_(False), torch.randn(1, 4, 5, 5)
    conv(x)
    pruned = conv.weight.data[keep]
    if replace == "data":
        conv.weight.data = pruned
    else:
        conv.weight = nn.Parameter(pruned, False)
    assert torch.equal(conv(x), uncached(conv, x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_training_out_of_sight_does_not_leave_old_weights():
    """A scripted (or compiled) step passes by what is kept, and a fused one leaves the version."""
    conv, x = StdConv2d(4, 8, 3), torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        conv(x)  # in training mode: a look at the features between two steps
    optimizer = torch.optim.AdamW(conv.parameters(), lr=1.0, fused=True)
    torch.jit.script(conv)(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(conv(x), uncached(conv, x))
