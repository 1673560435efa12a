"""Checkpoints: one network through every format and back, the same to the bit.

    python examples/convert_checkpoints.py [--source BiT-M-R50x1-ILSVRC2012] [--output converted]

Without --source a small network with random weights takes the place of a published one.
"""

import argparse
from pathlib import Path

import torch

from bit_backbone import BitConfig, BitForImageClassification
from bit_backbone.checkpoints import convert, load

TARGETS = {
    "npz": "bit.npz",
    "torch": "bit.pth",
    "timm": "bit_timm.safetensors",
    "transformers": "bit_transformers",  # a folder, with a config.json
    "detectron2": "bit_detectron2.pkl",
    "native": "bit.safetensors",
}


def main() -> None:
    """Convert from format to format, and compare what comes out at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", help="a checkpoint; default: a small network, made now")
    parser.add_argument("--output", type=Path, default=Path("converted"))
    args = parser.parse_args()
    torch.manual_seed(0)
    args.output.mkdir(parents=True, exist_ok=True)
    first = source = args.source or save_small(args.output / "source")
    for format, name in TARGETS.items():
        report = convert(source, args.output / name, format, overwrite=True)
        print(report)
        source = args.output / name
    model = BitForImageClassification.from_pretrained(first)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    print(load(model, source))
    same = all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    print(f"every one of {len(before)} tensors is the same: {same}")
    if not same:
        raise SystemExit(1)


def save_small(folder: Path) -> Path:
    """Save a small classifier as transformers would, and return the folder."""
    # With 32 groups, the default: a file of weights does not say how many there were.
    config = BitConfig(
        embedding_size=32, hidden_sizes=(128, 256, 512, 1024), depths=(1, 2, 1, 1), num_labels=10
    )
    BitForImageClassification(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
