"""The settings of a fine-tuning run, apart from model and data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bit_backbone.finetune import hyperrule
from bit_backbone.finetune.hyperrule import Schedule
from bit_backbone.training.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(RunSettings):
    """How to fine-tune; the defaults are BiT-HyperRule's.

    Attributes:
        batch_split: Number of parts into which each process divides its share of a batch, to save
            memory.
        steps: Optimizer steps; None for the rule's number for the size of the data set. Otherwise
            the rule's schedule is scaled.
        mixup_alpha: Alpha of mixup's Beta(alpha, alpha); None for the rule's, 0 for no mixup.

    Raises:
        ValueError: A value is out of its range, or two values exclude each other.
    """

    free: ClassVar[tuple[str, ...]] = (*RunSettings.free, "batch_split")

    batch_size: int = hyperrule.BATCH_SIZE
    batch_split: int = 1
    base_lr: float = hyperrule.BASE_LEARNING_RATE
    momentum: float = hyperrule.MOMENTUM
    steps: int | None = None
    mixup_alpha: float | None = None

    def __post_init__(self) -> None:
        for name in ("base_lr", "mixup_alpha"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value}")
        super().__post_init__()
        self._check_least(1, ("batch_split", "steps"))
        self._check_least(0, ("mixup_alpha",))
        if self.fsdp and self.precision == "float16":
            raise ValueError(
                "fsdp reduces gradients before they are unscaled; take bfloat16, got float16"
            )

    def schedule(self, num_examples: int) -> Schedule:
        """Returns the learning rate of every step for a training set of this size."""
        rule = hyperrule.schedule(num_examples, self.base_lr)
        return rule if self.steps is None else rule.scaled(self.steps)

    def alpha(self, num_examples: int) -> float:
        """Returns mixup's alpha for a training set of this size."""
        if self.mixup_alpha is not None:
            return self.mixup_alpha
        return hyperrule.mixup_alpha(num_examples)
