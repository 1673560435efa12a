"""Estimate what training a detector takes of a GPU, for every variant, and write it down.

    python tools/memory_table.py [--output docs/memory.md] [--variants R50x1 ...]

Faster R-CNN with FPN on 2 images of 800x1333 in each process, SGD with momentum. The table between
the two markers of the document is replaced; nothing is allocated.
"""

import argparse
from pathlib import Path

from bit_backbone.config import VARIANTS
from bit_backbone.torchvision import fasterrcnn_bit_fpn
from bit_backbone.training.memory import TrainingOptions, detector_step, training_memory
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.progress import track

SHAPE = (2, 3, 800, 1333)
FSDP = 8
COLUMNS = {
    "float32": TrainingOptions(),
    "float32, checkpointing": TrainingOptions(grad_checkpointing=True),
    "bfloat16": TrainingOptions(amp=True),
    "bfloat16, checkpointing": TrainingOptions(amp=True, grad_checkpointing=True),
    f"the same, FSDP over {FSDP}": TrainingOptions(
        amp=True, grad_checkpointing=True, processes=FSDP
    ),
}
GPUS = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GiB, about, that are sold
CONTEXT, FRAGMENTS = 1.0, 1.1  # GiB of CUDA and cuDNN; what the allocator cannot use
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/memory.md"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    cells = [(variant, column) for variant in args.variants for column in COLUMNS]
    bar = track(cells, "estimating")
    table = markdown({cell: estimate(*cell) for cell in bar}, args.variants)
    print(table)
    before, _, rest = args.output.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    with atomic_path(args.output) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


def estimate(variant: str, column: str) -> float:
    """Return the GiB of one process."""
    memory = training_memory(
        lambda: fasterrcnn_bit_fpn(variant=variant), SHAPE, COLUMNS[column], detector_step
    )
    return memory.peak / 2**30


def markdown(peaks: dict[tuple[str, str], float], variants: list[str]) -> str:
    """Return the table, with the smallest GPU after each estimate."""
    lines = ["| variant | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for variant in variants:
        shown = [f"{peaks[variant, c]:.1f} ({smallest_gpu(peaks[variant, c])})" for c in COLUMNS]
        lines.append(f"| {variant} | {' | '.join(shown)} |")
    return "\n".join(lines)


def smallest_gpu(peak: float) -> str:
    """Return the memory of the smallest GPU on which a peak in GiB fits."""
    return next((str(gpu) for gpu in GPUS if peak * FRAGMENTS + CONTEXT <= gpu), "none")


if __name__ == "__main__":
    main()
