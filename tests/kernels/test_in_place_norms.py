"""Norms write over their input only where nobody but the unit can hold it."""

import threading

import pytest
import torch
from torch import nn

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
