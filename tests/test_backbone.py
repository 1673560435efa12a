"""BitBackbone: what every selection of outputs holds, reports, computes, freezes and stores."""

import copy
import io
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from networks import ALL, KINDS, TINY, largest_difference, tiny
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bit_backbone.backbone import BitBackbone, FeatureInfo
from bit_backbone.config import BitConfig

ROOT = Path(__file__).parents[1]
STAGES = ("stem", "stage1", "stage2", "stage3", "stage4")
SELECTIONS = [s for n in range(1, 6) for s in itertools.combinations(ALL, n)]


def parents(names) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("indices", SELECTIONS, ids=lambda s: "".join(map(str, s)))
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_every_selection_of_outputs(layer_type, feature_norm, indices):
    backbone = tiny(
        layer_type=layer_type, feature_norm=feature_norm, out_indices=indices, output_stride=16
    )
    features = backbone(torch.randn(2, 3, 64, 96))
    assert tuple(features) == backbone.out_features == tuple(STAGES[i] for i in indices)
    assert backbone.out_indices == indices
    for info, (name, feature) in zip(backbone.feature_info, features.items(), strict=True):
        height, width = 64 // info.stride, 96 // info.stride
        assert feature.shape == (2, info.channels, height, width)
        assert info == FeatureInfo(name, STAGES.index(name), info.channels, info.stride)
    assert backbone.channels == tuple(info.channels for info in backbone.feature_info)
    assert backbone.strides == tuple(info.stride for info in backbone.feature_info)

    sum(f.square().sum() for f in features.values()).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without

    expected = set(STAGES[: indices[-1] + 1])
    expected |= {"none": set(), "preact": {"norm"}, "groupnorm": {"feature_norms"}}[feature_norm]
    assert parents(backbone.state_dict()) == expected
    modules = parents(name for name, _ in backbone.named_modules() if name)
    assert modules == expected


def test_outputs_do_not_depend_on_the_others_asked_for():
    for layer_type, feature_norm in KINDS:
        full = tiny(layer_type=layer_type, feature_norm=feature_norm, out_indices=ALL)
        x = torch.randn(1, 3, 65, 47)
        expected, weights = full(x), full.state_dict()
        for indices in SELECTIONS:
            part = BitBackbone(full.config, out_indices=indices)
            wanted = {n: weights[n] for n in part.state_dict() if not n.startswith("norm.")}
            if feature_norm == "preact" and indices[-1] < 4:
                # what follows the deepest output is the next stage's first norm
                source = f"stage{indices[-1] + 1}.0.norm1"
            else:
                source = "norm"
            for name in ("weight", "bias"):
                if f"norm.{name}" in part.state_dict():
                    wanted[f"norm.{name}"] = weights[f"{source}.{name}"]
            part.load_state_dict(wanted)
            assert largest_difference(part(x), {n: expected[n] for n in part.out_features}) == 0


def test_preactivated_outputs_are_computed_once_where_the_next_stage_runs_anyway():
    backbone = tiny(feature_norm="preact", out_indices=ALL)
    calls = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    backbone(torch.randn(1, 3, 33, 33))
    assert len(calls) == len(set(calls)) == 13


def test_group_norm_outputs_are_normalised_and_not_activated():
    backbone = BitBackbone(BitConfig(**TINY, feature_norm="groupnorm", out_indices=ALL))
    for feature in backbone(torch.randn(2, 3, 64, 64)).values():
        grouped = feature.reshape(2, TINY["num_groups"], -1)
        torch.testing.assert_close(grouped.mean(-1), torch.zeros(2, 8), rtol=0, atol=1e-4)
        assert (feature < 0).any()


def test_one_stage_of_a_big_network_allocates_no_more():
    small = BitBackbone("R152x4", out_indices=[1])
    count = sum(p.numel() for p in small.parameters())
    assert count < 3.6e6  # of 936 million
    with torch.device("meta"):
        features = BitBackbone("R152x4", out_indices=[1])(torch.empty(1, 3, 800, 1333))
    assert features["stage1"].shape == (1, 1024, 200, 334)


def test_ways_to_name_a_network():
    with torch.device("meta"):
        assert BitBackbone().config == BitConfig.from_variant("R50x1")
        assert BitBackbone("R101x3").channels == (6144,)
        assert BitBackbone("bit-m-r50x1", out_indices=(-1,)).out_features == ("stage4",)
        config = BitConfig(**TINY, out_features=["stage1"])
        assert BitBackbone(config).config == config
        changed = BitBackbone(config, out_indices=[0, -1], output_stride=8)
    assert changed.out_features == ("stem", "stage4")
    assert changed.strides == (4, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("R50x2",), "a BiT variant must be one of R50x1"),
        (("R50x1", {"out_indices": [3, 1]}), "ordered shallow to deep"),
        (("R50x1", {"output_stride": 64}), "one of 4, 8, 16, 32, got 64"),
        ((BitConfig(), {"out_features": ["res5"]}), "got 'res5'"),
        ((BitConfig(out_indices=[1]), {"out_indices": []}), "must not be empty"),
    ],
)
def test_wrong_arguments(arguments, message):
    name, overrides = (*arguments, {})[:2]
    with pytest.raises(ValueError, match=message):
        BitBackbone(name, **overrides)


@pytest.mark.parametrize("feature_norm", ["none", "preact", "groupnorm"])
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 64, 64), r"images must be \[N, 3, H, W\], got \[3, 64, 64\]"),
        (torch.zeros(1, 4, 64, 64), r"got \[1, 4, 64, 64\]; BitConfig's num_channels"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating point, got torch.uint8"),
    ],
)
def test_wrong_images(feature_norm, images, message):
    with pytest.raises(ValueError, match=message):
        tiny(feature_norm=feature_norm)(images)


@pytest.mark.parametrize("num_channels", [1, 2, 4, 13])
def test_other_input_channels(num_channels):
    x = torch.randn(1, num_channels, 33, 33)
    assert tiny(num_channels=num_channels)(x)["stage4"].shape == (1, 256, 2, 2)


def frozen_parts(backbone) -> set[str]:
    whole = {}
    for name, parameter in backbone.named_parameters():
        whole.setdefault(name.partition(".")[0], set()).add(parameter.requires_grad)
    assert all(len(wanted) == 1 for wanted in whole.values())
    return {part for part, wanted in whole.items() if wanted == {False}}


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("feature_norm", ["none", "preact", "groupnorm"])
def test_freezing_the_first_parts(feature_norm, at):
    backbone = tiny(feature_norm=feature_norm, out_indices=ALL)
    expected = set(STAGES[:at])
    if feature_norm == "preact" and at == 5:
        expected.add("norm")
    assert backbone.freeze(at) is backbone
    assert frozen_parts(backbone) == expected
    backbone.freeze(5).freeze(at)  # freezing less thaws
    assert frozen_parts(backbone) == expected

    features = backbone(torch.randn(1, 3, 33, 33))
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    if trainable:
        sum(f.square().sum() for f in features.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in trainable)
    assert all(p.grad is None for p in backbone.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("last", "at", "frozen"),
    [(1, 2, False), (1, 3, True), (2, 3, False), (2, 4, True), (0, 1, False), (0, 2, True)],
)
def test_the_norm_behind_a_shallow_output_freezes_with_the_stage_it_is_from(last, at, frozen):
    backbone = tiny(feature_norm="preact", out_indices=[last]).freeze(at)
    assert ("norm" in frozen_parts(backbone)) == frozen


@pytest.mark.parametrize("at", [-1, 6, 2.0, True, "2", None])
def test_freezing_what_is_not_there(at):
    with pytest.raises(ValueError, match=r"freeze\(at\) must be in \[0, 5\].* got"):
        tiny().freeze(at)


def through_pickle(backbone):
    return pickle.loads(pickle.dumps(backbone))


def through_a_file(backbone):
    file = io.BytesIO()
    torch.save(backbone.state_dict(), file)
    file.seek(0)
    twin = BitBackbone(backbone.config)
    twin.load_state_dict(torch.load(file, weights_only=True))
    return twin.train(backbone.training)


@pytest.mark.parametrize("layer_type", ["preactivation", "bottleneck"])
def test_units_that_were_pickled_before_they_had_switches_train(layer_type):
    backbone = tiny(layer_type=layer_type, out_indices=(1,))
    for unit in backbone.stage1:
        for name in ("grad_checkpointing", "activation_recompute", "saved_convolutions"):
            vars(unit).pop(name, None)
    backbone = through_pickle(backbone)
    images = torch.randn(1, 3, 33, 33)
    expected = backbone(images)["stage1"]
    backbone.set_activation_recompute()
    found = backbone(images)["stage1"]
    found.sum().backward()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_a_file])
@pytest.mark.parametrize("padding", [None, "same", "valid"])
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_copies(layer_type, feature_norm, padding, copied):
    backbone = tiny(
        layer_type=layer_type,
        feature_norm=feature_norm,
        global_padding=padding,
        drop_path_rate=0.2,
        out_indices=(1, 3),
    ).eval()
    x = torch.randn(1, 3, 65, 79)
    with torch.no_grad():
        before = backbone(x)  # with kept weights
        twin = copied(backbone)
        assert largest_difference(twin(x), before) == 0
        for parameter in twin.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert largest_difference(twin(x), before) > 0
        assert largest_difference(backbone(x), before) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_half_precision_of_constant_filters_is_finite(layer_type, feature_norm, dtype):
    backbone = tiny(layer_type=layer_type, feature_norm=feature_norm, out_indices=ALL).to(dtype)
    for parameter in backbone.parameters():
        if parameter.ndim == 4:
            nn.init.constant_(parameter, 1e-3)
            nn.init.normal_(parameter[0], std=1e-4)
    for feature in backbone(torch.randn(1, 3, 64, 64, dtype=dtype)).values():
        assert feature.dtype == dtype
        assert feature.isfinite().all()


@pytest.mark.parametrize(("layer_type", "feature_norm"), KINDS)
def test_autocast(layer_type, feature_norm):
    backbone = tiny(layer_type=layer_type, feature_norm=feature_norm, out_indices=ALL)
    x = torch.randn(2, 3, 64, 64)
    expected = backbone(x)
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(x)
        sum(f.float().square().mean() for f in features.values()).backward()
    for name, feature in features.items():
        error = (feature.float() - expected[name]).norm() / expected[name].norm()
        assert error < 0.05
    assert all(p.grad.dtype == torch.float32 for p in backbone.parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in backbone.parameters())


def test_channels_last_is_kept_and_equal():
    backbone = tiny(out_indices=ALL).eval()
    x = torch.randn(2, 3, 65, 47)
    expected = backbone(x)
    twin = copy.deepcopy(backbone).to(memory_format=torch.channels_last)
    features = twin(x.to(memory_format=torch.channels_last))
    assert largest_difference(features, expected) < 1e-5
    for feature in features.values():
        assert feature.is_contiguous(memory_format=torch.channels_last)


def _train_in_parallel(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(0)
    for layer_type, feature_norm in KINDS:
        backbone = tiny(layer_type=layer_type, feature_norm=feature_norm, out_features=["stage2"])
        parallel = DistributedDataParallel(backbone, find_unused_parameters=False)
        optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
        for step in range(3):
            x = torch.randn(1, 3, 33, 33, generator=torch.Generator().manual_seed(2 * step + rank))
            parallel(x)["stage2"].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        total = torch.stack([p.detach().abs().sum() for p in backbone.parameters()])
        both = [torch.empty_like(total) for _ in range(2)]
        dist.all_gather(both, total)
        assert torch.equal(*both)
    dist.destroy_process_group()


def test_data_parallel_training_of_a_shallow_output(tmp_path):
    torch.multiprocessing.spawn(_train_in_parallel, (str(tmp_path / "store"),), nprocs=2)


# Find unused parameters, recompute units, recompute norms, freeze the first parts.
DDP_SETTINGS = [
    (False, True, False, 0),
    (False, False, True, 2),
    (True, False, False, 2),
    (True, True, False, 2),
    (True, False, True, 0),
    (False, True, True, 3),
]


def _gradients(network, backbone, images):
    backbone.zero_grad()
    sum(f.square().mean() for f in network(images).values()).backward()
    return [p.grad.clone() for p in backbone.parameters() if p.requires_grad]


def _compare_with_one_process(rank: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.set_default_dtype(torch.float64)
    for unused, checkpointing, recompute, frozen in DDP_SETTINGS:
        torch.manual_seed(0)
        backbone = tiny(out_indices=(1, 3), depths=(2, 1, 1, 1)).freeze(frozen)
        images = torch.randn(2, 3, 33, 33)
        expected = _gradients(backbone, backbone, images)
        backbone.set_grad_checkpointing(checkpointing)
        backbone.set_activation_recompute(recompute)
        parallel = DistributedDataParallel(backbone, find_unused_parameters=unused)
        for _ in range(2):
            found = _gradients(parallel, backbone, images[rank : rank + 1])
            torch.testing.assert_close(found, expected)
    dist.destroy_process_group()


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    torch.multiprocessing.spawn(_compare_with_one_process, (str(tmp_path / "store"),), nprocs=2)


def test_the_core_imports_no_host():
    code = (
        "import sys\n"
        "for host in ('torchvision', 'detectron2', 'timm', 'transformers'):\n"
        "    sys.modules[host] = None\n"
        "from bit_backbone import backbone, config, network\n"
        "import torch\n"
        "print(*backbone.BitBackbone('R50x1', out_indices=[1])(torch.zeros(1, 3, 8, 8)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stage1\n"), done.stderr
