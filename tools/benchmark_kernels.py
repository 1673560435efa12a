"""Times the fused GroupNorm + activation against PyTorch's own, on a GPU.

    python tools/benchmark_kernels.py --device cuda --dtype bfloat16

One process, interleaved runs, medians. "eager" times calls as Python issues them, launches
included; "graph" replays a captured CUDA graph, which is what the GPU itself takes. Each row ends
with what ``bit_backbone.kernels.is_faster_in_triton`` would choose, so that a threshold which is
wrong for a GPU shows. The Triton kernels run only on GPUs: on a CPU there is nothing to compare.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from bit_backbone.kernels import is_faster_in_triton, kernel_policy
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.utils.progress import track

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LAYOUTS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}
POLICIES = ("torch", "triton")
# channels and stride of R50x1's norms, from the widest maps to the deepest
NORMS = ((64, 4), (256, 4), (512, 8), (1024, 16), (2048, 32))


def main(argv: list[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    args = parse(argv)
    if args.device != "cuda" or not torch.cuda.is_available():
        print(
            "benchmark_kernels: the Triton kernels need a GPU (--device cuda, and one that "
            f"torch.cuda finds), got --device {args.device}, torch.cuda.is_available() "
            f"{torch.cuda.is_available()}; nothing was measured",
            file=sys.stderr,
        )
        return 2
    console = Console()
    properties = torch.cuda.get_device_properties(0)
    console.print(f"{properties.name}, torch {torch.__version__}, {args.dtype}, {args.layout}")
    columns = ("map", "mode", "torch, ms", "Triton, ms", "ratio", "of bandwidth", "rule takes")
    table = Table(*columns)
    for row in rows(args):
        table.add_row(*row)
    console.print(table)
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Returns the command line's arguments."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda: the kernels run nowhere else")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels-last")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("H", "W"))
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 2, 16))
    parser.add_argument("--runs", type=int, default=30, help="timed runs of each")
    parser.add_argument("--gigabytes-per-second", type=float, help="of the memory, at best")
    return parser.parse_args(argv)


def rows(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """Yields the table's rows, showing progress."""
    cases = [(batch, *norm) for batch in args.batches for norm in NORMS]
    for batch, channels, stride in track(cases, "measuring", transient=True):
        height, width = (-(-side // stride) for side in args.size)
        x = torch.randn(batch, channels, height, width, device="cuda", dtype=DTYPES[args.dtype])
        x = x.to(memory_format=LAYOUTS[args.layout])
        norm = GroupNormAct(32, channels).to("cuda", x.dtype)
        name = " x ".join(map(str, x.shape))
        rule = "triton" if is_faster_in_triton(x, norm.weight) else "torch"
        for mode, steps in modes(norm, x).items():
            times = interleaved(steps, args.runs)
            yield name, *report(mode, times, x, args.gigabytes_per_second), rule


def modes(norm: GroupNormAct, x: Tensor) -> dict[str, dict[str, Callable[[], object]]]:
    """Returns what to time: for each mode, a step for each policy."""
    eager = {policy: inference(norm, x, policy) for policy in POLICIES}
    training = {policy: step(norm, x.detach().requires_grad_(), policy) for policy in POLICIES}
    return {
        "inference, eager": eager,
        "inference, graph": {policy: captured(run) for policy, run in eager.items()},
        "forward + backward, eager": training,
    }


def inference(norm: GroupNormAct, x: Tensor, policy: str) -> Callable[[], object]:
    """Returns a step that normalises and activates ``x``."""

    def run() -> None:
        with torch.no_grad(), kernel_policy(policy):  # type: ignore[arg-type]
            norm(x)

    return run


def step(norm: GroupNormAct, x: Tensor, policy: str) -> Callable[[], object]:
    """Returns a step that also differentiates."""
    gradient = torch.randn_like(x)

    def run() -> None:
        with kernel_policy(policy):  # type: ignore[arg-type]
            y = norm(x)
        torch.autograd.grad(y, (x, norm.weight, norm.bias), gradient)

    return run


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Returns a step that replays ``run`` as a CUDA graph."""
    run()  # compiles the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def interleaved(steps: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Returns the median time of each step, in ms, from turns taken one after the other."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(runs + 3):
        for name, run in steps.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            run()
            end.record()
            end.synchronize()
            if turn >= 3:  # the first turns compile and warm up
                times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def report(mode: str, times: dict[str, float], x: Tensor, peak: float | None) -> tuple[str, ...]:
    """Returns the row of a mode: times, their ratio, and the share of the memory's bandwidth."""
    # read twice and written once; backward reads input and gradient twice and writes once
    passes = 3 if mode.startswith("inference") else 8
    rate = passes * x.numel() * x.element_size() / times["triton"] / 1e6  # GB/s
    share = f"{rate:.0f} GB/s" if peak is None else f"{rate / peak:.0%}"
    ratio = f"{times['torch'] / times['triton']:.2f}x"
    return mode, f"{times['torch']:.3f}", f"{times['triton']:.3f}", ratio, share


if __name__ == "__main__":
    sys.exit(main())
