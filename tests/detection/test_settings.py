"""The settings, augmentation by name, and batches of one orientation."""

import re
from unittest.mock import Mock

import pytest

from bit_backbone.detection.batches import AspectRatioBatches
from bit_backbone.detection.settings import DetectionSettings
from bit_backbone.detection.transforms import train_transforms


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"steps": 9, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 9, "warmup_steps": 9}, "warmup_steps must be less than steps, 9, got 9"),
        ({"steps": 9, "base_lr": 0.0}, "base_lr must be a positive number, got 0.0"),
        ({"steps": 9, "base_lr": float("nan")}, "base_lr must be a positive number, got nan"),
        ({"steps": 9, "momentum": 1.0}, "momentum must lie in [0, 1), got 1.0"),
        ({"steps": 9, "clip_norm": -1.0}, "clip_norm must be at least 0, got -1.0"),
        ({"steps": 9, "optimizer": "lion"}, "optimizer must be one of sgd, adamw, got 'lion'"),
        ({"steps": 9, "fsdp": True, "channels_last": True}, "which channels_last does not have"),
        (
            {"steps": 9, "precision": "int8"},
            "precision must be one of float32, bfloat16, got 'int8'",
        ),
    ],
)
def test_a_wrong_setting_is_rejected(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        DetectionSettings(**{"warmup_steps": 0} | values)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 0), (60, 6), (1000, 100), (9000, 100)])
def test_the_warm_up_fits_the_length_of_the_run(steps: int, warmup: int) -> None:
    settings = DetectionSettings(steps=steps, base_lr=1.0)
    assert settings.warmup == settings.to_record()["warmup_steps"] == warmup
    rates = [settings.learning_rate(step) for step in range(steps)]
    assert max(range(steps), key=rates.__getitem__) == warmup
    assert rates[warmup] == 1.0


def test_the_rate_rises_and_falls_to_zero() -> None:
    settings = DetectionSettings(steps=104, warmup_steps=4, base_lr=1.0)
    rates = [settings.learning_rate(step) for step in range(104)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[54] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 1e-3


def test_a_batch_holds_images_of_one_orientation() -> None:
    ratios = [0.5, 1.5, 0.7, 1.0, 2.0, 1.2, 1.1]  # two tall, five wide
    batches = AspectRatioBatches(ratios, 2, seed=0, steps=range(8))
    assert batches.batches_per_epoch == 1 + 3
    keys = list(batches)
    for batch in keys:
        assert len({ratios[index] < 1 for _, index in batch}) == 1
    assert [p for batch in keys for p, _ in batch] == list(range(16))
    for epoch in (keys[:4], keys[4:]):
        indices = [index for batch in epoch for _, index in batch]
        assert set(indices) == set(range(7))
        assert len(indices) == 8
    assert keys[:4] != keys[4:]


def test_batches_follow_from_seed_and_step() -> None:
    ratios = [1.0] * 9
    whole = list(AspectRatioBatches(ratios, 2, 3, range(12)))
    assert list(AspectRatioBatches(ratios, 2, 3, range(7, 12))) == whole[7:]
    assert list(AspectRatioBatches(ratios, 2, 4, range(12))) != whole


def test_a_group_smaller_than_a_batch_is_repeated() -> None:
    ((batch),) = AspectRatioBatches([1.0, 2.0], 5, 0, range(1))
    assert sorted(index for _, index in batch) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("names", "keypoints", "message"),
    [
        (["mirror"], False, "augmentations are hflip, .* got 'mirror'"),
        (["hflip"], True, "hflip cannot be used with keypoints"),
        (["iou-crop"], True, "iou-crop cannot be used with keypoints"),
    ],
)
def test_a_wrong_augmentation_is_rejected(names: list, keypoints: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_transforms(names, keypoints=keypoints)


def test_no_images_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least one image, got none"):
        AspectRatioBatches([], 2, 0, range(1))


def test_processes_must_be_able_to_share_a_batch() -> None:
    group = Mock(world_size=3, rank=0)
    with pytest.raises(ValueError, match="a multiple of their number, 3; got 4"):
        AspectRatioBatches([1.0] * 8, 4, 0, range(1), group)
