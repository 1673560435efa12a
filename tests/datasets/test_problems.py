"""The words in which problems are told."""

from pathlib import Path

from bit_backbone.datasets.coco.problems import LISTED, AnnotationError, Problem, describe


def test_one_problem_in_a_line() -> None:
    assert str(Problem("empty box", "0 wide", "a.jpg", 3, 8)) == (
        "a.jpg (image 3, annotation 8): empty box: 0 wide"
    )
    assert str(Problem("no JSON", "line 1", "f.json")) == "f.json: no JSON: line 1"


def test_all_are_counted_and_the_first_fifty_listed() -> None:
    problems = [Problem("empty box", "0 wide", "a.jpg", 3, i) for i in range(LISTED + 5)]
    problems.append(Problem("missing file", "gone", "b.jpg", 4))
    error = AnnotationError(Path("f.json"), problems, "Mend it.")
    lines = str(error).splitlines()
    assert lines[0] == "f.json: 56 problems (55 x empty box, 1 x missing file)"
    assert len(lines) == 1 + LISTED + 2
    assert lines[-2:] == ["  ... and 6 more", "Mend it."]
    assert error.problems == tuple(problems)
    assert describe(Path("f"), problems[:1]).startswith("f: 1 problem (1 x empty box)\n")
