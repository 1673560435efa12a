"""Throughput of extraction, side by side with a plain loop over transformers' BitBackbone.

    python tools/benchmark_extraction.py [--variant R50x1] [--images 48] [--short-side 224]

Writes photographs of several sizes as JPEG files, and has each way write the same feature maps of
them: the loop opens, preprocesses and runs one image after the other, as the documentation of
transformers does, and saves .npy files. The ways take turns, each in a process of its own; times
are only those of the images, without imports and the building of the network. Prints images per
second, the ratio to the loop, and the share of the time that goes into reading and resizing.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OUT_INDICES = [1, 2, 3]
SIZES = ((640, 480), (480, 640), (500, 375), (640, 427))
LOOP = "loop over transformers"
# name -> processes that read ahead, what the network computes in
EXTRACTIONS = {
    "extract, 1 process": (0, "fp32"),
    "extract, 1 worker": (1, "fp32"),
    "extract, 2 workers": (2, "fp32"),
    "extract, 1 process, bf16": (0, "bf16"),
    "extract, 2 workers, bf16": (2, "bf16"),
    "extract, 1 process, int8": (0, "int8"),
}


def main() -> None:
    """Write the photographs, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="R50x1")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--short-side", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        way, folder = args.measure
        print(json.dumps(measure(way, Path(folder), args)))
        return
    print_environment()
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder), args.images)
        compare(folder, args)


def compare(folder: str, args: argparse.Namespace) -> None:
    """Measure every way in turn and print the table."""
    results: dict[str, list[tuple[float, float]]] = {way: [] for way in (LOOP, *EXTRACTIONS)}
    for _ in range(args.rounds):
        for way, runs in results.items():
            command = [sys.executable, *sys.argv, "--measure", way, folder]
            runs.append(json.loads(subprocess.check_output(command)))
    loop = statistics.median(seconds for seconds, _ in results[LOOP])
    print(f"{args.variant}, {args.images} images, short side {args.short_side}, {OUT_INDICES}")
    print(f"{'':24} {'images/s':>9} {'ratio':>6} {'decoding':>9}")
    for way, runs in results.items():
        seconds = statistics.median(seconds for seconds, _ in runs)
        share = statistics.median(decoding / seconds for seconds, decoding in runs)
        print(f"{way:24} {args.images / seconds:9.2f} {loop / seconds:6.2f} {share:9.1%}")


def measure(way: str, folder: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds that a way takes, and those it spends on reading and resizing."""
    with tempfile.TemporaryDirectory() as output:
        if way == LOOP:
            return measure_loop(folder, Path(output), args)
        return measure_extraction(folder, Path(output), *EXTRACTIONS[way], args)


def measure_loop(folder: Path, output: Path, args: argparse.Namespace) -> tuple[float, float]:
    """Time transformers' backbone and image processor over the files, one by one."""
    import torch
    from PIL import Image
    from transformers import BitBackbone, BitConfig, BitImageProcessor

    model = BitBackbone(BitConfig(**their_network(args.variant), out_indices=OUT_INDICES)).eval()
    size = {"shortest_edge": args.short_side}
    processor = BitImageProcessor(
        size=size, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    decoding = 0.0
    start = time.perf_counter()
    for path in sorted(folder.iterdir()):
        before = time.perf_counter()
        image = Image.open(path).convert("RGB")
        inputs = processor(image, return_tensors="pt")
        decoding += time.perf_counter() - before
        with torch.no_grad():
            maps = model(**inputs).feature_maps
        for stage, feature in zip(OUT_INDICES, maps, strict=True):
            np.save(output / f"{path.stem}.stage{stage}.npy", feature[0].numpy())
    return time.perf_counter() - start, decoding


def their_network(variant: str) -> dict:
    """Return the depths and widths of a variant, as transformers' BitConfig takes them."""
    from bit_backbone import BitConfig

    config = BitConfig.from_variant(variant)
    return {
        "depths": list(config.depths),
        "hidden_sizes": list(config.channels[1:]),
        "embedding_size": config.stem_channels,
        "layer_type": config.layer_type,
    }


def measure_extraction(
    folder: Path, output: Path, workers: int, precision: str, args: argparse.Namespace
) -> tuple[float, float]:
    """Time our extraction into .npy shards, as ``bit-backbone extract`` does it."""
    from bit_backbone import BitBackbone, BitImageProcessor
    from bit_backbone.extraction import LocalEngine, OutputSettings, extract

    backbone = BitBackbone(args.variant, out_indices=OUT_INDICES).eval()
    processor = BitImageProcessor(size=args.short_side, do_center_crop=False)
    engine = LocalEngine(workers, in_place=True)
    start = time.perf_counter()
    summary = extract(
        folder, output, backbone,
        processor=processor, batch_size=args.batch_size, engine=engine,
        output=OutputSettings(precision=precision),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    assert summary.written == args.images
    return seconds, engine.decoding_seconds


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEG files of the sizes that photographs on the web have."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for index in range(count):
        picture = photographs[index % 2].resize(SIZES[index % len(SIZES)])
        picture.save(folder / f"{index:05d}.jpg", quality=90)


def print_environment() -> None:
    """Say what the numbers were measured with."""
    import torch
    import transformers

    import bit_backbone

    print(
        f"bit_backbone {bit_backbone.__version__}, transformers {transformers.__version__}, "
        f"torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )


if __name__ == "__main__":
    main()
