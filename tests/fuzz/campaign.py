"""Feeds damaged files to everything that reads files: ``make fuzz``; ``tests`` is on PYTHONPATH.

Each kind of file is read in a process of its own, with limited memory. A process that dies, stands
still or finds something leaves the file that did it in the folder of findings; the campaign
continues after that input and ends with status 1.
"""

import argparse
import multiprocessing
import resource
import sys
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from fuzz.mutations import mutate
from fuzz.targets import TARGETS

MEMORY = 6 * 2**30
"""Address space of a reader, in bytes: what torch maps, and room for honest tensors."""
COUNTED = ("rejected", "loaded")


def damaged(good: bytes, name: str, index: int) -> bytes:
    """Returns the input number ``index`` of a target; the same every time."""
    return mutate(good, Random(f"{name} {index}"))


def read_all(name: str, first: int, findings: Path, results: Connection) -> None:
    """Reads inputs from ``first`` on and reports (index, outcome) before and after each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    target = TARGETS[name]
    with TemporaryDirectory() as folder:
        good, path = Path(folder, "good"), findings / f"{name.replace(' ', '_')}.reading"
        good.write_bytes(target.good(Path(folder)))
        index = first
        while True:
            path.write_bytes(damaged(good.read_bytes(), name, index))
            results.send((index, None))
            try:
                outcome = target.attempt(path, good)
            except BaseException:
                outcome = traceback.format_exc()
                path.replace(findings / f"{name.replace(' ', '_')}.{index}")
            results.send((index, outcome))
            index += 1


def fuzz(name: str, seconds: float, patience: float, findings: Path) -> Counter:
    """Fuzzes one target for some seconds; counts rejected and loaded inputs and findings."""
    outcomes: Counter = Counter()
    first, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=read_all, args=(name, first, findings, theirs), daemon=True
        )
        process.start()
        theirs.close()
        first = follow(ours, process, end, patience, outcomes, name, findings, first)
        process.kill()
        process.join()
    return outcomes


def follow(results, process, end, patience, outcomes, name, findings, index) -> int:
    """Counts what a reader reports until the end or its own, and returns the next input."""
    while time.monotonic() < end:
        try:
            if not results.poll(patience):
                break
            index, outcome = results.recv()
        except EOFError:
            break
        if outcome is None:
            continue
        outcomes[outcome if outcome in COUNTED else "finding"] += 1
        if outcome not in COUNTED:
            print(f"{name}, input {index}:\n{outcome}", file=sys.stderr, flush=True)
    else:
        return index + 1
    what = f"stood still for {patience:g} s" if process.is_alive() else "died"
    print(f"{name}, input {index}: the process {what}", file=sys.stderr, flush=True)
    reading = findings / f"{name.replace(' ', '_')}.reading"
    if reading.exists():
        reading.replace(findings / f"{name.replace(' ', '_')}.{index}")
    outcomes["finding"] += 1
    return index + 1


def main() -> int:
    """Fuzzes every target and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="for each kind of file")
    parser.add_argument("--patience", type=float, default=60, help="seconds until a hang is one")
    parser.add_argument("--only", choices=list(TARGETS), help="one kind of file")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    options = parser.parse_args()
    options.findings.mkdir(parents=True, exist_ok=True)
    total: Counter = Counter()
    for name in [options.only] if options.only else TARGETS:
        outcomes = fuzz(name, options.seconds, options.patience, options.findings)
        total += outcomes
        counts = ", ".join(f"{outcomes[kind]} {kind}" for kind in (*COUNTED, "finding"))
        print(f"{name:24} {sum(outcomes.values()):7} inputs: {counts}", flush=True)
    for left in options.findings.glob("*.reading"):
        left.unlink()
    print(f"{sum(total.values())} inputs, {total['finding']} findings")
    return 1 if total["finding"] else 0


if __name__ == "__main__":
    sys.exit(main())
