"""Time and memory of BiT beside its peers, and beside only the convolutions.

    python tools/benchmark.py                                # a few minutes: the default workloads
    python tools/benchmark.py --workloads all --rounds 7 --json benchmark.json
    python tools/benchmark.py --workloads 800 --contenders floor-kept optimized timm
    python tools/benchmark.py --workloads 224-runtimes --isa AVX2 AVX512_CORE
    python tools/benchmark.py --device cuda --dtype bfloat16 --channels-last

Every contender runs in a process of its own, because the allocator's settings are a process's, and
the processes take turns, one step at a time, so that all meet the same machine. Medians are shown.
"lower bound" is only the network's convolutions, with their weights already standardized, in
channels-last, with the contender's setting of the allocator; "peak" is the most memory above what
the built model holds. Peers are measured with their defaults; "-bf16" after the name of timm or
transformers means PyTorch's autocast. A ratio to a peer is to the peer in the row's own type, or in
float32 where it has no such row.

--isa plays processors with fewer vector instructions, a table each: oneDNN (also OpenVINO's copy),
PyTorch's and MKL's kernels are limited by their environment variables, and ours are compiled for
such a processor. OpenVINO's MVN does not obey, and ONNX Runtime cannot be limited. Rows of a type
that the instructions do not multiply are left out, also without --isa.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarking import report
from benchmarking.isa import ISAS, multiplies, playable
from benchmarking.rounds import measure
from benchmarking.workloads import DEFAULT_WORKLOADS, WORKLOADS, Workload, named_type

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
    parser.add_argument("--isa", nargs="+", choices=["all", *ISAS], help="by oneDNN's names")
    arguments = parser.parse_args()
    if arguments.isa and arguments.device != "cpu":
        parser.error("--isa is for the CPU")
    own = playable()
    arguments.isa = own if "all" in (arguments.isa or ()) else arguments.isa or [None]
    if missing := [isa for isa in arguments.isa if isa and isa not in own]:
        parser.error(f"this machine has {', '.join(own)}, not {', '.join(missing)}")
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
    plans = [
        (isa, work, team)
        for isa in arguments.isa
        for work in workloads
        if (team := contenders_of(work, isa, arguments.device))
    ]
    records: list[Any] = []
    with Bars(transient=True) as progress, TemporaryDirectory() as files:
        total = sum(len(team) for _, _, team in plans) * (arguments.rounds + 1)
        task = progress.add_task("starting", total=total, unit="process")

        def tick(done: str) -> None:
            progress.update(task, advance=1, description=done)

        for isa, work, team in plans:
            own = setting | {"isa": isa, "files": files}
            results = measure(work, team, own, arguments.rounds, tick)
            records.append(report.as_json(work, results, isa))
            texts.append(report.table(work, results, isa))
            print(f"\n{texts[-1]}", flush=True)
            save(arguments, texts, {"environment": facts, "setting": setting, "runs": records})


def contenders_of(work: Workload, isa: str | None, device: str) -> tuple[str, ...]:
    """Returns who takes part, with the probe of the bandwidth where a roofline is drawn."""
    team = tuple(name for name in work.contenders if device != "cpu" or is_native(name, isa))
    probe = work.mode == "inference" and any(name.startswith("floor") for name in team)
    return (*team, "bandwidth") if probe else team


def is_native(contender: str, isa: str | None) -> bool:
    """Whether the instructions multiply the contender's own type."""
    kind = named_type(contender)[1].removeprefix("-")
    return not kind or multiplies(isa, kind)


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
