"""The estimate of a training step's memory, against measured steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from measured_memory import CONFIG, SHAPE, measured

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.cli import main
from bit_backbone.torchvision import fasterrcnn_bit_fpn
from bit_backbone.training.memory import (
    OPTIMIZERS,
    TrainingOptions,
    backbone_step,
    detector_step,
    training_memory,
)

TESTS = Path(__file__).parents[1]
LIMIT = 0.15


def backbone(config: BitConfig = CONFIG) -> BitBackbone:
    return BitBackbone(config)


def measured_backbone(config: BitConfig, shape: tuple, options: TrainingOptions) -> int:
    model = BitBackbone(config).train()
    model.set_grad_checkpointing(options.grad_checkpointing)
    model.set_activation_recompute(options.activation_recompute)
    optimizer = OPTIMIZERS[options.optimizer](model.parameters())
    images = torch.zeros(shape)
    step = measured(model, optimizer, lambda: backbone_step(model, images), amp=options.amp)
    return step + images.nbytes


@pytest.mark.parametrize("options", [
    {},
    {"grad_checkpointing": True},
    {"activation_recompute": True},
    {"amp": True},
    {"amp": True, "grad_checkpointing": True, "optimizer": "adamw"},
])  # fmt: skip
def test_the_estimate_is_what_a_step_takes(options: dict) -> None:
    options = TrainingOptions(**options, gpu=False)
    estimate = training_memory(backbone, SHAPE, options)
    assert estimate.peak == pytest.approx(measured_backbone(CONFIG, SHAPE, options), rel=0.05)


def test_the_estimate_sees_activations_that_are_recomputed() -> None:
    kept, made = (
        training_memory(backbone, SHAPE, TrainingOptions(activation_recompute=enable, gpu=False))
        for enable in (False, True)
    )
    assert made.activations < 0.75 * kept.activations


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["R50x1", "R101x1"])
@pytest.mark.parametrize(("size", "batch"), [((224, 224), 4), ((320, 256), 2)])
@pytest.mark.parametrize("grad_checkpointing", [False, True])
def test_the_estimate_is_what_a_published_network_takes(
    variant: str, size: tuple, batch: int, grad_checkpointing: bool
) -> None:
    config = BitConfig.from_variant(variant, out_indices=[1, 2, 3, 4])
    options = TrainingOptions(grad_checkpointing=grad_checkpointing, gpu=False)
    shape = (batch, 3, *size)
    estimate = training_memory(lambda: backbone(config), shape, options)
    assert estimate.peak == pytest.approx(measured_backbone(config, shape, options), rel=LIMIT)


def test_the_estimate_is_what_a_detector_takes() -> None:
    """Its real step chooses proposals, and codes and matches boxes."""
    torch.manual_seed(0)
    sizes = {"min_size": 256, "max_size": 256}
    model = fasterrcnn_bit_fpn(variant=CONFIG, num_classes=3, **sizes).train()
    boxes = torch.tensor([[20.0, 30, 90, 120], [100, 100, 230, 200]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2])}
    images = [torch.rand(3, 256, 256) for _ in range(2)]

    def loss() -> torch.Tensor:
        return sum(model(images, [target, target]).values())

    optimizer = OPTIMIZERS["sgd"](model.parameters())
    wanted = measured(model, optimizer, loss)
    estimate = training_memory(
        lambda: fasterrcnn_bit_fpn(variant=CONFIG, num_classes=3),
        (2, 3, 256, 256),
        TrainingOptions(gpu=False),
        detector_step,
    )
    assert estimate.peak == pytest.approx(wanted, rel=LIMIT)


def test_the_estimate_is_what_a_sharded_step_takes() -> None:
    estimate = training_memory(backbone, SHAPE, TrainingOptions(processes=2, gpu=False))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [sys.executable, *launcher, str(TESTS / "measured_memory.py")]
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    peaks = [int(line) for line in told.stdout.split() if line.isdecimal()]
    assert len(peaks) == 2
    for peak in peaks:
        assert estimate.peak == pytest.approx(peak, rel=LIMIT)


def test_sharding_divides_what_stays_and_not_what_is_kept_for_backward() -> None:
    one, four = (training_memory(backbone, SHAPE, TrainingOptions(processes=n)) for n in (1, 4))
    for part in ("parameters", "gradients", "optimizer"):
        assert getattr(four, part) == pytest.approx(getattr(one, part) / 4, rel=0.1)
    assert four.activations >= one.activations
    assert four.peak < one.peak


def test_the_parts_are_counted() -> None:
    parameters = sum(p.nbytes for p in backbone().parameters())
    adam = training_memory(backbone, SHAPE, TrainingOptions(optimizer="adamw"))
    assert adam.parameters == adam.gradients == parameters
    assert adam.optimizer == pytest.approx(2 * parameters, rel=1e-3)
    assert adam.peak > adam.activations + adam.parameters


def test_group_norms_in_float32_are_put_back() -> None:
    before = torch.group_norm
    plain = training_memory(backbone, SHAPE, TrainingOptions(amp=True, gpu=False))
    gpu = training_memory(backbone, SHAPE, TrainingOptions(amp=True))
    assert gpu.activations > plain.activations
    assert torch.group_norm is before


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"optimizer": "lion"}, SHAPE, "optimizer must be one of sgd, adamw, got 'lion'"),
        ({"processes": 0}, SHAPE, "processes must be at least 1, got 0"),
        ({}, (2, 3, 0, 5), r"must be at least 1, got \(2, 3, 0, 5\)"),
    ],
)
def test_bad_requests_are_rejected(options: dict, shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training_memory(backbone, shape, TrainingOptions(**options))


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ([], "kept for backward"),
        (["--amp", "--grad-checkpointing", "--optimizer", "adamw"], "bfloat16, checkpointing"),
        (["--detector", "--processes", "4"], "Faster R-CNN, FSDP over 4"),
        (["--activation-recompute"], "float32, recomputed norms"),
    ],
)
def test_info_prints_the_estimate(extra: list[str], told: str, capsys) -> None:
    assert main(["info", "R50x1", "--train", "--image-size", "128", "--batch", "2", *extra]) == 0
    printed = capsys.readouterr().out
    assert told in printed
    assert "at the peak" in printed


def test_info_estimates_the_detector_that_the_builder_of_that_name_builds(capsys) -> None:
    assert main(["info", "R50x1", "--train", "--detector", "--image-size", "128"]) == 0
    built = training_memory(
        lambda: fasterrcnn_bit_fpn(variant="R50x1"),
        (1, 3, 128, 128),
        TrainingOptions(),
        detector_step,
    )
    assert f"{built.peak / 2**30:8.2f} GiB  at the peak" in capsys.readouterr().out


def test_training_options_need_train(capsys) -> None:
    assert main(["info", "R50x1", "--grad-checkpointing"]) == 2
    assert "--grad-checkpointing needs --train" in capsys.readouterr().err


def test_an_estimate_for_fsdp_leaves_a_process_group_that_exists_alone(tmp_path) -> None:
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="makes a process group of its own; one exists"):
            training_memory(backbone, SHAPE, TrainingOptions(processes=2))
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()
