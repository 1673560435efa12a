"""Draws the chart of the front page from what tools/benchmark.py measured.

python tools/benchmark.py --workloads 224-runtimes 800-runtimes --json benchmark.json
python tools/speed_chart.py benchmark.json --output docs/images/speed.svg
"""

import argparse
import json
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


def main() -> None:
    """Draws the chart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, metavar="JSON")
    parser.add_argument("--output", type=Path, default=Path("docs/images/speed.svg"))
    args = parser.parse_args()
    documents = json.loads(args.measured.read_text(encoding="utf-8"))["runs"]
    matplotlib.rcParams["svg.hashsalt"] = "speed"  # equal figures make an equal file
    matplotlib.rcParams["svg.fonttype"] = "none"
    figure, axes = pyplot.subplots(1, len(documents), figsize=(4.6 * len(documents), 2.3))
    for axis, document in zip(axes, documents, strict=True):
        draw(axis, document)
    axes[0].set_yticks(range(len(BARS)), BARS.values())
    figure.tight_layout()
    with atomic_path(args.output) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, transparent=True)


def draw(axis: Any, document: dict[str, Any]) -> None:
    """Draws the medians of one workload, shortest on top as in ``BARS``."""
    work = document["workload"]
    medians = {run["contender"]: run["median_seconds"] for run in document["results"]}
    values = [medians[name] * 1e3 for name in BARS]
    bars = axis.barh(range(len(BARS)), values, color=[OURS] + [OTHERS] * (len(BARS) - 1))
    axis.bar_label(bars, [f"{value:.0f}" for value in values], padding=3, color="#808080")
    height, width = work["size"]
    axis.set_title(f"{height} x {width}, ms", fontsize=10, color="#808080")
    axis.invert_yaxis()
    axis.set_xlim(0, max(values) * 1.15)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.tick_params(colors="#808080", length=0)
    axis.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
