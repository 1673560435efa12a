"""Time and memory of BiT beside its peers, and beside only the convolutions.

    python tools/benchmark.py                                # a few minutes: the default workloads
    python tools/benchmark.py --workloads all --rounds 7 --json benchmark.json
    python tools/benchmark.py --workloads 800 --contenders floor-kept optimized timm
    python tools/benchmark.py --device cuda --dtype bfloat16 --channels-last

Every contender runs in a process of its own, because the allocator's settings are a process's, and
the processes take turns, one step at a time, so that all meet the same machine. Medians are shown.
"lower bound" is only the network's convolutions, with their weights already standardized, in
channels-last, with the contender's setting of the allocator; "peak" is the most memory above what
the built model holds. Peers are measured with their defaults.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from benchmarking import report
from benchmarking.rounds import measure
from benchmarking.workloads import DEFAULT_WORKLOADS, WORKLOADS, Workload

from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.progress import Bars


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["all", *WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=names, default=DEFAULT_WORKLOADS)
    parser.add_argument("--contenders", nargs="+", help="instead of each workload's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--image-size", type=image_size, help="HxW, instead of each workload's own")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    types = ["float32", "bfloat16", "float16"]
    parser.add_argument("--dtype", choices=types, default="float32")
    parser.add_argument("--channels-last", action="store_true", help="for every contender")
    parser.add_argument("--json", type=Path, help="where to write every time that was measured")
    parser.add_argument("--markdown", type=Path, help="where to write the tables")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    return arguments


def image_size(text: str) -> tuple[int, int]:
    """Reads "800x1333"."""
    height, width = text.split("x")
    return int(height), int(width)


def chosen(arguments: argparse.Namespace) -> list[Workload]:
    """Returns the workloads with what the command line changes.

    Raises:
        ValueError: There is no contender of that name.
    """
    names = WORKLOADS if "all" in arguments.workloads else arguments.workloads
    changes: dict[str, Any] = {}
    if arguments.image_size:
        changes["size"] = arguments.image_size
    if arguments.contenders:
        from benchmarking.contenders import NAMES

        unknown = [name for name in arguments.contenders if name not in NAMES]
        if unknown:
            raise ValueError(f"contenders are {', '.join(NAMES)}, got {', '.join(unknown)}")
        changes["contenders"] = tuple(arguments.contenders)
    return [dataclasses.replace(WORKLOADS[name], **changes) for name in names]


def main() -> None:
    """Measures, and prints a table for each workload."""
    arguments = parse()
    try:
        workloads = chosen(arguments)
    except ValueError as error:
        sys.exit(f"benchmark.py: {error}")
    fields = ("device", "dtype", "channels_last")
    setting = {name: getattr(arguments, name) for name in fields}
    facts = report.environment(arguments.device)
    texts = ["  \n".join(f"{name}: {value}" for name, value in facts.items())]
    print(texts[0], flush=True)
    records = []
    with Bars(transient=True) as progress:
        teams = [contenders_of(work) for work in workloads]
        total = sum(len(team) for team in teams) * (arguments.rounds + 1)
        task = progress.add_task("starting", total=total, unit="process")
        for work, team in zip(workloads, teams, strict=True):

            def tick(done: str) -> None:
                progress.update(task, advance=1, description=done)

            results = measure(work, team, setting, arguments.rounds, tick)
            records.append(report.as_json(work, results))
            texts.append(report.table(work, results))
            print(f"\n{texts[-1]}", flush=True)
            save(arguments, texts, {"environment": facts, "setting": setting, "runs": records})


def contenders_of(work: Workload) -> tuple[str, ...]:
    """Returns who takes part, with the probe of the bandwidth where a roofline is drawn."""
    probe = work.mode == "inference" and any(n.startswith("floor") for n in work.contenders)
    return (*work.contenders, "bandwidth") if probe else work.contenders


def save(arguments: argparse.Namespace, texts: list[str], record: dict[str, Any]) -> None:
    """Writes what there is so far, so that an interrupted run keeps it."""
    if arguments.json:
        with atomic_path(arguments.json) as path:
            path.write_text(json.dumps(record, indent=1) + "\n")
    if arguments.markdown:
        with atomic_path(arguments.markdown) as path:
            path.write_text("\n\n".join(texts) + "\n")


if __name__ == "__main__":
    main()
