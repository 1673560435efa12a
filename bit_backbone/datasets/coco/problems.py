"""Describes the problems of an annotation file."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How to handle problems: correct what can be corrected, raise, or leave the records out.
POLICIES = ("repair", "raise", "skip")
# How images are read: turned by their EXIF orientation, as people see them, or as they are stored.
UPRIGHT, STORED = ORIENTATIONS = ("upright", "stored")
LISTED = 50  # problems spelled out in an error's message
SHOWN = 3  # problems of each kind that are spelled out if the work continues


@dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation file.

    Attributes:
        kind: The broken rule in two or three words, such as "empty box".
        detail: The rule and the value.
        file: The image's file name, or the annotation file's if no image is concerned.
        image_id: The image's id in the file.
        annotation_id: The annotation's id in the file.
        action: How it was corrected, such as "clipped"; "" for not at all.
    """

    kind: str
    detail: str
    file: str
    image_id: Any = None
    annotation_id: Any = None
    action: str = ""

    def __str__(self) -> str:
        ids = [
            f"{name} {value!r}"
            for name, value in (("image", self.image_id), ("annotation", self.annotation_id))
            if value is not None
        ]
        which = f" ({', '.join(ids)})" if ids else ""
        done = f"; {self.action}" if self.action else ""
        return f"{self.file}{which}: {self.kind}: {self.detail}{done}"


class AnnotationError(ValueError):
    """An annotation file cannot be used as it is.

    Attributes:
        problems: All problems; the message spells out the first 50.
    """

    def __init__(self, file: Path, problems: list[Problem], way_out: str) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{describe(file, problems)}\n{way_out}")


def describe(file: Path, problems: Sequence[Problem], shown: int | None = None) -> str:
    """Returns a count of the problems by kind, then one line each.

    Args:
        file: The file that has the problems.
        problems: All problems.
        shown: Number of problems spelled out per kind; None for the first 50 of all kinds.
    """
    counts = Counter(problem.kind for problem in problems)
    kinds = ", ".join(f"{count} x {kind}" for kind, count in counts.items())
    spelled = list(problems[:LISTED]) if shown is None else _first_of_each(problems, shown)
    lines = [f"{file}: {len(problems)} problem{'s'[: len(problems) != 1]} ({kinds})"]
    lines += [f"  {problem}" for problem in spelled]
    if len(problems) > len(spelled):
        lines.append(f"  ... and {len(problems) - len(spelled)} more")
    return "\n".join(lines)


def _first_of_each(problems: Sequence[Problem], count: int) -> list[Problem]:
    seen: Counter[str] = Counter()
    first = []
    for problem in problems:
        seen[problem.kind] += 1
        if seen[problem.kind] <= count:
            first.append(problem)
    return first
