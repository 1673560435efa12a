"""Draws the chart of the front page from what tools/benchmark.py measured.

python tools/benchmark.py --workloads 224-runtimes 800-runtimes --json benchmark.json
python tools/speed_chart.py benchmark.json --output docs/images/speed.svg
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from bit_backbone.utils.files import atomic_path

BARS = {
    "optimized": "bit_backbone",
    "timm-onnxruntime": "timm's export in ONNX Runtime",
    "timm-openvino": "timm's export in OpenVINO",
    "timm": "timm",
    "transformers": "transformers",
}
OURS, OTHERS = "#d55e00", "#9a9a9a"
TYPES = {"": ("float32", 1.0), "-bf16": ("bfloat16", 0.5)}  # and how opaque its bars are
TEXT = "#808080"
THICKNESS = 0.38


def main() -> None:
    """Draws the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, metavar="JSON")
    parser.add_argument("--isa", help="of several sets of instructions, which; by default the last")
    parser.add_argument("--output", type=Path, default=Path("docs/images/speed.svg"))
    args = parser.parse_args()
    runs = chosen(json.loads(args.measured.read_text(encoding="utf-8"))["runs"], args.isa)
    if not runs:
        sys.exit("speed_chart.py: nothing was measured that has all of " + ", ".join(BARS))
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # equal figures make an equal file
    matplotlib.rcParams["svg.fonttype"] = "none"
    size = (4.6 * len(runs), 2.9)
    figure, axes = pyplot.subplots(1, len(runs), figsize=size, squeeze=False)
    for axis, run in zip(axes[0], runs, strict=True):
        draw(axis, run)
    axes[0][0].set_yticks(range(len(BARS)), BARS.values())
    figure.tight_layout()
    with atomic_path(args.output) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, transparent=True)


def chosen(runs: list[dict[str, Any]], isa: str | None) -> list[dict[str, Any]]:
    """Returns the runs of one image at a time with every bar, of one set of instructions."""
    isa = isa or (runs[-1]["isa"] if runs else None)
    whole = [run for run in runs if run["isa"] == isa and run["workload"]["batch"] == 1]
    return [run for run in whole if set(BARS) <= set(medians(run))]


def medians(run: dict[str, Any]) -> dict[str, float]:
    """Returns the milliseconds of each contender that was timed."""
    rows = [row for row in run["results"] if row["median_seconds"]]
    return {row["contender"]: row["median_seconds"] * 1e3 for row in rows}


def draw(axis: Any, run: dict[str, Any]) -> None:
    """Draws the medians of one workload, in the order of ``BARS``, a bar for each type."""
    found, work = medians(run), run["workload"]
    for kind, (name, opacity) in TYPES.items():
        rows = [(i, found[bar + kind]) for i, bar in enumerate(BARS) if bar + kind in found]
        shift = THICKNESS / 2 if kind else -THICKNESS / 2
        bars = axis.barh(
            [i + shift for i, _ in rows],
            [value for _, value in rows],
            THICKNESS,
            color=[OTHERS if i else OURS for i, _ in rows],
            alpha=opacity,
        )
        labels = [f"{value:.0f}" + (f" {name}" if i == 0 else "") for i, value in rows]
        axis.bar_label(bars, labels, padding=3, color=TEXT, fontsize=8)
    title = f"{work['variant']}, {work['size'][0]} x {work['size'][1]}, ms"
    axis.set_title(title, fontsize=10, color=TEXT)
    axis.invert_yaxis()
    axis.set_xlim(
        0, 1.15 * max(found[bar + kind] for bar in BARS for kind in TYPES if bar + kind in found)
    )
    axis.set_xticks([])
    axis.set_yticks([])
    axis.tick_params(colors=TEXT, length=0)
    axis.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
