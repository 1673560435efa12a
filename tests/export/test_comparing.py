"""What counts as the same, and what is reported as a difference."""

import pytest
import torch

from bit_backbone.export.comparing import compare_detections, compare_labels, compare_maps
from bit_backbone.export.settings import TOLERANCES

EXACT = TOLERANCES["float32"]


def detections(boxes=((0, 0, 20, 20), (30, 30, 30, 44)), labels=(1, 0), scores=(0.9, 0.3)):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.tensor(labels),
        "scores": torch.tensor(scores),
    }


@pytest.mark.parametrize(
    "other",
    [
        detections(),
        detections(scores=(0.9005, 0.3)),
        detections(boxes=((30, 30, 30, 44), (0, 0, 20, 20.1)), labels=(0, 1), scores=(0.3, 0.9)),
    ],
)
def test_the_same_detections(other):
    """In another order too; the second box has no width, and so no IoU with itself."""
    difference = compare_detections(detections(), other, EXACT)
    assert difference.problem is None
    assert difference.text.startswith("2 of 2 matched")


@pytest.mark.parametrize(
    "other",
    [
        detections(labels=(2, 0)),
        detections(scores=(0.898, 0.3)),
        detections(boxes=((0, 0, 20, 20.3), (30, 30, 30, 44))),
        detections(boxes=((0, 0, 20, 20),), labels=(1,), scores=(0.9,)),
        detections(boxes=((0, 0, 20, 20), (0, 0, 20, 20)), labels=(1, 1), scores=(0.9, 0.9)),
    ],
)
def test_other_detections(other):
    problem = compare_detections(detections(), other, EXACT).problem
    assert "1 of 2 detections of the model" in problem


def test_nothing_to_compare_is_said():
    none = {name: value[:0] for name, value in detections().items()}
    assert not compare_detections(none, none, EXACT).compares


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([0.0, 10.0005]), None),
        (torch.tensor([0.0, 10.01]), "a differs by 1.0e-03"),
        (torch.tensor([0.0, float("nan")]), "a differs by inf"),
        (torch.tensor([0.0]), r"a has the shape \[1\] instead of \[2\]"),
    ],
)
def test_maps(value, message):
    problem = compare_maps({"a": torch.tensor([0.0, 10.0])}, {"a": value}, EXACT).problem
    if message is None:
        assert problem is None
    else:
        import re

        assert re.match(message, problem)


@pytest.mark.parametrize(("label", "is_same"), [(0, True), (1, True), (2, False)])
def test_a_label_may_be_another_of_two_equal_ones(label, is_same):
    logits = torch.tensor([5.0, 5.0002, 4.9]).reshape(1, 3, 1, 1)
    found = torch.full((1, 1, 1), label)
    assert (compare_labels(logits, found, EXACT).problem is None) is is_same
