"""What a fine-tuning run is told, beside the model and the data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from bit_backbone.finetune import hyperrule
from bit_backbone.finetune.hyperrule import Schedule
from bit_backbone.training.precision import PRECISIONS

# Settings that change how a run is carried out and not what comes out of it, but for rounding.
_FREE = ("eval_every", "save_every", "workers", "batch_split", "fsdp")


@dataclass(frozen=True)
class FineTuneSettings:
    """How to fine-tune; the defaults are BiT-HyperRule's.

    Attributes:
        batch_size: Examples per optimizer step, of all processes together; the rule's 512.
        batch_split: Into how many parts each process cuts its share, to save memory.
        base_lr: Full learning rate; the rule's 0.003.
        momentum: Of SGD; the rule's 0.9.
        steps: Optimizer steps; None for as many as the rule has for the size of the data set,
            otherwise the rule's schedule is scaled.
        mixup_alpha: Of mixup's Beta(alpha, alpha); None for the rule's, 0 for no mixup.
        seed: Of the order of examples, augmentation, mixup and stochastic depth.
        precision: "float32", "bfloat16" or "float16" (with loss scaling), for autocast.
        eval_every: Evaluate after every so many steps, beside the end; None for the end alone.
        save_every: Save after every so many steps, beside the end, interruptions and evaluations.
        workers: Loader processes, of each process; 0 loads in the process itself.
        fsdp: Whether to shard parameters, gradients and the optimizer's state over the processes
            (FSDP2), instead of keeping all of them in each.

    Raises:
        ValueError: A value is out of its range, or two do not go together.
    """

    batch_size: int = hyperrule.BATCH_SIZE
    batch_split: int = 1
    base_lr: float = hyperrule.BASE_LEARNING_RATE
    momentum: float = hyperrule.MOMENTUM
    steps: int | None = None
    mixup_alpha: float | None = None
    seed: int = 0
    precision: str = "float32"
    eval_every: int | None = None
    save_every: int = 100
    workers: int = 0
    fsdp: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_split", "save_every", "steps", "eval_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is at least 1, got {value}")
        for name in ("seed", "workers", "mixup_alpha"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is at least 0, got {value}")
        for name in ("base_lr", "mixup_alpha"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is a finite number, got {value}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum lies in [0, 1), got {self.momentum}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, got {self.precision!r}")
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

    def recipe(self) -> dict[str, Any]:
        """Returns what a resumed run must share with the run it goes on with."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in _FREE}
