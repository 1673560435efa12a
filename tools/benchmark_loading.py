"""Time and peak memory of loading a checkpoint, side by side with timm.

    python tools/benchmark_loading.py [--variants R50x1 R152x2] [--kinds npz safetensors]

Writes synthetic checkpoints with a 1000-class head, and has every loader build its classifier and
load the file, each time in a process of its own, the loaders taking turns. Time is from the call to
the loaded model, without imports; memory is the highest resident set minus the one before the call.
The files are read once before, so the disk is not part of it. Needs timm and Linux.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

NUM_LABELS = 1000
LOADERS = ("bit_backbone", "timm")


def main() -> None:
    """Write the files, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["R50x1", "R152x2"])
    parser.add_argument("--kinds", nargs="+", default=["npz", "safetensors"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    print_environment()
    print(f"{'file':24} {'MB':>6}  {'loader':14} {'ms':>8} {'peak MB':>8} {'peak / file':>12}")
    with tempfile.TemporaryDirectory() as folder:
        for variant in args.variants:
            source = write_official(Path(folder, f"{variant}.npz"), variant)
            for kind in args.kinds:
                compare(in_kind(source, kind), variant, args.rounds)


def compare(path: Path, variant: str, rounds: int) -> None:
    """Measure every loader on one file and print its rows and ratios."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass
    results: dict[str, list[tuple[float, float]]] = {loader: [] for loader in LOADERS}
    for _ in range(rounds):
        for loader in LOADERS:
            command = [sys.executable, __file__, "--measure", loader, str(path), variant]
            results[loader].append(json.loads(subprocess.check_output(command)))
    megabytes = path.stat().st_size / 1e6
    medians = {}
    for loader, runs in results.items():
        seconds, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        medians[loader] = seconds, peak
        print(
            f"{path.name:24} {megabytes:6.0f}  {loader:14} {seconds * 1e3:8.0f} {peak:8.0f} "
            f"{peak / megabytes:12.2f}"
        )
    ours, theirs = medians.values()
    time_ratio, memory_ratio = ours[0] / theirs[0], ours[1] / theirs[1]
    print(f"{'':24} {'':6}  {'ours / timm':14} {time_ratio:8.2f} {memory_ratio:8.2f}")


def measure(loader: str, path: str, variant: str) -> tuple[float, float]:
    """Return the seconds and megabytes that one load takes in this process."""
    load = {"bit_backbone": load_ours, "timm": load_timm}[loader](path, variant)
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest resident set so far
    before = resident("VmRSS")
    start = time.perf_counter()
    model = load()
    seconds = time.perf_counter() - start
    peak = resident("VmHWM") - before
    assert not any(parameter.is_meta for parameter in model.parameters())
    return seconds, peak


def load_ours(path: str, variant: str) -> Callable:
    """Import this package and return its loader."""
    from bit_backbone import BitForImageClassification
    from bit_backbone.checkpoints import pretrained  # noqa: F401, part of the imports

    return lambda: BitForImageClassification.from_pretrained(path)


def load_timm(path: str, variant: str) -> Callable:
    """Import timm and return its loader."""
    import timm

    name = f"resnetv2_{variant.removeprefix('R')}_bit"
    return lambda: timm.create_model(name, num_classes=NUM_LABELS, checkpoint_path=path)


def resident(field: str) -> float:
    """Return a line of /proc/self/status, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def write_official(path: Path, variant: str) -> Path:
    """Write random weights of a variant in the official layout."""
    import torch

    from bit_backbone import BitForImageClassification
    from bit_backbone.checkpoints import convert

    model = BitForImageClassification(variant, num_labels=NUM_LABELS)
    with torch.no_grad():
        convert(model.state_dict(), path, "npz")
    return path


def in_kind(source: Path, kind: str) -> Path:
    """Return the same weights as timm publishes them, for every kind but .npz."""
    from bit_backbone.checkpoints import convert

    if kind == "npz":
        return source
    target = source.with_suffix(f".{kind}")
    convert(source, target, "timm", overwrite=True)
    return target


def print_environment() -> None:
    """Say what the numbers were measured with."""
    import timm
    import torch

    import bit_backbone

    processor = platform.processor() or platform.machine()
    print(
        f"bit_backbone {bit_backbone.__version__}, timm {timm.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, {processor}, "
        f"{torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
