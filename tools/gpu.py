"""Tests the GPU kernels and times them and the network beside their peers, on one GPU.

    make gpu                    # or: python tools/gpu.py --output build/gpu
    python tools/gpu.py --dry-run

Each part is a process with a time limit, and all take less than eight minutes together: the tests
of the kernels (forward, backward, three types, both layouts), the fused operator beside PyTorch's,
and the network beside timm and transformers. The report is report.md, the times are eager.json,
compiled.json and training.json. The exit status is 1 where a result is wrong or a part fails, and 2
where there is no GPU. --dry-run goes the same way on a CPU, with the kernels in Triton's
interpreter and small images.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
TESTS = "tests/kernels/test_group_norm_triton.py"


@dataclass(frozen=True)
class Part:
    """A part of the run.

    Attributes:
        title: For the report.
        command: Arguments of Python.
        limit: Seconds that it may take.
        interpreted: Whether Triton's interpreter replaces the GPU.
    """

    title: str
    command: tuple[str, ...]
    limit: int
    interpreted: bool = False


def main(argv: list[str] | None = None) -> int:
    """Runs all parts, writes the report and returns the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("build/gpu"), metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, a little of everything")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        print("gpu.py needs a GPU, and torch finds none: use --dry-run on a CPU", file=sys.stderr)
        return 2
    args.output.mkdir(parents=True, exist_ok=True)
    parts = dry_parts(args.output) if args.dry_run else gpu_parts(args.output)
    texts, failed = [f"# {machine()}, torch {torch.__version__}"], []
    for part in parts:
        print(f"{part.title} (at most {part.limit} s)", flush=True)
        status, text, seconds = run(part)
        print(text, flush=True)
        ending = "passed" if status == 0 else f"failed with exit status {status}"
        texts.append(f"## {part.title}\n\n{ending} in {seconds:.0f} s\n\n```text\n{text}```")
        if status != 0:
            failed.append(part.title)
        (args.output / "report.md").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    print(f"{args.output / 'report.md'}: {len(parts) - len(failed)} of {len(parts)} parts passed")
    return 1 if failed else 0


def machine() -> str:
    """Returns the name of the GPU, or says that there is none."""
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU"


def gpu_parts(output: Path) -> list[Part]:
    """Returns what is run on a GPU."""
    network = (
        *("tools/benchmark.py", "--device", "cuda", "--dtype", "bfloat16", "--channels-last"),
        *("--rounds", "3", "--json"),
    )
    contenders = ("--contenders", "ours", "optimized", "optimized-graph", "timm", "transformers")
    sizes = ("--workloads", "224", "224-batch2", "224-batch16", "800", "800-batch2", "800-batch16")
    compiled = ("--workloads", "800-compiled")
    operator = ("tools/benchmark_kernels.py", "--runs", "10", "--layout")
    return [
        Part("kernels, tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS), 90),
        Part("operator, channels-last", (*operator, "channels-last"), 40),
        Part("operator, contiguous", (*operator, "contiguous"), 40),
        Part("network, eager", (*network, f"{output}/eager.json", *contenders, *sizes), 150),
        Part("network, compiled", (*network, f"{output}/compiled.json", *compiled), 100),
        Part("training step", (*network, f"{output}/training.json", "--workloads", "train"), 60),
    ]


def dry_parts(output: Path) -> list[Part]:
    """Returns the same on a CPU, as far as that goes."""
    network = ("tools/benchmark.py", "--rounds", "1", "--image-size", "64x64", "--json")
    eager = ("--contenders", "ours", "optimized", "--workloads", "224", "224-batch2")
    training = ("--contenders", "ours", "--workloads", "train")
    some = ("-k", "every_activation or large_mean")
    return [
        Part("kernels, tests", ("-m", "pytest", "-q", TESTS, *some), 300, interpreted=True),
        Part("network, eager", (*network, f"{output}/eager.json", *eager), 120),
        Part("training step", (*network, f"{output}/training.json", *training), 120),
    ]


def run(part: Part) -> tuple[int, str, float]:
    """Returns the exit status of a part, what it printed, and its seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= {"TRITON_INTERPRET": "1"} if part.interpreted else {}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *part.command], cwd=ROOT, env=environment, timeout=part.limit,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        said = text.decode(errors="replace") if isinstance(text, bytes) else text
        return 124, f"{said}\nstopped after {part.limit} s\n", time.monotonic() - began
    return done.returncode, done.stdout, time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
