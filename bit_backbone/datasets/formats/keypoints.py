"""The keypoints of a YOLO data set (https://docs.ultralytics.com/datasets/pose)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIGITS = 4  # decimals of a pixel: fractions in labels have about six digits


@dataclass(frozen=True)
class Keypoints:
    """The keypoints that follow an object's box.

    Attributes:
        names: Names of the keypoints.
        numbers: Numbers per keypoint: 2 for x and y, which are negative if it is not labelled; 3
            with COCO's visibility.
    """

    names: tuple[str, ...] = ()
    numbers: int = 2

    @property
    def wanted(self) -> str:
        """The expected content of a line."""
        if self.names:
            return f"should be a class, 4 numbers and {self.length} of the keypoints"
        return "should be a class and 4 numbers, or a class and 3 or more points"

    @property
    def length(self) -> int:
        """Count of the numbers after the box."""
        return len(self.names) * self.numbers

    def in_pixels(self, values: list[float], size: tuple[int, int]) -> dict[str, Any]:
        """Returns COCO's fields of an object's keypoints: x, y, visibility, and their count."""
        if not self.names:
            return {}
        points: list[Any] = []
        for at in range(0, len(values), self.numbers):
            x, y, *rest = values[at : at + self.numbers]
            visibility = rest[0] if rest else 0.0 if min(x, y) < 0 else 2.0
            if visibility == 0:
                points += [0, 0, 0]
            else:  # the checks report numbers other than 1 and 2
                number = int(visibility) if visibility.is_integer() else visibility
                points += [to_pixels(x, size[0]), to_pixels(y, size[1]), number]
        return {"keypoints": points, "num_keypoints": sum(seen > 0 for seen in points[2::3])}


def keypoints_of(path: Path, settings: dict[str, Any]) -> Keypoints:
    """Returns the keypoints that kpt_shape declares, with the first class's names in kpt_names.

    Raises:
        ValueError: kpt_shape is invalid.
    """
    shape = settings.get("kpt_shape")
    if not shape:
        return Keypoints()
    match shape:
        case [int(count), (2 | 3) as numbers] if count > 0:
            pass
        case _:
            raise ValueError(
                f"{path}: kpt_shape should be the number of keypoints and 2 or 3 numbers of each, "
                f"such as [17, 3]; got {shape!r}"
            )
    given = settings.get("kpt_names")
    names = next(iter(given.values()), None) if isinstance(given, dict) else given
    if not isinstance(names, list) or len(names) != count:
        names = [f"point {number}" for number in range(1, count + 1)]
    return Keypoints(tuple(map(str, names)), numbers)


def to_pixels(fraction: float, side: int) -> float:
    """Converts a fraction to pixels, rounded to the fraction's precision."""
    return round(fraction * side, DIGITS)
