"""BiT's claim, shown on digits: pre-training helps most where examples are few.

    python tools/transfer_digits.py [--output DIR]

Pre-trains a small BiT on the digits 0 to 4, pasted on photographs, in four orientations that count
as classes of their own. Then learns the digits 5 to 9 from 1, 5 and 20 examples of each: by
BiT-HyperRule from those weights, and from scratch with the rate and the length that serve scratch
best on held-out images. Evaluates on digits of other writers on other photographs, prints a
Markdown table and draws a plot. Every run that ends adds a line to ``results.jsonl``, and what
stands there is not run again: the same command resumes it where it was interrupted.
"""

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo import learn
from experiments import Results, line_plot, spread
from PIL import Image
from torch.utils.data import Dataset

from bit_backbone import BitForImageClassification
from bit_backbone.datasets import DigitScenes
from bit_backbone.finetune import (
    FineTuneSettings,
    Resolution,
    eval_transform,
    finetune,
    select_few_shot,
    train_transform,
)
from bit_backbone.torchvision.tiny import TINY
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.progress import track

NETWORK = TINY.replace(feature_norm="none")
SIDE = 40  # of a picture, in pixels
RESOLUTION = Resolution(resize=46, crop=SIDE)
CLASSES = 5  # upstream the digits 0 to 4, downstream 5 to 9
TURNS = 4  # by a right angle: classes of their own upstream
SHOTS = (1, 5, 20)
# Smaller than the rule's 500 steps of 512 images, so that all ends within minutes.
SETTINGS = {
    "images": 6000,
    "upstream_steps": 800,
    "steps": 100,
    "batch_size": 16,
    "draws": 5,
    "rates": [0.01, 0.03, 0.1],
    "lengths": [1],
}
EXTENT = ("draws", "rates", "lengths")  # say which runs there are, and change none
RULE = {"rate": 0.003, "length": 1}
CHOOSING = 1000  # the draw of examples that rate and length are chosen with, and is not reported
KINDS = {"transfer": "BiT-HyperRule, pre-trained", "scratch": "from scratch, tuned"}


@dataclass(frozen=True)
class Digits:
    """Pictures of one digit each.

    Attributes:
        images: uint8 [N, SIDE, SIDE, 3].
        labels: int64 [N].
    """

    images: np.ndarray
    labels: np.ndarray

    def take(self, which: Any) -> "Digits":
        """Return some of them."""
        return Digits(self.images[which], self.labels[which])


class Pictures(Dataset):
    """Digits as ``finetune`` takes them."""

    def __init__(self, digits: Digits, transform: Any) -> None:
        self.digits, self.transform = digits, transform

    def __len__(self) -> int:
        return len(self.digits.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.digits.images[index])
        return self.transform(image), int(self.digits.labels[index])


def main() -> None:
    """Do the runs that are missing, print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/transfer"))
    for name, value in SETTINGS.items():
        if isinstance(value, list):
            parser.add_argument(f"--{name}", type=type(value[0]), nargs="+", default=value)
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in SETTINGS}
    experiment = Experiment(args.output, settings)
    for shots in SHOTS:
        for draw in range(args.draws):
            experiment.accuracy("transfer", shots, draw, **RULE)
    choices = {shots: experiment.choose(shots) for shots in SHOTS}
    print(experiment.table(choices))
    plot = args.output / "transfer.svg"
    experiment.draw_plot(plot, choices)
    print(f"Plot: {plot}")


class Experiment:
    """The pictures, the pre-trained network and the runs.

    Args:
        output: Folder for the pre-trained network and the results.
        settings: With the keys of ``SETTINGS``.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        self.settings = settings
        same = {name: value for name, value in settings.items() if name not in EXTENT}
        self.results = Results(output / "results.jsonl", same)
        train, self.test = draw("train", settings["images"]), draw("test", settings["images"] // 6)
        self.test = downstream(self.test)
        pool = downstream(train)
        # the first part is drawn from, the rest chooses rate and length
        parts = np.split(np.arange(len(pool.labels)), [len(pool.labels) * 7 // 10])
        self.pool, self.validation = (pool.take(part) for part in parts)
        self.upstream = output / f"upstream_{settings['images']}_{settings['upstream_steps']}"
        if not self.upstream.exists():
            pretrain(train.take(train.labels < CLASSES), self.upstream, settings["upstream_steps"])

    def choose(self, shots: int) -> dict[str, Any]:
        """Return the rate and the length from which scratch learns best, on held-out images."""
        choices = [
            {"rate": rate, "length": length}
            for length in self.settings["lengths"]
            for rate in self.settings["rates"]
        ]
        return max(choices, key=lambda c: self.accuracy("scratch", shots, CHOOSING, **c))

    def accuracy(self, kind: str, shots: int, draw: int, rate: float, length: int) -> float:
        """Return the part of the digits that is right after a run, which is done if it is new."""
        facts = {"kind": kind, "shots": shots, "draw": draw, "rate": rate, "length": length}
        for done in self.results.find(**facts):
            return done["accuracy"]
        few = self.pool.take(select_few_shot(self.pool.labels, shots, draw, CLASSES))
        settings = FineTuneSettings(
            batch_size=self.settings["batch_size"],
            base_lr=rate,
            steps=self.settings["steps"] * length,
            seed=draw,
        )
        model = self.network(kind, draw)
        accuracy = run(model, few, self.validation if draw == CHOOSING else self.test, settings)
        self.results.add(**facts, accuracy=accuracy)
        print("  ".join(f"{k} {v}" for k, v in facts.items()), f" {accuracy:.1%}", flush=True)
        return accuracy

    def network(self, kind: str, seed: int) -> BitForImageClassification:
        """Return the network to train: pre-trained under a head of zeros, or random."""
        torch.manual_seed(seed)
        if kind == "scratch":
            return BitForImageClassification(NETWORK.replace(num_labels=CLASSES))
        model = BitForImageClassification.from_pretrained(self.upstream, head="drop")
        model.reset_classifier(CLASSES, zero=True)
        return model

    def reported(self, choices: dict[int, dict[str, Any]]) -> dict[str, list[list[float]]]:
        """Return for each kind, at each number of examples, the accuracy of each draw."""
        draws = range(self.settings["draws"])
        return {
            kind: [
                [
                    self.accuracy(kind, s, d, **(RULE if kind == "transfer" else choices[s]))
                    for d in draws
                ]
                for s in SHOTS
            ]
            for kind in KINDS
        }

    def table(self, choices: dict[int, dict[str, Any]]) -> str:
        """Return mean ± standard deviation over the draws, in percent, in Markdown."""
        columns = [f"{shots} per class" for shots in SHOTS]
        lines = [f"| accuracy, % | {' | '.join(columns)} |", "|---" + "|---:" * len(SHOTS) + "|"]
        reported = self.reported(choices)
        for kind, values in reported.items():
            lines.append(f"| {KINDS[kind]} | {' | '.join(map(spread, values))} |")
        gains = [
            [t - s for t, s in zip(*pairs, strict=True)]
            for pairs in zip(reported["transfer"], reported["scratch"], strict=True)
        ]
        lines.append(f"| difference, per selection | {' | '.join(map(spread, gains))} |")
        chosen = (f"rate {c['rate']}, {c['length']} x the steps" for c in choices.values())
        lines.append(f"| settings chosen for scratch | {' | '.join(chosen)} |")
        return "\n".join(lines)

    def draw_plot(self, path: Path, choices: dict[int, dict[str, Any]]) -> None:
        """Write the table as a drawing, in SVG."""
        lines = {
            KINDS[kind]: [
                (100 * statistics.mean(v), 100 * statistics.stdev(v) if len(v) > 1 else 0.0)
                for v in values
            ]
            for kind, values in self.reported(choices).items()
        }
        drawing = line_plot(lines, list(map(str, SHOTS)), "examples per class", "accuracy, %")
        with atomic_path(path) as temporary:
            temporary.write_text(drawing)


def draw(split: str, count: int) -> Digits:
    """Draw pictures of a split's digits, each in the middle of a part of a photograph."""
    scenes = DigitScenes(split, count, (64, 64), num_objects=(1, 1), digit_height=(26, 32))
    indices = track(range(count), f"{split} digits")
    drawn = [scenes[i] for i in indices]
    images = [crop(scene.image, scene.masks[0]) for scene in drawn]
    return Digits(np.stack(images), np.array([scene.labels[0] for scene in drawn]))


def crop(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Cut a square of SIDE pixels around a mask out of an image, or as near as there is room."""
    corner = []
    for axis, length in enumerate(mask.shape):
        filled = np.flatnonzero(mask.any(axis=1 - axis))
        middle = (filled[0] + filled[-1] + 1) // 2
        corner.append(int(np.clip(middle - SIDE // 2, 0, length - SIDE)))
    top, left = corner
    return image[top : top + SIDE, left : left + SIDE]


def downstream(digits: Digits) -> Digits:
    """Return the digits 5 to 9, as classes 0 to 4."""
    some = digits.take(digits.labels >= CLASSES)
    return Digits(some.images, some.labels - CLASSES)


def pretrain(digits: Digits, folder: Path, steps: int) -> None:
    """Teach a network which digit it sees, and how it is turned; save it as a folder."""
    torch.manual_seed(0)
    turned = [np.rot90(digits.images, turns, axes=(1, 2)) for turns in range(TURNS)]
    images = torch.from_numpy(np.concatenate(turned)).permute(0, 3, 1, 2)
    labels = np.concatenate([TURNS * digits.labels + turns for turns in range(TURNS)])
    model = BitForImageClassification(NETWORK.replace(num_labels=TURNS * CLASSES))
    right = learn(model, images, torch.from_numpy(labels), steps)
    print(f"pre-training: {right:.0%} of distorted digits right at the end", flush=True)
    model.save_pretrained(folder)


def run(
    model: BitForImageClassification, few: Digits, evaluated: Digits, settings: FineTuneSettings
) -> float:
    """Train on a few pictures, and return the part of the evaluated ones that is right."""
    train_set = Pictures(few, train_transform(RESOLUTION, flip=False))
    eval_set = Pictures(evaluated, eval_transform(RESOLUTION))
    with tempfile.TemporaryDirectory() as folder:
        result = finetune(model, train_set, folder, settings, eval_set=eval_set, device="cpu")
    if result.metrics is None:
        raise SystemExit(128 + result.signal)
    return result.metrics.top1


if __name__ == "__main__":
    main()
