"""What the experiments of this folder share: a file of results, spreads, and a plot."""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, HEIGHT, MARGIN = 480, 320, 56
COLOURS = ("#0072b2", "#d55e00", "#009e73")  # which differ for colour-blind readers too


class Results:
    """A file with a line of JSON for each run that has ended.

    Runs with other settings may stand there too, and are passed over.

    Args:
        path: The file; it need not be there yet.
        settings: What all runs share, in JSON's terms.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings

    def read(self) -> list[dict[str, Any]]:
        """Return the runs with these settings."""
        text = self.path.read_text() if self.path.exists() else ""
        runs = [run for run in map(_parsed, text.splitlines()) if run is not None]
        return [run for run in runs if run["recipe"] == self.settings]

    def find(self, **facts: Any) -> list[dict[str, Any]]:
        """Return the runs that have these values."""
        return [run for run in self.read() if facts.items() <= run.items()]

    def add(self, **values: Any) -> None:
        """Append a run, in one write, so that processes can share the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**values, "recipe": self.settings})
        with self.path.open("a") as file:
            # the first line break ends what an interruption may have cut off
            file.write(f"\n{line}\n")
            file.flush()
            os.fsync(file.fileno())


def _parsed(line: str) -> dict[str, Any] | None:
    """Return the run of a line; None for one that an interruption has cut off, or an empty one."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def spread(fractions: Sequence[float]) -> str:
    """Return mean ± standard deviation, in percent; the mean of one, and a dash for none."""
    if len(fractions) < 2:
        return f"{100 * fractions[0]:.1f}" if fractions else "-"
    return f"{100 * statistics.mean(fractions):.1f} ± {100 * statistics.stdev(fractions):.1f}"


def line_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    columns: Sequence[str],
    x_label: str,
    y_label: str,
) -> str:
    """Return a drawing, in SVG, of values from 0 to 100 with their spread.

    Args:
        lines: By name, a (value, standard deviation) for each column.
        columns: Names of the places along the horizontal axis, which stand at equal distances.
        x_label: What the columns are.
        y_label: What the values are.
    """
    places = [MARGIN + (i + 0.5) * (WIDTH - 2 * MARGIN) / len(columns) for i in range(len(columns))]
    parts = [_text(x, HEIGHT - MARGIN + 18, c) for x, c in zip(places, columns, strict=True)]
    parts += [_text(WIDTH / 2, HEIGHT - 16, x_label), _text(MARGIN, MARGIN - 30, y_label)]
    for value in range(0, 101, 20):
        parts.append(_line([(MARGIN, _height(value)), (WIDTH - MARGIN, _height(value))], "#ccc"))
        parts.append(_text(MARGIN - 16, _height(value) + 4, str(value)))
    for index, (name, values) in enumerate(lines.items()):
        colour = COLOURS[index]
        points = [(x, _height(value)) for x, (value, _) in zip(places, values, strict=True)]
        parts.append(_line(points, colour))
        for (x, y), (value, deviation) in zip(points, values, strict=True):
            ends = [(x, _height(value - deviation)), (x, _height(value + deviation))]
            parts.append(_line(ends, colour))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(WIDTH / 2, MARGIN - 30 + 16 * index, name, colour))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )


def _height(value: float) -> float:
    return HEIGHT - MARGIN - value / 100 * (HEIGHT - 2 * MARGIN)


def _text(x: float, y: float, text: str, colour: str = "black") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle" fill="{colour}">{escape(text)}</text>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
