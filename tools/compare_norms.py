"""Which norms a feature pyramid on BiT should have, measured on DigitScenes or on real pictures.

    python tools/compare_norms.py [--output DIR] [--seeds 0 1 2] [--arms none preact ...]
    python tools/compare_norms.py --data DIR ...

Trains the tiny Faster R-CNN of ``make demo`` for a short while, two images a step, with each kind
of norm, with and without pre-training, and prints a Markdown table of COCO's average precision. It
learns to find digits, whatever they are, or the objects of a data set in COCO's, Pascal VOC's or
YOLO's format that has a training and a test part. Every run that ends adds a line to
``results.jsonl``, and a run that stands there is not repeated: the same command resumes the work
after an interruption, and two commands with different arms or seeds can share it.
"""

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from demo import draw_digits, learn
from experiments import Results, spread
from norm_arms import ARMS, NORMS, Arm, build, count_weights
from torch import Tensor

from bit_backbone import BitForImageClassification
from bit_backbone.datasets import CocoFolder, DigitScenes, build_scenes, open_document
from bit_backbone.detection import DetectionSettings, DetectorSpec, evaluate
from bit_backbone.detection.training import DetectionTask
from bit_backbone.detection.transforms import train_transforms
from bit_backbone.torchvision.tiny import TINY
from bit_backbone.utils.files import atomic_path, read_json
from bit_backbone.utils.processes import ONE_PROCESS
from bit_backbone.utils.progress import track

IMAGE_SIZE = (96, 96)
CATEGORY = "digit"  # one for all: classes take longer to learn than places
SCENES = {"train": 1000, "test": 200}
STEPS, REAL_STEPS = 400, 500
SETTINGS = {
    "digits": 6000,
    "pretraining_steps": 600,
    "batch_size": 2,
    "base_lr": 1e-3,
    "warmup_steps": 50,
    "clip_norm": 1.0,
}
REAL_ARMS = (*NORMS, "frozen-bn")
REAL_DETECTOR = {"min_size": 240}
# fewer proposals than in scenes of make demo, which hold more digits and more of anything else
DETECTOR = {
    "min_size": 96,
    "rpn_pre_nms_top_n_train": 200,
    "rpn_post_nms_top_n_train": 100,
    "rpn_pre_nms_top_n_test": 100,
    "rpn_post_nms_top_n_test": 50,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
}
RUN = ("seed", "pretrained", "arm")
METRICS = ("box_AP", "box_AP50")


def main() -> None:
    """Do the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/norms"))
    parser.add_argument("--data", type=Path, metavar="DIR", help="default: scenes with digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, metavar="ARM")
    parser.add_argument("--scenes", type=int, nargs=2, default=list(SCENES.values()))
    parser.add_argument("--steps", type=int, help=f"default {STEPS}, with --data {REAL_STEPS}")
    for name, value in SETTINGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in SETTINGS}
    settings["steps"] = args.steps or (REAL_STEPS if args.data else STEPS)
    if args.data is None:
        data = {s: open_scenes(args.output, s, n) for s, n in zip(SCENES, args.scenes, strict=True)}
        settings |= {"scenes": args.scenes, "detector": DETECTOR}
    else:
        data = {split: open_pictures(args.data, split) for split in SCENES}
        settings |= {"data": args.data.name, "detector": REAL_DETECTOR}
    arms = args.arms or (REAL_ARMS if args.data else [name for name in ARMS if name != "frozen-bn"])
    results = Results(args.output / "results.jsonl", settings)
    run_missing(results, [(s, p, a) for s in args.seeds for p in (True, False) for a in arms], data)
    print(table(results.read(), arms))


def run_missing(
    results: Results, wanted: list[tuple[int, bool, str]], data: dict[str, CocoFolder]
) -> None:
    """Do the runs, each a seed, whether it is pre-trained and an arm, that have no results yet."""
    settings, folder = results.settings, results.path.parent
    missing = [w for w in wanted if not results.find(**dict(zip(RUN, w, strict=True)))]
    for number, (seed, pretrained, arm) in enumerate(missing, 1):
        print(f"run {number} of {len(missing)}: {arm}, {pretrained=}, {seed=}", flush=True)
        weights = pretrain(folder, ARMS[arm], seed, settings) if pretrained else None
        began = time.monotonic()
        metrics = run(ARMS[arm], weights, data, seed, settings)
        seconds = round(time.monotonic() - began)
        results.add(arm=arm, pretrained=pretrained, seed=seed, seconds=seconds, **metrics)
        print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS), flush=True)


def open_pictures(path: Path, split: str) -> CocoFolder:
    """Open a part of a data set as ``bit-backbone train`` does; training mirrors images."""
    transforms = train_transforms(["hflip"] if split == "train" else [])
    return CocoFolder(open_document(path, split), transforms=transforms)


def open_scenes(output: Path, split: str, count: int) -> CocoFolder:
    """Make the scenes of a split, or find them made; only training distorts colours."""
    folder = output / f"{split}_{count}"
    scenes = DigitScenes(split, count, IMAGE_SIZE, num_objects=(3, 6), digit_height=(20, 32))
    build_scenes(scenes, folder, quiet=False)
    annotations = read_json(folder / "instances.json")
    annotations["categories"] = [{"id": 1, "name": CATEGORY}]
    annotations["annotations"] = [{**a, "category_id": 1} for a in annotations["annotations"]]
    with atomic_path(folder / f"{CATEGORY}.json") as temporary:
        temporary.write_text(json.dumps(annotations))
    names = ["photometric"] if split == "train" else []
    return CocoFolder(folder, annotations=f"{CATEGORY}.json", transforms=train_transforms(names))


def pretrain(output: Path, arm: Arm, seed: int, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a network of an arm's kind that classifies single digits."""
    steps = settings["pretraining_steps"]
    path = output / f"{arm.network}_{seed}_{settings['digits']}_{steps}.pt"
    if path.exists():
        return torch.load(path)
    torch.manual_seed(seed)
    model = BitForImageClassification(TINY.replace(feature_norm="none", num_labels=10))
    if arm.change is not None:
        arm.change(model)
    right = learn(model, *single_digits(output, settings["digits"]), steps)
    print(f"pre-training: {right:.0%} of distorted digits right at the end", flush=True)
    save(model.state_dict(), path)
    return model.state_dict()


def single_digits(output: Path, count: int) -> tuple[Tensor, Tensor]:
    """Return the images and labels to pre-train on, drawn once."""
    path = output / f"digits_{count}.pt"
    if not path.exists():
        save(draw_digits(0, count), path)
    return torch.load(path)


def save(values: Any, path: Path) -> None:
    """Write a file, whole or not at all."""
    with atomic_path(path) as temporary:
        torch.save(values, temporary)


def run(
    arm: Arm,
    weights: dict[str, Tensor] | None,
    data: dict[str, CocoFolder],
    seed: int,
    settings: dict[str, Any],
) -> dict[str, float]:
    """Train a detector of an arm's kind from weights or from scratch; return COCO's metrics."""
    training = DetectionSettings(
        steps=settings["steps"],
        batch_size=settings["batch_size"],
        optimizer="adamw",
        base_lr=settings["base_lr"],
        warmup_steps=settings["warmup_steps"],
        clip_norm=settings["clip_norm"],
        seed=seed,
    )
    torch.manual_seed(seed)
    spec = DetectorSpec("fasterrcnn_bit_tiny_fpn", data["train"].categories)
    task = DetectionTask(spec, data["train"], None, training, ONE_PROCESS)
    task.begin(build(arm, weights, len(spec.categories) + 1, settings["detector"]))
    print("{:,} weights in the backbone, {:,} of them train".format(*count_weights(task.model)))
    batches = task.batches(range(training.steps))
    for step, batch in enumerate(track(batches, "training", training.steps)):
        task.train_step(batch, step)
    return evaluate(task.model, data["test"])


def table(results: list[dict[str, Any]], arms: Iterable[str]) -> str:
    """Return mean ± standard deviation over the seeds of each metric, in percent, in Markdown."""
    columns = [(metric, pretrained) for pretrained in (True, False) for metric in METRICS]
    heads = [f"{m[4:]}, {'pre-trained' if p else 'from scratch'}" for m, p in columns]
    lines = ["| " + " | ".join(["", *heads]) + " |", "|---" + "|---:" * len(heads) + "|"]
    for arm in arms:
        own = [run for run in results if run["arm"] == arm]
        cells = [spread([r[m] for r in own if r["pretrained"] == p]) for m, p in columns]
        lines.append("| " + " | ".join([ARMS[arm].title, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
