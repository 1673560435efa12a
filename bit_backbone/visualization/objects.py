"""Draws objects and label maps on photographs."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from bit_backbone.visualization.feature_maps import beside

LEAST_SIDE = 320  # smaller photographs are enlarged, so that text is readable
ENLARGED_SIDE = 4 * LEAST_SIDE  # the longer side is not enlarged beyond it
GOLDEN_RATIO = 0.618034  # consecutive multiples lie far apart on the circle of hues
MASK_OPACITY = 0.45
GAP = 6
COLUMNS = 2


def draw_result(
    image: Tensor, result: dict[str, Any], names: Sequence[str], *, min_score: float = 0.5
) -> Image.Image:
    """Draws a result of a detector or ``Segmenter``, or a training target, on its image."""
    if "semantic" in result:
        return draw_semantic(image, result["semantic"], names)
    return draw_objects(image, result, names, min_score=min_score)


def draw_semantic(image: Tensor, semantic: Tensor, names: Sequence[str]) -> Image.Image:
    """Colours the pixels of each class, and lists the class names in a corner.

    Args:
        image: Floating point [3, H, W] in 0..1.
        semantic: int64 [H, W]: 0 is the background, 1 .. number of names; other pixels keep their
            colour.
        names: Names of the classes, label 1 first.

    Returns:
        The photograph, enlarged by a whole factor where its shorter side is below 320 pixels, as
        far as its longer side stays within 1280.
    """
    present = [int(k) for k in semantic.unique().tolist() if 0 < k <= len(names)]
    layers = torch.stack([semantic == label for label in present]) if present else ()
    kept = {"masks": layers, "labels": torch.tensor(present)}
    picture = _enlarged(_overlay(F.to_pil_image(image.clamp(0, 1).cpu()), kept))
    draw, top = ImageDraw.Draw(picture), 0.0
    for label in present:
        top = _write(draw, (0.0, top), names[label - 1], colour_of(label))
    return picture


def draw_objects(
    image: Tensor, objects: dict[str, Any], names: Sequence[str], *, min_score: float = 0.5
) -> Image.Image:
    """Draws boxes with their names and scores, masks and keypoints.

    Args:
        image: Floating point [3, H, W] in 0..1.
        objects: A detector's output, or a target of ``CocoFolder``: "boxes" and "labels", and
            optionally "scores", "masks" and "keypoints".
        names: Names of the classes, label 1 first.
        min_score: Objects with a smaller score are left out.

    Returns:
        The photograph, enlarged by a whole factor where its shorter side is below 320 pixels, as
        far as its longer side stays within 1280.
    """
    picture = F.to_pil_image(image.clamp(0, 1).cpu())
    kept = _visible(objects, len(names), min_score)
    width = picture.width
    picture = _enlarged(_overlay(picture, kept))
    zoom = picture.width // width
    draw = ImageDraw.Draw(picture)
    for index, label in enumerate(kept["labels"].tolist()):
        text = names[label - 1]
        if "scores" in kept:
            text += f" {kept['scores'][index]:.2f}"
        box = [coordinate * zoom for coordinate in kept["boxes"][index].tolist()]
        _draw_box(draw, box, text, colour_of(label))
        if "keypoints" in kept:
            _draw_points(draw, kept["keypoints"][index] * zoom, colour_of(label))
    return picture


def comparison(rows: Sequence[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Puts pairs of (predictions, ground truth) side by side, two pairs per row.

    Raises:
        ValueError: There is no pair.
    """
    if not rows:
        raise ValueError("a comparison needs at least one image, got none")
    pairs = [beside(*(_titled(p, t) for p, t in zip(pair, TITLES, strict=True))) for pair in rows]
    width = max(pair.width for pair in pairs) + GAP
    height = max(pair.height for pair in pairs) + GAP
    columns = min(COLUMNS, len(pairs))
    sheet = Image.new(
        "RGB", (columns * width - GAP, -(-len(pairs) // columns) * height - GAP), "white"
    )
    for index, pair in enumerate(pairs):
        sheet.paste(pair, (index % columns * width, index // columns * height))
    return sheet


TITLES = ("predicted", "ground truth")


def colour_of(label: int) -> tuple[int, int, int]:
    """Returns the colour of a class, RGB; close labels get distant hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def _visible(objects: dict[str, Any], num_names: int, min_score: float) -> dict[str, Tensor]:
    tensors = {name: value.cpu() for name, value in objects.items() if isinstance(value, Tensor)}
    # Label 0 is the background; some of torchvision's detectors return it too.
    keep = (tensors["labels"] > 0) & (tensors["labels"] <= num_names)
    if "scores" in tensors:
        keep &= tensors["scores"] >= min_score
    return {name: value[keep] for name, value in tensors.items()}


def _enlarged(picture: Image.Image) -> Image.Image:
    wanted, most = round(LEAST_SIDE / min(picture.size)), ENLARGED_SIDE // max(picture.size)
    zoom = max(1, min(wanted, most))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)


def _overlay(picture: Image.Image, kept: dict[str, Any]) -> Image.Image:
    for mask, label in zip(kept.get("masks", ()), kept["labels"].tolist(), strict=False):
        mask = mask.squeeze(0) if mask.ndim == 3 else mask  # detectors give [1, H, W] in 0..1
        coverage = (mask.float() > 0.5).to(torch.uint8) * round(255 * MASK_OPACITY)
        paint = Image.new("RGB", picture.size, colour_of(label))
        picture = Image.composite(paint, picture, Image.fromarray(coverage.cpu().numpy()))
    return picture


def _draw_box(
    draw: ImageDraw.ImageDraw, box: list[float], text: str, colour: tuple[int, int, int]
) -> None:
    draw.rectangle(box, outline=colour, width=2)
    height = draw.textbbox((0, 0), text, font=_font())[3] + 3
    _write(draw, (box[0], max(0, box[1] - height)), text, colour)


def _write(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: tuple[int, int, int]
) -> float:
    """Writes text on a coloured background; returns the lower edge of the background."""
    left, top = corner
    size = draw.textbbox((0, 0), text, font=_font())[2:]
    bottom = top + size[1] + 3
    draw.rectangle((left, top, left + size[0] + 5, bottom), fill=colour)
    draw.text((left + 3, top), text, fill="black", font=_font())
    return bottom


def _font() -> Any:
    return ImageFont.load_default(14)


def _draw_points(draw: ImageDraw.ImageDraw, points: Tensor, colour: tuple[int, int, int]) -> None:
    for x, y, visibility in points.tolist():
        if visibility > 0:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour, outline="black")


def _titled(picture: Image.Image, title: str) -> Image.Image:
    framed = Image.new("RGB", (picture.width + GAP, picture.height + 20), "white")
    framed.paste(picture, (0, 20))
    ImageDraw.Draw(framed).text((2, 1), title, fill="black", font=_font())
    return framed
