"""Draws charts with matplotlib as data URIs, which are embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bit_backbone.utils.extras import require

PURPOSE = "a report"
SIZE = (6.4, 3.6)  # inches
MOST_NUMBERED = 16  # classes of a matrix whose cells hold numbers
SMOOTHING = 0.02  # fraction of a curve over which its running mean averages

Curve = tuple[Sequence[float], Sequence[float]]


def check_charts() -> None:
    """Raises MissingExtraError unless matplotlib is installed."""
    require("matplotlib.figure", "demo", PURPOSE)


def line_chart(
    curves: Mapping[str, Curve], x: str, y: str, *, smooth: bool = False, unit_square: bool = False
) -> str:
    """Draws lines.

    Args:
        curves: The x values and y values of each curve, by its name.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        smooth: Whether to draw a running mean, and the curve itself faintly.
        unit_square: Whether both axes range from 0 to 1.
    """
    figure, axes = _figure(SIZE)
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        colour = f"C{number % 10}"
        marker = "o" if len(xs) == 1 else None  # a line through one point is invisible
        if smooth:
            axes.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.8)
        shown = _running_mean(ys) if smooth else ys
        axes.plot(xs, shown, color=colour, label=name, linewidth=1.4, marker=marker)
    if unit_square:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=7, loc="best")
    return _uri(figure)


def matrix_chart(counts: np.ndarray, names: Sequence[str]) -> str:
    """Draws a confusion matrix; each cell's colour is its fraction of the row (the true class).

    Args:
        counts: [K, K].
        names: Names of the rows and columns.
    """
    side = max(4.0, min(12.0, 1.5 + 0.5 * len(names)))
    figure, axes = _figure((side + 1, side))
    parts = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="part of the true ones")
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=90, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set(xlabel="found", ylabel="true")
    if len(names) <= MOST_NUMBERED:
        for row, column in np.argwhere(counts > 0):
            colour = "white" if parts[row, column] > 0.5 else "black"
            text = _short(int(counts[row, column]))
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return _uri(figure)


def picture_uri(picture: Any, quality: int = 85) -> str:
    """Returns a PIL image as a JPEG in a data URI."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality)
    return _encoded("image/jpeg", buffer)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    figure = require("matplotlib.figure", "demo", PURPOSE).Figure(size, layout="constrained")
    return figure, figure.subplots()


def _uri(figure: Any) -> str:
    matplotlib = require("matplotlib", "demo", PURPOSE)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bit_backbone"}):  # equal charts have equal bytes
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _encoded("image/svg+xml", buffer)


def _encoded(kind: str, buffer: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _running_mean(values: Sequence[float]) -> np.ndarray:
    """Returns the mean of the latest values at each point."""
    window = max(1, round(SMOOTHING * len(values)))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _short(count: int) -> str:
    return str(count) if count < 10_000 else f"{count:.1e}"
