"""Norms write over their input only where nobody but the unit can hold it."""

import threading

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.kernels import in_place_norms, native
from bit_backbone.network import BottleneckUnit, PreActUnit
from bit_backbone.network.std_conv import StdConv2d

pytestmark = pytest.mark.skipif(native.library() is None, reason=native.status())

X = torch.randn(1, 3, 40, 56)
PAIRS = {
    "preactivation": (PreActUnit, {"conv1": "norm2", "conv2": "norm3"}),
    "bottleneck": (BottleneckUnit, {"conv1": "norm1", "conv2": "norm2", "conv3": "norm3"}),
}


def network(layer_type="preactivation"):
    config = BitConfig(
        embedding_size=32, hidden_sizes=(32, 64), depths=(2, 2), num_groups=8,
        layer_type=layer_type, out_indices=(1, 2),
    )  # fmt: skip
    return BitBackbone(config).eval()


def overwritten(backbone, monkeypatch):
    """Which norms of a forward wrote over their input, by name."""
    names = {id(module): name for name, module in backbone.named_modules()}
    found = []
    original = in_place_norms.may_overwrite

    def watch(norm):
        answer = original(norm)
        if answer:
            found.append(names[id(norm)])
        return answer

    monkeypatch.setattr("bit_backbone.kernels.group_norm.may_overwrite", watch)
    with torch.no_grad():
        backbone(X)
    monkeypatch.undo()
    return found


@pytest.mark.parametrize("layer_type", PAIRS)
def test_norms_after_a_units_own_convolutions_overwrite_and_change_no_bit(layer_type, monkeypatch):
    backbone = network(layer_type)
    kind, pairs = PAIRS[layer_type]
    units = [name for name, module in backbone.named_modules() if isinstance(module, kind)]
    expected = {f"{unit}.{norm}" for unit in units for norm in pairs.values()}
    assert set(overwritten(backbone, monkeypatch)) == expected
    with torch.no_grad():
        features = backbone(X)
        monkeypatch.setattr("bit_backbone.kernels.group_norm.may_overwrite", lambda norm: False)
        for name, feature in backbone(X).items():
            assert torch.equal(feature, features[name])


class Keeper(nn.Module):
    """A convolution of a user's that remembers what it returned."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.kept = conv, None

    def forward(self, x):
        self.kept = self.conv(x)
        return self.kept


class Subclass(StdConv2d):
    pass


@pytest.mark.parametrize("layer_type", PAIRS)
@pytest.mark.parametrize("kind", ["hook", "norm's hook", "global hook", "module", "subclass"])
def test_who_may_hold_a_map_finds_it_unchanged(layer_type, kind, monkeypatch):
    backbone = network(layer_type)
    unit = backbone.stage1[1]
    norm = PAIRS[layer_type][1]["conv2"]
    seen = []
    hooks = {
        "hook": lambda: unit.conv2.register_forward_hook(lambda *a: seen.append(a[2])),
        "norm's hook": lambda: getattr(unit, norm).register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0])
        ),
        "global hook": lambda: nn.modules.module.register_module_forward_hook(
            lambda module, _, output: seen.append(output) if module is unit.conv2 else None
        ),
    }
    if kind == "module":
        unit.conv2 = Keeper(unit.conv2)
    elif kind == "subclass":
        unit.conv2.__class__ = Subclass
    handle = hooks[kind]() if kind in hooks else None
    assert f"stage1.1.{norm}" not in overwritten(backbone, monkeypatch)
    with torch.no_grad():
        seen.clear()
        backbone(X)
        kept = unit.conv2.kept if kind == "module" else (seen or [None])[0]
    if handle is not None:
        handle.remove()
    if kept is not None:
        assert kept.min() < 0  # it went through no ReLU


def test_outside_of_a_units_forward_nothing_is_overwritten():
    unit = network().stage1[1]
    x = torch.randn(1, 8, 10, 14)
    before = x.clone()
    entered, leave = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        leave.wait(60)

    unit.norm1.register_forward_hook(hold)
    with torch.no_grad():
        thread = threading.Thread(target=lambda: unit(torch.randn(1, 32, 10, 14)))
        thread.start()
        assert entered.wait(60)
        unit.norm2(x)  # while another thread is inside of the unit
        leave.set()
        thread.join()
        unit.norm2(x)
    assert torch.equal(x, before)


def test_an_error_inside_leaves_nothing_overwritable():
    unit = network().stage1[1]
    with torch.no_grad(), pytest.raises(RuntimeError):
        unit(torch.randn(1, 7, 10, 14))
    assert not in_place_norms.may_overwrite(unit.norm2)


def keeping(function, kept):
    def keep(*arguments):
        kept.append(function(*arguments))
        return kept[-1]

    return keep


@pytest.mark.parametrize("layer_type", PAIRS)
@pytest.mark.parametrize("owner", ["module", "class"])
def test_a_forward_that_was_replaced_may_keep_what_it_returns(layer_type, owner, monkeypatch):
    backbone, kept = network(layer_type), []
    conv = backbone.stage1[1].conv2
    if owner == "module":  # as accelerate does
        monkeypatch.setattr(conv, "forward", keeping(conv.forward, kept))
    else:
        own = StdConv2d.forward
        forward = lambda self, x: keeping(own, kept if self is conv else [])(self, x)  # noqa: E731
        monkeypatch.setattr(StdConv2d, "forward", forward)
    with torch.no_grad():
        backbone(X)
    assert kept[0].min() < 0  # it went through no ReLU


class DispatchKeeper(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten.convolution.default, torch.ops.aten.bmm.default):
            self.kept.append((result, result.clone()))
        return result


class FunctionKeeper(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.conv2d:
            self.kept.append((result, result.clone()))
        return result


@pytest.mark.parametrize("mode", [DispatchKeeper, FunctionKeeper])
def test_a_mode_that_keeps_maps_finds_those_before_norms_unchanged(mode):
    unit = network().stage1[1]
    with torch.no_grad(), mode() as watching:
        unit(torch.randn(1, 32, 10, 14).contiguous(memory_format=torch.channels_last))
    *before_norms, _ = watching.kept  # the sum is written over the last one, for a mode to see
    assert len(before_norms) == 2
    assert all(torch.equal(map_, copy) for map_, copy in before_norms)


def test_what_passes_a_map_on_in_place_of_a_convolution_owns_none():
    unit, seen = network().stage1[1], []
    unit.conv2 = nn.Identity()
    unit.norm2.register_forward_hook(lambda *a: seen.append((a[2], a[2].clone())))
    with torch.no_grad():
        unit(torch.randn(1, 32, 10, 14))
    assert torch.equal(*seen[0])


def test_a_norm_with_two_places_in_a_unit_overwrites_in_neither():
    config = BitConfig(
        embedding_size=32, hidden_sizes=(128,), depths=(1,), num_groups=8, out_indices=(1,)
    )
    unit = BitBackbone(config).eval().stage1[0]
    unit.norm1 = unit.norm2
    x = torch.randn(1, 32, 10, 14)
    before = x.clone()
    with torch.no_grad():
        unit(x)
    assert torch.equal(x, before)
