"""What a training run of a detector or segmenter is told, beside the model and the data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

OPTIMIZERS = ("sgd", "adamw")
PRECISIONS = ("float32", "bfloat16")  # float16 would need loss scaling
# Settings that change how a run is carried out and not what comes out of it, but for rounding.
_FREE = (
    "workers",
    "eval_every",
    "save_every",
    "grad_checkpointing",
    "activation_recompute",
    "fsdp",
)


@dataclass(frozen=True)
class DetectionSettings:
    """How to train a detector or segmenter.

    The defaults are torchvision's reference recipe for detection (``references/detection`` of
    pytorch/vision: SGD, 0.02 for 16 images, decay 1e-4) with the schedule and the clipping that
    came after it.

    Attributes:
        steps: Optimizer steps.
        batch_size: Images per step, of all processes together.
        optimizer: "sgd" or "adamw".
        base_lr: Full learning rate.
        momentum: Of SGD.
        weight_decay: Of weights; norms and biases have none.
        warmup_steps: Over which the rate rises from zero; None for a tenth of all, at most 100.
        clip_norm: Largest norm of the gradient of all parameters; 0 for any.
        precision: "float32" or "bfloat16", for autocast.
        channels_last: Whether to keep weights and features in that memory format.
        augment: Names of ``bit_backbone.detection.transforms.AUGMENTATIONS``, in order.
        seed: Of the order of images, augmentation and the detector's sampling.
        workers: Loader processes; 0 loads in the process itself.
        eval_every: Evaluate after every so many steps, beside the end; None for the end alone.
        save_every: Save after every so many steps, beside the end and interruptions.
        grad_checkpointing: Whether to recompute every residual unit in backward, to save memory.
        activation_recompute: Whether to recompute norms and activations alone, in less time.
        fsdp: Whether to shard parameters, gradients and the optimizer's state over the processes
            (FSDP2), instead of keeping all of them in each.

    Raises:
        ValueError: A value is out of its range, or two do not go together.
    """

    steps: int
    batch_size: int = 4
    optimizer: str = "sgd"
    base_lr: float = 0.005
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int | None = None
    clip_norm: float = 10.0
    precision: str = "float32"
    channels_last: bool = False
    augment: tuple[str, ...] = ()
    seed: int = 0
    workers: int = 0
    eval_every: int | None = None
    save_every: int = 100
    grad_checkpointing: bool = False
    activation_recompute: bool = False
    fsdp: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "save_every", "eval_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, got {value}")
        for name in ("weight_decay", "warmup_steps", "clip_norm", "seed", "workers"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name} is at least 0, got {value}")
        if self.warmup >= self.steps:
            raise ValueError(
                f"warmup_steps is below steps, {self.steps}, got {self.warmup}; shorten the "
                "warm-up, leave it out or train longer"
            )
        if not (self.base_lr > 0 and math.isfinite(self.base_lr)):
            raise ValueError(f"base_lr is a positive number, got {self.base_lr}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies in [0, 1), got {self.momentum}")
        for name, choices in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )

        if self.fsdp and self.channels_last:
            raise ValueError(
                "fsdp shards contiguous weights, which channels_last does not have; leave out one"
            )

    @property
    def warmup(self) -> int:
        """Steps over which the rate rises."""
        return min(100, self.steps // 10) if self.warmup_steps is None else self.warmup_steps

    def learning_rate(self, step: int) -> float:
        """Returns the rate of a step: a linear warm-up, then half a cosine down to zero.

        Source of the cosine: arXiv 1608.03983, without restarts.
        """
        if step < self.warmup:
            return self.base_lr * (step + 1) / (self.warmup + 1)
        done = (step - self.warmup) / (self.steps - self.warmup)
        return self.base_lr * 0.5 * (1 + math.cos(math.pi * done))

    def recipe(self) -> dict[str, Any]:
        """Returns what a resumed run must share with the run it goes on with."""
        values = dataclasses.asdict(self)
        values |= {"augment": list(self.augment), "warmup_steps": self.warmup}
        return {name: value for name, value in values.items() if name not in _FREE}
