"""What was measured, and on what: Markdown for readers, JSON for programs."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .rounds import Result
from .workloads import Workload

PACKAGES = ("torch", "torchvision", "timm", "transformers", "detectron2")
KEEPS_PAGES = ("optimized", "optimized-fpn", "compiled", "optimized-graph")
PEERS = ("timm", "transformers", "timm-compiled", "transformers-compiled")
MEGABYTE = 1e6


def environment(device: str) -> dict[str, str]:
    """Returns the hardware and the versions of everything that takes part."""
    import torch

    facts = {"cpu": _cpu(), "cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())}
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


def table(work: Workload, results: Sequence[Result]) -> str:
    """Returns one workload as Markdown."""
    timed = {r.contender: r for r in results if r.problem is None}
    floors = {name: timed[name].median for name in ("floor", "floor-kept") if name in timed}
    peers = [name for name in PEERS if name in timed]
    heads = ["contender", "ms", "/ lower bound", *(f"{p} / it" for p in peers), "peak MB"]
    lines = [f"### {work.describe()}", "", _row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for result in results:
        if result.problem is not None:
            lines.append(_row([result.contender, result.problem, *[""] * (len(heads) - 2)]))
        elif result.contender != "bandwidth":
            floor = own_floor(result.contender, floors)
            cells = [result.contender, f"{result.median * 1e3:.1f}"]
            cells.append(f"{result.median / floor:.2f}" if floor else "")
            cells += [f"{timed[p].median / result.median:.2f}" for p in peers]
            lines.append(_row([*cells, f"{result.peak_bytes / MEGABYTE:.0f}"]))
    probe = timed.get("bandwidth")
    if probe and work.mode == "inference":
        speed = probe.facts["moved_bytes"] / probe.median / 1e9
        bounds = {name: roofline(timed[name], probe) * 1e3 for name in floors}
        said = ", ".join(f"{value:.0f} ms over {name}" for name, value in bounds.items())
        lines += ["", f"Roofline at {speed:.1f} GB/s: {said}."]
    return "\n".join(lines)


def own_floor(contender: str, floors: dict[str, float]) -> float | None:
    """Returns the floor whose allocator has the contender's setting, else the one there is."""
    if not floors:
        return None
    kept = contender in KEEPS_PAGES or contender == "floor-kept"
    wanted = "floor-kept" if kept else "floor"
    return floors.get(wanted, next(iter(floors.values())))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(work: Workload, results: Sequence[Result]) -> dict[str, Any]:
    """Returns one workload as plain values."""
    rows = []
    for result in results:
        median = result.median if result.seconds else None
        rows.append(dataclasses.asdict(result) | {"median_seconds": median})
    return {"workload": dataclasses.asdict(work), "results": rows}
