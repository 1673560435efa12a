"""Draws the pictures of the front page: what a detector finds in photographs, and their features.

bit-backbone train --train BCCD_Dataset/BCCD --output run
python tools/front_page.py BCCD_Dataset/BCCD run --output docs/images
"""

import argparse
import tempfile
from pathlib import Path

from PIL import Image

from bit_backbone.cli import main as bit_backbone
from bit_backbone.utils.files import atomic_path
from bit_backbone.visualization import beside

DETECTED = ("BloodImage_00007", "BloodImage_00062")  # both of the test set
MAPPED = "BloodImage_00062"
STAGES = ("stage1", "stage2", "stage3", "stage4")
PANEL = (320, 240)


def main() -> None:
    """Draws both pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder BCCD of the data set's repository")
    parser.add_argument("run", type=Path, help="folder of a run of train on it")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        save(detections(args.data, args.run, Path(folder)), args.output / "cells_found.jpg")
        save(features(args.data, args.run, Path(folder)), args.output / "cells_features.jpg")


def photograph(data: Path, name: str) -> str:
    """Returns the path of a photograph."""
    return str(data / "JPEGImages" / f"{name}.jpg")


def call(arguments: list[str]) -> None:
    """Runs the command, and ends where it fails."""
    status = bit_backbone(arguments)
    if status:
        raise SystemExit(status)


def detections(data: Path, run: Path, folder: Path) -> Image.Image:
    """Returns the photographs with what ``bit-backbone detect`` finds, side by side."""
    images = [photograph(data, name) for name in DETECTED]
    call(["detect", *images, "--weights", str(run), "--output", str(folder)])
    pictures = [Image.open(folder / f"{name}_detections.png") for name in DETECTED]
    return beside(*(picture.convert("RGB") for picture in pictures))


def features(data: Path, run: Path, folder: Path) -> Image.Image:
    """Returns a photograph and the pictures of its stages by ``bit-backbone features``."""
    image = photograph(data, MAPPED)
    network = ["--weights", str(run), "--feature-norm", "preact", "--out-features", *STAGES]
    call(["features", image, *network, "--output", str(folder)])
    pictures = [Image.open(folder / f"{MAPPED}_{stage}.png") for stage in STAGES]
    width, height = pictures[0].size  # the photograph, and to its right the stage
    maps = [picture.crop((width // 2, 0, width, height)) for picture in pictures]
    return beside(*(panel.convert("RGB").resize(PANEL) for panel in (Image.open(image), *maps)))


def save(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG."""
    with atomic_path(path) as temporary:
        picture.save(temporary, "JPEG", quality=85)


if __name__ == "__main__":
    main()
