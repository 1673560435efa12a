"""A contact sheet of scenes with their boxes."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bit_backbone.datasets.digits.scenes import CATEGORIES, DigitScenes, Scene

COLUMNS = 4
ZOOM = 2
TEXT_HEIGHT = 15
PALETTE = (
    "#e6194b", "#3cb44b", "#ffe119", "#4a7dff", "#f58231",
    "#c050e0", "#46f0f0", "#f032e6", "#bcf60c", "#fabebe",
)  # fmt: skip


def contact_sheet(scenes: DigitScenes, count: int) -> Image.Image:
    """Returns the first ``count`` scenes, twice their size, each object in its box."""
    shown = [_draw(scenes[i]) for i in range(min(count, len(scenes)))]
    columns = min(COLUMNS, len(shown))
    width, height = shown[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(shown) // columns) * height))
    for i, picture in enumerate(shown):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    return sheet


def _draw(scene: Scene) -> Image.Image:
    height, width = scene.image.shape[:2]
    picture = Image.fromarray(scene.image).resize((width * ZOOM, height * ZOOM))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(TEXT_HEIGHT)
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        rows, columns = np.nonzero(mask)
        left, top = int(columns.min()) * ZOOM, int(rows.min()) * ZOOM
        right, bottom = (int(columns.max()) + 1) * ZOOM - 1, (int(rows.max()) + 1) * ZOOM - 1
        colour = PALETTE[label]
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        draw.rectangle((left, top, left + TEXT_HEIGHT, top + TEXT_HEIGHT + 2), fill=colour)
        draw.text((left + 4, top), CATEGORIES[label], fill="black", font=font)
    return picture
