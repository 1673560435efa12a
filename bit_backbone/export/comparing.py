"""Whether an exported file gives what the model gives, and by how much it differs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from bit_backbone.export.settings import Tolerance

# Pixels of the canvas between two keypoints that are one: the best of two equal neighbours.
KEYPOINT_DISTANCE = 2.0
LEAST_MASK_IOU = 0.95
# Of the tolerance of scores: a mask's probabilities on average, and keypoints' scores, which move
# with a box that moves by a thousandth of its side.
MASK_FACTOR = 10.0
SAME_CORNERS = 1e-2  # pixels


@dataclass(frozen=True)
class Difference:
    """By how much a file differs from the model.

    Attributes:
        text: In words, for a table.
        problem: What is more than may be, for an error; None where nothing is.
        compares: Whether there was anything to compare.
    """

    text: str
    problem: str | None = None
    compares: bool = True


def compare_maps(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: Tolerance
) -> Difference:
    """Compares maps by their largest difference, relative to the largest value."""
    worst, where = 0.0, ""
    for name, value in expected.items():
        if found[name].shape != value.shape:
            shapes = f"{list(found[name].shape)} instead of {list(value.shape)}"
            return Difference("other shapes", f"{name} has the shape {shapes}")
        scale = value.abs().max().clamp(min=1e-12)
        difference = float((found[name].float() - value.float()).abs().max() / scale)
        difference = math.inf if math.isnan(difference) else difference
        if difference > worst:
            worst, where = difference, name
    text = f"{worst:.1e} of the largest value"
    if worst <= tolerance.maps:
        return Difference(text)
    return Difference(text, f"{where} differs by {text}, and may by {tolerance.maps:.0e}")


def compare_labels(logits: Tensor, found: Tensor, tolerance: Tolerance) -> Difference:
    """Compares a label map with logits: each label may be another of two equal ones.

    Args:
        logits: The model's, [N, K, H, W].
        found: The file's labels, [N, H, W].
        tolerance: Of maps.
    """
    best = logits.max(1)
    if found.shape != best.indices.shape:
        shapes = f"{list(found.shape)} instead of {list(best.indices.shape)}"
        return Difference("other shapes", f"the label map has the shape {shapes}")
    chosen = logits.gather(1, found[:, None].long())[:, 0]
    lost = float((best.values - chosen).max() / logits.abs().max().clamp(min=1e-12))
    share = float((found != best.indices).float().mean())
    text = f"{share:.1e} of the pixels"
    if lost <= tolerance.maps:
        return Difference(text)
    return Difference(text, f"a label's logit is {lost:.1e} of the largest below the best one's")


def compare_detections(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: Tolerance
) -> Difference:
    """Matches detections one to one: same label, overlap and score, and what is found inside."""
    pairs = _pairs(expected, found, tolerance)
    counts = len(expected["boxes"]), len(found["boxes"])
    unmatched = max(counts) - len(pairs)
    ious, scores = _agreement(expected, found, pairs)
    text = (
        f"{len(pairs)} of {max(counts)} matched, IoU >= {ious:.4f}, scores within {scores:.1e}"
        if pairs
        else f"{counts[0]} and {counts[1]} detections"
    )
    problem = None
    if unmatched > tolerance.unmatched * max(counts):
        problem = (
            f"{unmatched} of {counts[0]} detections of the model and {counts[1]} of the file have "
            f"no partner with the same label, IoU >= {tolerance.iou} and a score within "
            f"{tolerance.score:g}"
        )
    problem = problem or _inside(expected, found, pairs, tolerance)
    return Difference(text, problem, compares=max(counts) > 0)


def overlap(expected: Tensor, found: Tensor) -> Tensor:
    """Returns the IoU of [N, 4] with [M, 4], and 1 for boxes that are equal but for rounding.

    FCOS and RetinaNet keep boxes without width or height, whose IoU is 0 / 0.
    """
    ious = box_iou(expected.double(), found.double()).nan_to_num(0.0)
    distance = (expected[:, None] - found[None]).abs().amax(-1)
    return torch.where(distance <= SAME_CORNERS, 1.0, ious)


def _pairs(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: Tolerance
) -> list[tuple[int, int]]:
    """Returns partners, each of the model's with the free one of the file's that overlaps most."""
    overlaps = overlap(expected["boxes"], found["boxes"])
    same = expected["labels"][:, None] == found["labels"][None]
    near = (expected["scores"][:, None] - found["scores"][None]).abs() <= tolerance.score
    overlaps = torch.where(same & near & (overlaps >= tolerance.iou), overlaps, -1.0)
    pairs = []
    for row in range(len(overlaps)):
        if overlaps.shape[1] and float(overlaps[row].max()) >= 0:
            column = int(overlaps[row].argmax())
            pairs.append((row, column))
            overlaps[:, column] = -1.0
    return pairs


def _agreement(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], pairs: Sequence[tuple[int, int]]
) -> tuple[float, float]:
    """Returns the least overlap and the largest difference of scores."""
    if not pairs:
        return 1.0, 0.0
    rows, columns = map(list, zip(*pairs, strict=True))
    overlaps = overlap(expected["boxes"][rows], found["boxes"][columns])
    scores = (expected["scores"][rows] - found["scores"][columns]).abs()
    return float(overlaps.diagonal().min()), float(scores.max())


def _inside(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    pairs: Sequence[tuple[int, int]],
    tolerance: Tolerance,
) -> str | None:
    """Returns what differs in masks and keypoints by more than a pixel at their border."""
    wrong = sum(not _same_inside(expected, found, *pair, tolerance) for pair in pairs)
    if wrong <= max(tolerance.unmatched, 0.05) * len(pairs):
        return None
    return f"the masks or keypoints of {wrong} of {len(pairs)} detections differ"


def _same_inside(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    row: int,
    column: int,
    tolerance: Tolerance,
) -> bool:
    """Returns whether the mask or the keypoints of two detections are the same."""
    if "masks" in expected:
        masks = expected["masks"][row], found["masks"][column]
        inside = ((masks[0] > 0) | (masks[1] > 0)).sum().clamp(min=1)
        apart = float((masks[0] - masks[1]).abs().sum() / inside)  # NaN is not less, below
        return _mask_iou(*masks) >= LEAST_MASK_IOU and apart <= MASK_FACTOR * tolerance.score
    if "keypoints" in expected:
        distance = (expected["keypoints"][row] - found["keypoints"][column]).abs().max()
        extent = (expected["boxes"][row][2:] - expected["boxes"][row][:2]).max()
        heights = expected["keypoints_scores"][row], found["keypoints_scores"][column]
        scale = heights[0].abs().max().clamp(min=1.0)
        apart = float((heights[0] - heights[1]).abs().max() / scale)
        near = bool(distance <= KEYPOINT_DISTANCE + 0.02 * extent)
        return near and apart <= MASK_FACTOR * tolerance.score
    return True


def _mask_iou(a: Tensor, b: Tensor) -> float:
    first, second = a > 0.5, b > 0.5
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0
