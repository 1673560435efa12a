"""Costs counted without allocating, against the same costs counted by running."""

import gc
import warnings

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bit_backbone.backbone import BitBackbone
from bit_backbone.config import BitConfig
from bit_backbone.kernels import native
from bit_backbone.profiling import StageTimer, profile
from bit_backbone.profiling.live_bytes import LiveBytes

SMALL = {
    "embedding_size": 16,
    "hidden_sizes": (32, 64, 128, 256),
    "depths": (1, 2, 1, 1),
    "num_groups": 8,
}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"out_indices": [0]},
        {"out_indices": [1, 2], "output_stride": 4},
        {"global_padding": "same", "feature_norm": "preact"},
        {"layer_type": "bottleneck", "output_stride": 16},
    ],
)
def test_operations_and_shapes_equal_those_of_a_real_forward(overrides):
    config = BitConfig(**SMALL, **overrides)
    counted = profile(config, (97, 65), batch=2, dtype=torch.float32)
    backbone = BitBackbone(config)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        features = backbone(torch.zeros(2, 3, 97, 65))
    assert counted.macs * 2 == flops.get_total_flops()
    assert counted.shapes == {name: tuple(f.shape) for name, f in features.items()}
    assert counted.parameters == sum(p.numel() for p in backbone.parameters())


def test_operations_equal_fvcores_own_count_of_the_traced_network():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis
    config = BitConfig(**SMALL)
    analysis = FlopCountAnalysis(BitBackbone(config), torch.zeros(1, 3, 64, 64))
    analysis.unsupported_ops_warnings(False)
    counted = profile(config, (64, 64), dtype=torch.float32).macs
    assert counted == analysis.by_operator()["conv"]


def test_memory_equals_that_of_real_tensors(monkeypatch):
    # the native kernels keep memory for reuse, a workspace that is not counted
    monkeypatch.setattr(native, "library", lambda: None)
    config = BitConfig(**SMALL)
    counted = profile(config, (96, 64), batch=2, dtype=torch.float32)
    backbone, images = BitBackbone(config), torch.zeros(2, 3, 96, 64)
    with torch.no_grad():
        backbone(images)  # from now on the standardized weights are there
        with LiveBytes(images, *backbone.parameters()) as live:
            backbone(images)
    assert counted.inference_bytes == live.peak


def test_training_memory_counts_each_stored_tensor_once():
    config = BitConfig(**SMALL)
    counted = profile(config, (96, 64), batch=1, dtype=torch.float32)
    backbone = BitBackbone(config)
    parameters = {p.untyped_storage().data_ptr() for p in backbone.parameters()}
    # In this layout, as on GPUs; contiguous projections on a CPU keep the pixels they take, too.
    images = torch.zeros(1, 3, 96, 64).to(memory_format=torch.channels_last)
    parameters.add(images.untyped_storage().data_ptr())
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        outputs = backbone(images)
    assert counted.training_bytes == sum(storage.nbytes() for storage in kept.values())
    del outputs


def test_memory_grows_with_the_batch_and_halves_with_half_precision():
    config = BitConfig(**SMALL)
    one = profile(config, (256, 256), dtype=torch.float32)
    many = profile(config, (256, 256), batch=8, dtype=torch.float32)
    half = profile(config, (256, 256), dtype=torch.bfloat16)
    assert many.macs == 8 * one.macs
    assert many.inference_bytes == pytest.approx(8 * one.inference_bytes, rel=0.01)
    assert 6 < many.training_bytes / one.training_bytes <= 8
    # weights are standardized in float32, so a little more than half
    assert 0.4 < half.training_bytes / one.training_bytes < 0.8


def test_the_largest_variant_is_profiled_without_allocating_it():
    gc.collect()
    config = BitConfig.from_variant("R152x4", out_indices=[1, 2, 3, 4])
    costs = profile(config, (224, 224), dtype=torch.float32)
    # the published 936.53 M less the final norm and the head of 1000 classes
    assert costs.parameters / 1e6 == pytest.approx(
        936.53 - (2 * 8192 + 8193 * 1000) / 1e6, abs=5e-3
    )
    assert costs.shapes["stage4"] == (1, 8192, 7, 7)


@pytest.mark.parametrize(("size", "batch"), [((0, 5), 1), ((5, -1), 1), ((5, 5), 0)])
def test_sizes_must_be_positive(size, batch):
    with pytest.raises(ValueError, match="must be at least 1, got"):
        profile(BitConfig(**SMALL), size, batch=batch, dtype=torch.float32)


@pytest.mark.parametrize("feature_norm", ["none", "preact", "groupnorm"])
def test_the_timer_sees_every_part_however_stages_are_called(feature_norm):
    backbone = BitBackbone(**SMALL, out_indices=[0, 3], feature_norm=feature_norm)
    timer = StageTimer(backbone)
    backbone(torch.zeros(1, 3, 64, 64))
    assert list(timer.milliseconds) == ["stem", "stage1", "stage2", "stage3"]
    assert all(milliseconds > 0 for milliseconds in timer.milliseconds.values())
