"""What was measured, and on what: Markdown for readers, JSON for programs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .isa import is_limited, playable
from .rounds import Result
from .workloads import INT8, Workload, named_type

PACKAGES = (
    *("torch", "torchvision", "timm", "transformers", "detectron2"),
    *("onnxruntime", "openvino"),
)
KEEPS_PAGES = ("optimized", "optimized-fpn", "compiled", "optimized-graph", "floor-kept")
PEERS = (
    *("onnxruntime", "openvino", "timm", "transformers"),
    *("timm-compiled", "transformers-compiled"),
)
MEGABYTE = 1e6


def environment(device: str) -> dict[str, str]:
    """Returns the hardware and the versions of everything that takes part."""
    import torch

    facts = {"cpu": _cpu(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
    facts["instructions"] = playable()[-1] if playable() else "unknown"
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = str(torch.version.cuda)
    facts |= {"system": platform.platform(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "not installed"
    return facts


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def roofline(floor: Result, probe: Result) -> float:
    """Returns the least seconds with norms and sums apart from the convolutions.

    The convolutions, and the bytes that norms (input read twice, output written) and residual sums
    (two maps read, one written) move, at the bandwidth of a copy in the same run.
    """
    per_byte = probe.median / probe.facts["moved_bytes"]
    return floor.median + floor.facts["unavoidable_bytes"] * per_byte


def table(work: Workload, results: Sequence[Result], isa: str | None = None) -> str:
    """Returns one workload as Markdown.

    Args:
        work: What was done.
        results: By whom.
        isa: The vector instructions to which the processes were limited, or None.
    """
    timed = {r.contender: r for r in results if r.problem is None}
    peers = [name for name in PEERS if name in timed]
    heads = ["contender", "ms", "/ lower bound", *(f"{p} / it" for p in peers), "peak MB"]
    title = f"### {isa}: {work.describe()}" if isa else f"### {work.describe()}"
    lines = [title, "", _row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for result in results:
        mark = " (not limited)" if isa and not is_limited(result.contender) else ""
        if result.problem is not None:
            lines.append(_row([result.contender, result.problem, *[""] * (len(heads) - 2)]))
        elif result.contender != "bandwidth":
            floor = own_floor(result.contender, timed)
            cells = [result.contender + mark, f"{result.median * 1e3:.1f}"]
            cells.append(f"{result.median / floor:.2f}" if floor else "")
            cells += [f"{own_peer(result.contender, p, timed) / result.median:.2f}" for p in peers]
            lines.append(_row([*cells, f"{result.peak_bytes / MEGABYTE:.0f}"]))
    return "\n".join([*lines, *_roofs(work, timed)])


def _roofs(work: Workload, timed: Mapping[str, Result]) -> list[str]:
    probe, floors = timed.get("bandwidth"), [name for name in timed if name.startswith("floor")]
    if probe is None or work.mode != "inference":
        return []
    speed = probe.facts["moved_bytes"] / probe.median / 1e9
    bounds = {name: roofline(timed[name], probe) * 1e3 for name in floors}
    said = ", ".join(f"{value:.0f} ms over {name}" for name, value in bounds.items())
    return ["", f"Roofline at {speed:.1f} GB/s: {said}."]


def own_floor(contender: str, timed: Mapping[str, Result]) -> float | None:
    """Returns the floor of the contender's type, with its setting of the allocator if it is there.

    Integers have none.
    """
    base, kind = named_type(contender)
    if kind == INT8:
        return None
    names = ["floor-kept" + kind, "floor" + kind]
    wanted = names if base in KEEPS_PAGES else names[::-1]
    return next((timed[name].median for name in wanted if name in timed), None)


def own_peer(contender: str, peer: str, timed: Mapping[str, Result]) -> float:
    """Returns the seconds of a peer in the contender's type, or in float32 if it has no such."""
    same = peer + named_type(contender)[1]
    return timed[same if same in timed else peer].median


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(work: Workload, results: Sequence[Result], isa: str | None = None) -> dict[str, Any]:
    """Returns one workload as plain values."""
    rows = []
    for result in results:
        median = result.median if result.seconds else None
        rows.append(dataclasses.asdict(result) | {"median_seconds": median})
    return {"workload": dataclasses.asdict(work), "isa": isa, "results": rows}
