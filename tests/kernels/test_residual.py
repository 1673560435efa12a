"""What hooks see of a network stays as they saw it, and nothing else costs memory."""

import pytest
import torch
from networks import KINDS, tiny
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bit_backbone.network.layers import DropPath, GroupNormAct
from bit_backbone.network.std_conv import StdConv2d


@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
@pytest.mark.parametrize("everywhere", [True, False], ids=["global hook", "hooks of modules"])
def test_what_a_hook_holds_is_not_overwritten(layer_type, feature_norm, everywhere):
    backbone = tiny(layer_type=layer_type, feature_norm=feature_norm, drop_path_rate=0.2).eval()
    held = []

    def hold(module, inputs, output):
        if isinstance(module, StdConv2d | GroupNormAct | DropPath):
            held.append((output, output.clone()))

    watched = [] if everywhere else list(backbone.modules())
    handles = [module.register_forward_hook(hold) for module in watched]
    if everywhere:
        handles.append(nn.modules.module.register_module_forward_hook(hold))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 33, 33))
    for handle in handles:
        handle.remove()
    assert len(held) > 20
    assert all(torch.equal(now, then) for now, then in held)


class Kept(nn.Identity):
    """A user's activation, which keeps what it returns."""

    def forward(self, x):
        self.held = x, x.clone()
        return x


@pytest.mark.parametrize("hooked", [True, False], ids=["a hook", "a module of the user's"])
def test_what_the_last_activation_alone_lets_somebody_hold_is_not_overwritten(hooked):
    backbone = tiny(layer_type="bottleneck", out_indices=(1,)).eval()
    norm, held = backbone.stage1[-1].norm3, []
    if hooked:
        norm.act.register_forward_hook(lambda _, __, y: held.extend((y, y.clone())))
    else:
        norm.act = Kept()
    with torch.no_grad():
        backbone(torch.randn(1, 3, 33, 33))
    assert torch.equal(*(held or norm.act.held))


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_backward_hooks_of_what_makes_the_branch(layer_type):
    """Their outputs are views, into which autograd lets nobody write."""
    backbone = tiny(layer_type=layer_type)
    seen = []
    for name, module in backbone.named_modules():
        if name.endswith(("conv3", "norm3", "drop_path")):
            module.register_full_backward_hook(lambda *_, name=name: seen.append(name))
    backbone(torch.randn(1, 3, 33, 33))["stage4"].sum().backward()
    assert {name.rpartition(".")[2] for name in seen} == {"conv3", "norm3", "drop_path"}


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_the_residual_sum_takes_no_memory_of_its_own(layer_type):
    backbone = tiny(layer_type=layer_type).eval()
    sums = []

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            is_sum = function in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
            if is_sum and args[0].ndim == 4:
                sums.append(function)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Recorder():
        backbone(torch.randn(1, 3, 33, 33))
    assert sums == [torch.ops.aten.add_.Tensor] * sum(backbone.config.depths)


def test_a_module_in_the_place_of_a_convolution_keeps_what_it_returns():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = torch.randn(1, 32, 9, 9)

        def forward(self, x):
            return self.value

    backbone = tiny(out_indices=(1,)).eval()
    backbone.stage1[-1].conv3 = constant = Constant()
    before = constant.value.clone()
    with torch.no_grad():
        backbone(torch.randn(1, 3, 33, 33))
    assert torch.equal(constant.value, before)


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_a_unit_without_its_last_norm_runs(layer_type):
    backbone = tiny(layer_type=layer_type, out_indices=(1,)).eval()
    backbone.stage1[-1].norm3 = nn.Identity()
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 33, 33))["stage1"].isfinite().all()
