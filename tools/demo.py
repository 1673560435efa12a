"""The main job, start to end, on two cores and in a few minutes, with nothing to download.

    python tools/demo.py [--output DIR] [--seed N]

Draws feature maps of two photographs; makes DigitScenes, handwritten digits on photographs;
trains a small BiT to classify single digits; trains Faster R-CNN on it to find them in scenes;
evaluates on scenes with other digits, by other writers, on other photographs. What is done is not
done again: the same command resumes it where it was interrupted.
"""

import argparse
import sys
import time
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import BitForImageClassification
from bit_backbone.checkpoints.sources import CONFIG_FILE
from bit_backbone.cli import INTERRUPTED
from bit_backbone.cli import main as bit_backbone
from bit_backbone.cli.options import SIGNALLED
from bit_backbone.datasets import CocoFolder, DigitScenes, build_scenes
from bit_backbone.detection import DetectionSettings, DetectorSpec, TrainingResult, train
from bit_backbone.detection.reports import metrics_table, save_comparison
from bit_backbone.detection.settings import TINY_TRAINING
from bit_backbone.detection.transforms import train_transforms
from bit_backbone.torchvision.tiny import TINY
from bit_backbone.training.progress import Progress
from bit_backbone.utils.progress import track

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SCENES = {"train": 1000, "test": 200}
DIGITS = 6000  # single ones, in images of 64x64
PRETRAINING = {"steps": 500, "batch_size": 64, "rate": 3e-3}
TRAINING = {**TINY_TRAINING, "steps": 500, "batch_size": 4}
GOAL = 0.5
PICTURED = 6
REPORTED = 50  # batches of pre-training, over which what was right is averaged


def main() -> int:
    """Run the steps; the exit status is 1 below the goal, 128 + its number after a signal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo"), help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    args = parser.parse_args()
    began = time.monotonic()
    draw_features(args.output / "features")
    data = {split: make_scenes(args.output / "scenes", split) for split in SCENES}
    backbone = args.output / f"backbone_{args.seed}"
    if not (backbone / CONFIG_FILE).exists():
        pretrain(backbone, args.seed)
    result, picture = detect(data, backbone, args.output / f"run_{args.seed}", args.seed)
    metrics = result.metrics
    if metrics is None:
        print(f"stopped at step {result.step} and saved; the same command resumes it")
        return SIGNALLED + result.signal
    Console().print(metrics_table(metrics, f"unseen test scenes, seed {args.seed}"))
    print(f"Feature maps: {args.output / 'features'}. Detections beside ground truth: {picture}.")
    print(f"{time.monotonic() - began:.0f} s since this start. Try it on any image:")
    print(f"  {sys.executable} -m bit_backbone detect IMAGE --weights {picture.parent}")
    return 0 if metrics["box_AP50"] >= GOAL else 1


def draw_features(output: Path) -> None:
    """Draw the feature maps of stages 1 to 3 for two photographs."""
    with as_file(files("sklearn.datasets") / "images") as folder:
        photographs = [str(folder / name) for name in PHOTOGRAPHS]
        request = ["features", *photographs, "--out-indices", "1", "2", "3"]
        status = bit_backbone([*request, "--output", str(output)])
    if status:
        raise SystemExit(status)


def make_scenes(folder: Path, split: str) -> CocoFolder:
    """Make the scenes of a split, and open them; only training distorts colours."""
    build_scenes(DigitScenes(split, SCENES[split]), folder / split, workers=2, quiet=False)
    # no mirrored digits: they are other digits, or none
    names = ["photometric"] if split == "train" else []
    return CocoFolder(folder / split, transforms=train_transforms(names))


def pretrain(path: Path, seed: int) -> None:
    """Train the backbone to classify digits, one in each image, and save it as a classifier."""
    torch.manual_seed(seed)
    images, labels = draw_digits(seed)
    names = {digit: str(digit) for digit in range(10)}
    config = TINY.replace(feature_norm="none", num_labels=10, id2label=names)
    model = BitForImageClassification(config)
    right = learn(model, images, labels, PRETRAINING["steps"])
    print(f"pre-training: {right:.0%} of distorted digits right at the end (by chance: 10%)")
    model.save_pretrained(path)


def learn(model: nn.Module, images: Tensor, labels: Tensor, steps: int) -> float:
    """Train a classifier on distorted images, uint8 [N, 3, H, W].

    Returns:
        The part of the last batches that it had right.
    """
    model.train()
    rate = PRETRAINING["rate"]
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    right = []
    with Progress(enabled=True) as progress:
        bar = progress.training("pre-training", steps, 0)
        for step in range(1, steps + 1):
            loss, hits = learn_batch(model, images, labels, optimizer)
            schedule.step()
            right.append(hits)
            bar.advance(1, loss=loss, right=hits)
            if step % REPORTED == 0:
                progress.report(f"step {step} of {steps}", right=float(np.mean(right[-REPORTED:])))
    return float(np.mean(right[-REPORTED:]))


def learn_batch(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Make a step on a random batch; return the loss, and the part that was right."""
    chosen = torch.randint(len(images), (PRETRAINING["batch_size"],))
    logits = model(vary(images[chosen].float() / 127.5 - 1)).logits
    optimizer.zero_grad()
    loss = F.cross_entropy(logits, labels[chosen])
    loss.backward()
    optimizer.step()
    return loss.item(), (logits.argmax(1) == labels[chosen]).float().mean().item()


def draw_digits(seed: int, count: int = DIGITS) -> tuple[Tensor, Tensor]:
    """Draw single digits of the training split: uint8 [N, 3, 64, 64], and which they are [N]."""
    scenes = DigitScenes(
        "train", count, image_size=(64, 64), num_objects=(1, 1), digit_height=(24, 32), seed=seed
    )
    drawn = [scenes[i] for i in track(range(count), "digits")]
    images = torch.from_numpy(np.stack([scene.image for scene in drawn])).permute(0, 3, 1, 2)
    return images, torch.tensor([scene.labels[0] for scene in drawn])


def vary(images: Tensor) -> Tensor:
    """Turn, scale, shear, shift and recolour images [N, 3, H, W] in -1..1, each on its own."""
    count = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(count, *shape).uniform_(low, high)

    angle, scale, aspect = uniform(-0.3, 0.3), uniform(0.8, 1.25), uniform(0.85, 1.18)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    rows = [cos * aspect, -sin, uniform(-0.15, 0.15), sin, cos / aspect, uniform(-0.15, 0.15)]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), images.shape, align_corners=False)
    turned = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    channels = torch.rand(count, 3).argsort(1)[:, :, None, None].expand_as(turned)
    return turned.gather(1, channels) * uniform(0.6, 1.2, 3, 1, 1) + uniform(-0.3, 0.3, 3, 1, 1)


def detect(
    data: dict[str, CocoFolder], backbone: Path, run: Path, seed: int
) -> tuple[TrainingResult, Path]:
    """Train and evaluate the detector, and draw what it finds."""
    arguments = {"weights_backbone": str(backbone), "trainable_backbone_layers": 5}
    spec = DetectorSpec("fasterrcnn_bit_tiny_fpn", data["train"].categories, arguments)
    settings = DetectionSettings(**TRAINING, seed=seed)
    result = train(spec, data["train"], run, settings, eval_set=data["test"])
    picture = run / "detections.jpg"
    if result.metrics is not None:
        save_comparison(result.model, data["test"], PICTURED, picture)
    return result, picture


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("stopped; the same command resumes it with what is not done yet")
        sys.exit(INTERRUPTED)
