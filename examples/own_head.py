"""Plain PyTorch: a head of your own on BiT's feature maps, which labels every pixel.

    python examples/own_head.py [--steps 60] [--weights BiT-M-R50x1]

Without --weights a small BiT is trained from nothing on DigitScenes, on a CPU and in a minute.
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone import BitBackbone
from bit_backbone.datasets import DigitScenes
from bit_backbone.torchvision.tiny import TINY

CLASSES = 11  # ten digits and the background


class Segmenter(nn.Module):
    """Adds up the maps of every stage at the finest one's size, and labels what comes out."""

    def __init__(self, backbone: BitBackbone, width: int = 32) -> None:
        super().__init__()
        self.backbone = backbone
        self.laterals = nn.ModuleList(nn.Conv2d(c, width, 1) for c in backbone.channels)
        self.predict = nn.Conv2d(width, CLASSES, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [N, 3, H, W] in -1..1 to logits [N, CLASSES, H, W]."""
        features = list(self.backbone(images).values())  # shallow to deep
        size = features[0].shape[-2:]
        levels = [
            F.interpolate(lateral(feature), size, mode="bilinear")
            for lateral, feature in zip(self.laterals, features, strict=True)
        ]
        logits = self.predict(torch.stack(levels).sum(0))
        return F.interpolate(logits, images.shape[-2:], mode="bilinear")


def main() -> None:
    """Train, and say how many of the digits' pixels get the right label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="default: %(default)s")
    parser.add_argument("--weights", help="of R50x1; default: a small network, from nothing")
    args = parser.parse_args()
    torch.manual_seed(0)
    outputs = {"out_indices": (1, 2, 3, 4), "feature_norm": "preact"}
    config = TINY if args.weights is None else "R50x1"
    model = Segmenter(BitBackbone(config, weights=args.weights, **outputs))
    scenes = DigitScenes("train", 8 * args.steps, image_size=(96, 96), digit_height=(32, 48))
    train(model, scenes, args.steps)
    unseen = DigitScenes("test", 16, image_size=(96, 96), digit_height=(32, 48))
    print(f"{evaluate(model, unseen):.0%} of the digits' pixels in unseen scenes have their digit")


def train(model: nn.Module, scenes: DigitScenes, steps: int) -> None:
    """Train on scenes that are drawn as they are needed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(steps, 2))
    size = len(scenes) // steps
    for step in range(steps):
        images, labels = batch(scenes, range(step * size, (step + 1) * size))
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step + 1}, loss {loss.item():.3f}")


def batch(scenes: DigitScenes, indices: range) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, W] in -1..1 and labels [N, H, W]; 0 is the background."""
    drawn = [scenes[index] for index in indices]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in drawn])
    labels = torch.stack([torch.from_numpy(scene.semantic).long() for scene in drawn])
    return images / 127.5 - 1, labels


@torch.no_grad()
def evaluate(model: nn.Module, scenes: DigitScenes) -> float:
    """Return the share of the digits' pixels that get the right label."""
    images, labels = batch(scenes, range(len(scenes)))
    digits = labels > 0
    return (model.eval()(images).argmax(1) == labels)[digits].float().mean().item()


if __name__ == "__main__":
    main()
