"""One contender in a process of its own: builds, warms up, times a step per line it reads."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

WARM_UP = 3  # optimized models lay their filters out at the second forward
SLOW = 10.0  # seconds of a step; such a one warms up twice


def main(request: dict[str, Any]) -> None:
    """Serves one contender until the input ends; every answer is a line of JSON.

    Args:
        request: "contender", and the fields of a Workload and of a Setting.
    """
    # Answers go to the real output, and whatever libraries print to the error output.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        serve(request, answers)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=answers)
    except Exception as error:  # of a contender, which the others should survive
        traceback.print_exc()
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"[:200]}), file=answers)


def serve(request: dict[str, Any], answers: Any) -> None:
    """Builds, warms up, and times a step for every line of the input."""
    import torch

    from .contenders import Setting, build
    from .workloads import Workload

    torch.manual_seed(0)
    work = Workload(**request["workload"])
    setting = dict(request["setting"])
    setting["dtype"] = getattr(torch, setting["dtype"])
    step = build(request["contender"], work, Setting(**setting))
    cuda = setting["device"] == "cuda"
    start_memory(cuda)
    built = resident_bytes("VmRSS")
    warm_up(step, 1 if work.mode == "construct" else WARM_UP)
    print(json.dumps({"facts": step.facts}), file=answers)
    for _ in sys.stdin:
        synchronise(cuda)
        start = time.perf_counter()
        step.run()
        synchronise(cuda)
        answer = {"seconds": time.perf_counter() - start}
        peak = torch.cuda.max_memory_allocated() if cuda else resident_bytes("VmHWM") - built
        print(json.dumps(answer | {"peak_bytes": peak}), file=answers)


def warm_up(step: Any, times: int) -> None:
    """Runs a step before it is timed."""
    for number in range(times):
        start = time.perf_counter()
        step.run()
        if number and time.perf_counter() - start > SLOW:
            return


def synchronise(cuda: bool) -> None:
    """Waits for the GPU."""
    if cuda:
        import torch

        torch.cuda.synchronize()


def start_memory(cuda: bool) -> None:
    """Forgets the peaks of memory so far."""
    if cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def resident_bytes(field: str) -> int:
    """Returns a line of /proc/self/status in bytes: VmRSS is now, VmHWM the peak; 0 off Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) * 1024


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
