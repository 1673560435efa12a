"""Contenders side by side: a process each, one step at a time, taking turns."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .isa import ISAS
from .workloads import Workload

READERS = ("onnxruntime", "openvino", "openvino-bf16")  # of files, which the first one writes
TOOLS = Path(__file__).resolve().parents[1]


@dataclass
class Result:
    """What one contender did.

    Attributes:
        contender: Its name.
        seconds: Time of each round.
        peak_bytes: Most memory above what it held once built (CUDA: most memory).
        facts: What it says about itself.
        problem: Why there is no time, or None.
    """

    contender: str
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    facts: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    @property
    def median(self) -> float:
        """The median of the rounds, in seconds."""
        return statistics.median(self.seconds)


class Process:
    """A worker: answers one line of JSON for every line it is sent."""

    def __init__(self, request: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "benchmarking.worker", json.dumps(request)]
        name = request["setting"].get("isa")
        limits = ISAS[name].environment(name) if name else {}
        self._process = subprocess.Popen(
            command, cwd=TOOLS, env=os.environ | limits,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def answer(self) -> dict[str, Any]:
        """Waits for an answer; a process that ended without one has failed."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return {"failed": f"the process ended with status {self._process.wait()}"}
        return json.loads(line)

    def ask(self) -> dict[str, Any]:
        """Has one step run, and returns what it took."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.answer()


def measure(
    work: Workload,
    contenders: Sequence[str],
    setting: dict[str, Any],
    rounds: int,
    tick: Callable[[str], None],
) -> list[Result]:
    """Measures contenders on one workload.

    Args:
        work: What they do.
        contenders: Their names.
        setting: The fields of a Setting, the type by its name.
        rounds: How often each takes its turn.
        tick: Called with what was done, after every build and every step.
    """
    results = [Result(name) for name in contenders]
    for team in [results] if work.together else [[result] for result in results]:
        _take_turns(work, team, setting, rounds, tick)
    return results


def _take_turns(
    work: Workload,
    team: Sequence[Result],
    setting: dict[str, Any],
    rounds: int,
    tick: Callable[[str], None],
) -> None:
    with ExitStack() as stack:
        processes = {}
        for result in team:  # one after another, so that none builds while another compiles
            request = {"contender": result.contender, "setting": setting}
            request["workload"] = dataclasses.asdict(work)
            if setting.get("isa") and result.contender.endswith(READERS):
                # Exports are verified, and in that OpenVINO crashes if it is limited to AVX2.
                with Process(request | {"setting": setting | {"isa": None}}) as writer:
                    writer.answer()
            process = stack.enter_context(Process(request))
            _note(result, process.answer())
            processes[result.contender] = process
            tick(f"{work.name}: built {result.contender}")
        for number in range(rounds):
            for result in team:
                if result.problem is None:
                    _note(result, processes[result.contender].ask())
                tick(f"{work.name}: round {number + 1}, {result.contender}")


def _note(result: Result, answer: dict[str, Any]) -> None:
    if "missing" in answer:
        result.problem = f"not installed ({answer['missing']})"
    elif "failed" in answer:
        result.problem = answer["failed"]
    elif "seconds" in answer:
        result.seconds.append(answer["seconds"])
        result.peak_bytes = max(result.peak_bytes, answer["peak_bytes"])
    else:
        result.facts = answer["facts"]
