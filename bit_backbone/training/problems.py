"""Records a run's data problems in ``problems.jsonl``, and limits unreadable images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.processes import ProcessGroup
from bit_backbone.utils.unreadable import Unreadable
from bit_backbone.utils.ways_out import after, passing

PROBLEMS_NAME = "problems.jsonl"
UNREADABLE = "unreadable image"


class ProblemLog:
    """The problems of a run's data, and the number of its unreadable images.

    A resumed run reads the file and continues the count.

    Args:
        folder: The folder of the run; the first process writes there.
        group: The processes, which share their lists of images.
        share: Fraction of a set's images that may be unreadable; one always may, unless it is 0.
        report: Prints a line.
    """

    def __init__(
        self, folder: Path, group: ProcessGroup, share: float, report: Callable[[str], None]
    ) -> None:
        self.path = folder / PROBLEMS_NAME
        self._group, self._share, self._report = group, share, report
        records = read_problems(folder) if group.is_first else []
        known = [(r["set"], r["file"]) for r in records if r["kind"] == UNREADABLE]
        self._seen: set[tuple[str, str]] = set(group.gather(known)[0])

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read, in all sets."""
        return len(self._seen)

    def begin(self, problems: Iterable[dict[str, Any]]) -> None:
        """Writes the problems found before training; replaces those of an earlier start."""
        if not self._group.is_first:
            return
        met = [r for r in read_problems(self.path.parent) if r.get("met")]
        records = [*problems, *met]
        self._seen |= {(r["set"], r["file"]) for r in records if r["kind"] == UNREADABLE}
        if records:
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(f"{json.dumps(record)}\n" for record in records))
        else:
            self.path.unlink(missing_ok=True)

    def note(self, name: str, failures: Iterable[Unreadable], total: int) -> None:
        """Records the images that this process could not read; all processes must call it together.

        Args:
            name: Name of the set.
            failures: This process's unreadable images.
            total: Number of images in the set.

        Raises:
            ValueError: Too many images are unreadable; all processes raise it.
        """
        own = list(failures)
        if not self._group.max(len(own)):
            return
        everyones = [failure for share in self._group.gather(own) for failure in share]
        for failure in everyones:
            self._add(name, failure)
        self._check(name, total)

    def _add(self, name: str, failure: Unreadable) -> None:
        if (name, failure.file) in self._seen:
            return
        self._seen.add((name, failure.file))
        if self._group.is_first:
            self._report(f"unreadable image, left out: {failure.reason}")
            record = {"set": name, "kind": UNREADABLE, "file": failure.file}
            record |= {"detail": failure.reason, "action": "left out"}
            with self.path.open("a") as file:
                file.write(json.dumps(record | {"met": True}) + "\n")

    def _check(self, name: str, total: int) -> None:
        count = sum(own == name for own, _ in self._seen)
        check_share(count, total, self._share, name, f"{self.path} lists them")


def check_share(count: int, total: int, share: float, name: str, where: str) -> None:
    """Checks that not too many images of a set are unreadable.

    Raises:
        ValueError: Too many images are unreadable.
    """
    allowed = max(int(share * total), 1) if share else 0
    if count > allowed:
        way_out = after("; ", passing("max_unreadable", 0.1, "to continue without so many"))
        raise ValueError(
            f"at most {share:.0%} of the images of a set may be unreadable; {count} of the {total} "
            f"images of the {name} set are: {where}{way_out}"
        )


def read_problems(folder: Path) -> list[dict[str, Any]]:
    """Reads the problems of a run; the last line may be cut off by the end of its process."""
    path = folder / PROBLEMS_NAME
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records
