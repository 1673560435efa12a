"""Fine-tuning: a classifier by BiT-HyperRule on a few examples of each class.

    python examples/finetune_digits.py [--steps 150] [--examples-per-class 20]
    python examples/finetune_digits.py --checkpoint BiT-M-R50x1 --steps 500

The digits ship with scikit-learn. Without --checkpoint a small BiT learns them from nothing.
Folders of images are what `bit-backbone finetune` is for.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils.data import Subset, TensorDataset

from bit_backbone import BitForImageClassification
from bit_backbone.finetune import FineTuneSettings, finetune, select_few_shot
from bit_backbone.torchvision.tiny import TINY

SIZE = 32  # pixels; the digits have 8


def main() -> None:
    """Draw the examples, train, evaluate and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", help="where to start from; default: nothing")
    parser.add_argument("--steps", type=int, default=150, help="default: %(default)s")
    parser.add_argument("--examples-per-class", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("run"))
    args = parser.parse_args()
    torch.manual_seed(0)
    images, labels = digits()
    train_part = TensorDataset(images[:1347], labels[:1347])  # the others are other writers'
    test_set = TensorDataset(images[1347:], labels[1347:])
    chosen = select_few_shot(labels[:1347].numpy(), args.examples_per_class, seed=0)
    settings = FineTuneSettings(steps=args.steps, batch_size=64, base_lr=0.01)
    model = classifier(args.checkpoint)
    result = finetune(
        model, Subset(train_part, chosen), args.output, settings, eval_set=test_set, device="cpu"
    )
    if result.metrics is None:
        print(f"saved after step {result.step}; the same command resumes it")
        return
    model.save_pretrained(args.output / "model")
    print(f"top-1 {result.metrics.top1:.1%} on {len(test_set)} digits of other writers")
    print(f"the classifier is {args.output / 'model'}")


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [N, 3, SIZE, SIZE] in -1..1 and their labels."""
    data = load_digits()
    grey = torch.from_numpy(data.images).float()[:, None] / 8 - 1
    large = F.interpolate(grey, (SIZE, SIZE), mode="bilinear")
    return large.expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(data.target).long()


def classifier(checkpoint: str | None) -> BitForImageClassification:
    """Return a classifier of ten classes."""
    if checkpoint is None:
        return BitForImageClassification(TINY.replace(feature_norm="none", num_labels=10))
    model = BitForImageClassification.from_pretrained(checkpoint, head="drop")
    model.reset_classifier(10, zero=True)
    return model


if __name__ == "__main__":
    main()
