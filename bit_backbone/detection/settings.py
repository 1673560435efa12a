"""The settings for training a detector or segmenter, apart from model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from bit_backbone.training.settings import RunSettings

OPTIMIZERS = ("sgd", "adamw")
TINY_TRAINING = {"batch_size": 2, "optimizer": "adamw", "base_lr": 1e-3, "clip_norm": 1.0}
"""What of ``DetectionSettings`` suits ``fasterrcnn_bit_tiny_fpn``, which learns from scratch."""


@dataclass(frozen=True, kw_only=True)
class DetectionSettings(RunSettings):
    """How to train a detector or segmenter.

    The defaults are torchvision's reference settings for detection (``references/detection`` of
    pytorch/vision: SGD, 0.02 for 16 images, decay 1e-4) with a newer schedule and gradient
    clipping.

    Attributes:
        steps: Optimizer steps.
        optimizer: "sgd" or "adamw".
        weight_decay: Weight decay of filters and matrices; norms and biases have none.
        warmup_steps: Steps in which the learning rate rises from zero; None for a tenth of all, at
            most 100.
        clip_norm: Largest norm of the gradient of all parameters; 0 for no limit.
        channels_last: Whether to keep weights and features in that memory format.
        augment: Names of ``bit_backbone.detection.transforms.AUGMENTATIONS``, in order.
        grad_checkpointing: Whether to compute every residual unit again in the backward pass, to
            save memory.
        activation_recompute: Whether to compute only norms and activations again, which takes less
            time.

    Raises:
        ValueError: A value is out of its range, or two values exclude each other.
    """

    free: ClassVar[tuple[str, ...]] = (
        *RunSettings.free,
        "grad_checkpointing",
        "activation_recompute",
    )
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")  # no scaling of losses

    steps: int
    batch_size: int = 4
    optimizer: str = "sgd"
    base_lr: float = 0.005
    weight_decay: float = 1e-4
    warmup_steps: int | None = None
    clip_norm: float = 10.0
    channels_last: bool = False
    augment: tuple[str, ...] = ()
    grad_checkpointing: bool = False
    activation_recompute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_least(1, ("steps",))
        self._check_least(0, ("weight_decay", "warmup_steps", "clip_norm"))
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup_steps must be less than steps, {self.steps}, got {self.warmup}; shorten "
                "the "
                "warm-up, leave it out or train longer"
            )
        if not (self.base_lr > 0 and math.isfinite(self.base_lr)):
            raise ValueError(f"base_lr must be a positive number, got {self.base_lr}")
        self._check_choice("optimizer", OPTIMIZERS)
        if self.fsdp and self.channels_last:
            raise ValueError(
                "fsdp needs contiguous weights, which channels_last does not have; leave one of "
                "them out"
            )

    @property
    def warmup(self) -> int:
        """Steps in which the learning rate rises."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    def learning_rate(self, step: int) -> float:
        """Returns the rate of a step: a linear warm-up, then half a cosine down to zero.

        Source of the cosine: arXiv 1608.03983, without restarts.
        """
        if step < self.warmup:
            return self.base_lr * (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.base_lr * 0.5 * (1 + math.cos(math.pi * done))

    def to_record(self) -> dict[str, Any]:
        """Returns the settings that must be equal when a run is resumed."""
        derived = {"augment": list(self.augment), "warmup_steps": self.warmup}
        return super().to_record() | derived
