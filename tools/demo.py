"""Run the main job on the two photographs that ship with scikit-learn.

    python tools/demo.py [--output DIR] [FEATURES OPTION...]

Options it does not know go to ``bit-backbone features``.
"""

import argparse
import sys
from importlib.resources import as_file, files
from pathlib import Path

from bit_backbone.cli import main as bit_backbone

PHOTOGRAPHS = ("china.jpg", "flower.jpg")


def main() -> int:
    """Extract the features of stages 1 to 3 and say where their pictures are."""
    parser = argparse.ArgumentParser(description="Features of two photographs, as pictures.")
    parser.add_argument("--output", type=Path, default=Path("demo"), help="default: %(default)s")
    args, options = parser.parse_known_args()
    with as_file(files("sklearn.datasets") / "images") as folder:
        photographs = [str(folder / name) for name in PHOTOGRAPHS]
        request = ["--out-indices", "1", "2", "3", "--output", str(args.output), *options]
        status = bit_backbone(["features", *photographs, *request])
    if status == 0:
        print("The pictures are in", args.output.resolve())
    return status


if __name__ == "__main__":
    sys.exit(main())
