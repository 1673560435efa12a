"""What is wrong with an annotation file, in words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LISTED = 50  # problems spelled out in an error's message


@dataclass(frozen=True)
class Problem:
    """Something wrong in an annotation file.

    Attributes:
        kind: The broken rule in two or three words, such as "empty box".
        detail: The rule and the value.
        file: The image's file name, or the annotation file's where no image is concerned.
        image_id: The image's id in the file.
        annotation_id: The annotation's id in the file.
    """

    kind: str
    detail: str
    file: str
    image_id: Any = None
    annotation_id: Any = None

    def __str__(self) -> str:
        ids = [
            f"{name} {value!r}"
            for name, value in (("image", self.image_id), ("annotation", self.annotation_id))
            if value is not None
        ]
        return (
            f"{self.file}{' (' + ', '.join(ids) + ')' if ids else ''}: {self.kind}: {self.detail}"
        )


class AnnotationError(ValueError):
    """An annotation file that cannot be used as it is.

    Attributes:
        problems: All of them; the message spells out the first 50.
    """

    def __init__(self, file: Path, problems: list[Problem], way_out: str) -> None:
        self.problems = tuple(problems)
        super().__init__(f"{describe(file, problems)}\n{way_out}")


def describe(file: Path, problems: list[Problem]) -> str:
    """Returns a count of the problems by kind, then one line each."""
    kinds = ", ".join(f"{n} x {kind}" for kind, n in Counter(p.kind for p in problems).items())
    lines = [f"{file}: {len(problems)} problem{'s'[: len(problems) != 1]} ({kinds})"]
    lines += [f"  {problem}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  ... and {len(problems) - LISTED} more")
    return "\n".join(lines)
