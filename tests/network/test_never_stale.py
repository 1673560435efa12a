"""Whatever writes into a weight, and however: the next forward uses what is there.

Standardization forgets a filter's scale and shift, so every change here is another one.
"""

import concurrent.futures
import copy
import pickle

import pytest
import torch
from networks import ALL, largest_difference, tiny
from torch import nn
from torch.nn import functional as F

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


def write_into_a_view(conv):
    conv.weight.detach().view(-1).copy_(other(conv.weight).view(-1))


def write_with_numpy(conv):
    conv.weight.detach().numpy()[...] = other(conv.weight).numpy()


def average(conv):
    """As torch.optim.swa_utils.AveragedModel and DINO's teacher update their copies."""
    conv.weight.data.mul_(0.5).add_(other(conv.weight), alpha=0.5)


def _write(weight):
    with torch.no_grad():
        weight.mul_(other(weight))


def write_in_another_process(conv):
    conv.share_memory()
    process = torch.multiprocessing.get_context("spawn").Process(
        target=_write, args=(conv.weight.detach(),)
    )
    process.start()
    process.join()
    assert process.exitcode == 0


CHANGES = {
    "add_": without_grad(lambda w: w.add_(other(w))),
    "copy_": without_grad(lambda w: w.copy_(other(w))),
    "copy_ of a view": write_into_a_view,
    "NumPy": write_with_numpy,
    "another process": write_in_another_process,
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
    "data.mul_": lambda conv: conv.weight.data.mul_(other(conv.weight)),
    "data averaged": average,
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


def fresh(conv, x):
    weight = standardize(conv.weight.detach().clone(), conv.eps)
    return F.conv2d(x.to(weight.dtype), weight, padding=1)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_never_stale(situation, change):
    conv, x = StdConv2d(4, 8, 3), torch.randn(2, 4, 6, 6)
    mode = situation(conv)
    with mode:
        before = conv(x)
        assert torch.equal(before, fresh(conv, x))
    CHANGES[change](conv)
    for _ in range(2):
        with mode:
            after = conv(x.to(conv.weight.dtype))
        torch.testing.assert_close(after, fresh(conv, x), rtol=0, atol=0)
    if change not in ("double", "channels_last", "share_memory", "requires_grad"):
        assert not torch.equal(before, after.to(before.dtype)), "the change changed nothing"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_forward_leaves_nothing_on_the_layer(mode):
    conv = StdConv2d(4, 8, 3).eval()
    before = set(vars(conv))
    with mode():
        conv(torch.randn(1, 4, 5, 5))
    assert set(vars(conv)) == before


def dino_steps(student, teacher, images, count=2):
    """Trains as DINO does: the teacher is an average of students, made through ``.data``."""
    optimizer = torch.optim.SGD(student.parameters(), lr=10.0)
    losses = []
    for _ in range(count):
        with torch.no_grad():
            target = teacher(images)["stage4"].mean((2, 3)).softmax(1)
        found = student(images)["stage4"].mean((2, 3)).log_softmax(1)
        loss = -(target * found).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for own, averaged in zip(student.parameters(), teacher.parameters(), strict=True):
            averaged.data.mul_(0.9).add_(0.1 * own.detach().data)
        losses.append(loss.item())
    with torch.no_grad():
        return losses, teacher(images)["stage4"]


class Plain(nn.Conv2d):
    """A convolution that standardizes by the formula."""

    def forward(self, x):
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), correction=0, keepdim=True)
        weight = (self.weight - mean) / (variance + self.eps).sqrt()
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation)


@pytest.mark.parametrize("train", [False, True])
def test_two_steps_of_dino_equal_those_of_plain_functions(train):
    images = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    student = tiny().double().train()
    teacher = copy.deepcopy(student).requires_grad_(False).train(train)
    plain = copy.deepcopy(student), copy.deepcopy(teacher)
    for network in plain:
        for module in network.modules():
            if isinstance(module, StdConv2d):
                module.__class__ = Plain
    losses, features = dino_steps(student, teacher, images)
    expected_losses, expected_features = dino_steps(*plain, images)
    assert losses == pytest.approx(expected_losses, abs=1e-6)
    torch.testing.assert_close(features, expected_features, rtol=1e-6, atol=1e-6)
    assert losses[0] != losses[1]


def test_averaged_models_follow_their_model():
    model, x = tiny().eval(), torch.randn(1, 3, 33, 33)
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    with torch.no_grad():
        for _ in range(3):
            for weight in model.parameters():
                weight.mul_(other(weight))
            averaged.update_parameters(model)
            expected = tiny().eval()
            expected.load_state_dict(averaged.module.state_dict())
            assert largest_difference(averaged(x), expected(x)) == 0


def _receive(rank, store, results):
    torch.distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    # five channels: the stem's gains are a buffer, which each forward broadcasts
    backbone, x = tiny(num_channels=5), torch.ones(1, 5, 33, 33)
    with torch.no_grad():
        backbone.stem.conv.gain.uniform_(1, 2)
    parallel = nn.parallel.DistributedDataParallel(backbone.train())
    for _ in range(2):
        with torch.no_grad():
            backbone.stem.conv.gain.mul_(torch.rand(16, 1, 1, 1) + 1)
        features = parallel(x)["stage4"]
    results[rank].copy_(features.detach())
    torch.distributed.destroy_process_group()


def test_buffers_that_ddp_broadcasts_are_used(tmp_path):
    results = [torch.zeros(1, 256, 2, 2).share_memory_() for _ in range(2)]
    torch.multiprocessing.spawn(_receive, (str(tmp_path / "store"), results), nprocs=2)
    assert results[0].abs().sum() > 0
    assert torch.equal(*results)


def test_copies_and_files_are_networks_of_their_own():
    conv, x = StdConv2d(4, 8, 3).eval().requires_grad_(False), torch.randn(1, 4, 5, 5)
    before = conv(x)
    twin, read = copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))
    assert list(conv.state_dict()) == ["weight"]
    for module in (twin, read):
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
    assert torch.equal(conv(x), fresh(conv, x))


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
    torch.testing.assert_close(transform(backbone, x), first)


def test_inside_torch_compile_weights_are_never_stale():
    backbone, x = tiny(out_indices=ALL).eval().requires_grad_(False), torch.randn(1, 3, 33, 33)
    with torch.no_grad():
        backbone(x)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        assert largest_difference(compiled(x), copy.deepcopy(backbone)(x)) < 1e-5
        for weight in backbone.parameters():
            weight.mul_(other(weight))


def test_many_threads_share_a_network():
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
    torch.testing.assert_close(conv(x), fresh(conv, x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")
def test_training_out_of_sight_does_not_leave_old_weights():
    conv, x = StdConv2d(4, 8, 3), torch.randn(1, 4, 5, 5)
    with torch.no_grad():
        conv(x)  # in training mode: a look at the features between two steps
    optimizer = torch.optim.AdamW(conv.parameters(), lr=1.0, fused=True)
    torch.jit.script(conv)(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(conv(x), fresh(conv, x))
