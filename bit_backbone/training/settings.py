"""The settings that every training run has, besides the model and the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

MAX_UNREADABLE = 0.01  # of the images of a set
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings that every task has.

    Attributes:
        batch_size: Examples per optimizer step, over all processes.
        base_lr: Full learning rate.
        momentum: Momentum of SGD.
        seed: Seed of everything random: order of examples, augmentation, and a task's own draws.
        precision: Precision of forward passes, by autocast; weights stay float32.
        eval_every: Number of steps between evaluations; None evaluates only at the end. The end is
            always evaluated.
        save_every: Number of steps between saves. Runs are also saved at the end, at interruptions
            and at evaluations.
        workers: Loader processes per process; 0 loads in the process itself.
        max_unreadable: Fraction of a set's images, 0 to 1, that may be unreadable. They are
            replaced and listed; more of them end the run. One always may be, unless it is 0.
        fsdp: Whether to shard parameters, gradients and the optimizer's state over the processes
            (FSDP2), instead of keeping all of them in each.
        extend: Whether a run in the folder may be trained further with other ``steps``,
            ``base_lr`` or ``warmup_steps``. It continues from its last step by the new schedule.

    Raises:
        ValueError: A value is out of its range.
    """

    # Settings that change how a run is computed, but not its result except for rounding.
    free: ClassVar[tuple[str, ...]] = (
        *("eval_every", "save_every", "workers", "fsdp", "extend"),
        "max_unreadable",
    )
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS

    batch_size: int
    base_lr: float
    momentum: float = 0.9
    seed: int = 0
    precision: str = "float32"
    eval_every: int | None = None
    save_every: int = 100
    workers: int = 0
    max_unreadable: float = MAX_UNREADABLE
    fsdp: bool = False
    extend: bool = False

    def __post_init__(self) -> None:
        self._check_least(1, ("batch_size", "save_every", "eval_every"))
        self._check_least(0, ("seed", "workers"))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {self.momentum}")
        if not 0 <= self.max_unreadable <= 1:
            raise ValueError(f"max_unreadable must lie in [0, 1], got {self.max_unreadable}")
        self._check_choice("precision", self.precisions)

    def _check_least(self, least: int, names: Iterable[str]) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        if getattr(self, name) not in choices:
            raise ValueError(
                f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
            )

    def to_record(self) -> dict[str, Any]:
        """Returns the settings that a resumed run must share with the saved one."""
        return {k: value for k, value in dataclasses.asdict(self).items() if k not in self.free}
