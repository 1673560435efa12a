"""BiT-HyperRule: resolution, schedule and mixup, derived from a data set.

Source: arXiv 1912.11370, section 3.3, and ``bit_hyperrule.py`` of google-research/big_transfer,
with its treatment of the boundaries. The rule's constants are: SGD with momentum 0.9 and without
weight decay, batches of 512, a head that starts at zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

BASE_LEARNING_RATE = 0.003
MOMENTUM = 0.9
BATCH_SIZE = 512

SMALL_AREA = 96 * 96
MEDIUM_DATASET = 20_000
LARGE_DATASET = 500_000
MIXUP_ALPHA = 0.1

# End of the warm-up, the three decays, the end; in optimizer steps.
_SMALL = (100, 200, 300, 400, 500)
_MEDIUM = (500, 3_000, 6_000, 9_000, 10_000)
_LARGE = (500, 6_000, 12_000, 18_000, 20_000)


@dataclass(frozen=True)
class Resolution:
    """Sides of the squares to which images are resized and cropped, in pixels.

    Attributes:
        resize: Side of training images before the random crop.
        crop: Side of the crop, and of whole images in evaluation.

    Raises:
        ValueError: The crop is not positive, or larger than the resized image.
    """

    resize: int
    crop: int

    def __post_init__(self) -> None:
        """Checks that there is something to crop from."""
        if not 1 <= self.crop <= self.resize:
            raise ValueError(
                f"the crop must be at least 1 pixel and at most as large as the resized image, got "
                f"resize {self.resize} and crop {self.crop}; 512,480 means resize 512, crop 480"
            )


def resolution(height: int, width: int) -> Resolution:
    """Returns the resolution for a data set of images of this size, in pixels.

    Raises:
        ValueError: A side is not positive.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one pixel, got {height}x{width}")
    return Resolution(160, 128) if height * width < SMALL_AREA else Resolution(512, 480)


@dataclass(frozen=True)
class Schedule:
    """Learning rate per optimizer step: linear warm-up from zero, then a staircase of tenths.

    Attributes:
        warmup: Steps before the full rate.
        decays: A step that is greater than one of these has a tenth of the rate.
        total: Number of steps; they count from 0 to ``total - 1``.
        base: The full rate.
    """

    warmup: int
    decays: tuple[int, ...]
    total: int
    base: float = BASE_LEARNING_RATE

    def __post_init__(self) -> None:
        points = (0, self.warmup, *self.decays, self.total)
        if self.total < 1 or list(points) != sorted(points):
            raise ValueError(
                "a schedule must have 0 <= warmup <= decays in order <= total and at least one "
                "step, got "
                f"warmup {self.warmup}, decays {self.decays}, total {self.total}"
            )
        if not self.base > 0:
            raise ValueError(f"the base learning rate must be positive, got {self.base}")

    def learning_rate(self, step: int) -> float:
        """Returns the rate of a step.

        The first step has rate 0 (unless there is no warm-up), and a decay point itself still has
        the rate before the decay: both as published.

        Raises:
            ValueError: The step is not one of the schedule's.
        """
        if not 0 <= step < self.total:
            raise ValueError(f"steps of this schedule are 0 to {self.total - 1}, got {step}")
        if step < self.warmup:
            return self.base * step / self.warmup
        rate = self.base
        for decay in self.decays:
            if decay < step:
                rate /= 10  # one division after another rounds as the published code does
        return rate

    def scaled(self, total: int) -> Schedule:
        """Returns the same shape over another number of steps; breakpoints are rounded down.

        Raises:
            ValueError: ``total`` is not positive.
        """
        ratio = Fraction(total, self.total)
        decays = tuple(int(decay * ratio) for decay in self.decays)
        return Schedule(int(self.warmup * ratio), decays, total, self.base)


def schedule(num_examples: int, base: float = BASE_LEARNING_RATE) -> Schedule:
    """Returns the schedule for a training set of this size: 500, 10 000 or 20 000 steps.

    Raises:
        ValueError: The training set is empty, or the rate is not positive.
    """
    _check_size(num_examples)
    if num_examples < MEDIUM_DATASET:
        points = _SMALL
    else:
        points = _MEDIUM if num_examples < LARGE_DATASET else _LARGE
    warmup, *decays, total = points
    return Schedule(warmup, tuple(decays), total, base)


def mixup_alpha(num_examples: int) -> float:
    """Returns alpha of mixup's Beta(alpha, alpha) for a training set of this size; 0.0 for none.

    Raises:
        ValueError: The training set is empty.
    """
    _check_size(num_examples)
    return 0.0 if num_examples < MEDIUM_DATASET else MIXUP_ALPHA


def _check_size(num_examples: int) -> None:
    if num_examples < 1:
        raise ValueError(f"a training set needs at least one example, got {num_examples}")
