"""torchvision: DeepLabV3 on a dilated BiT, trained to label every pixel of DigitScenes.

python examples/torchvision_segmenter.py [--steps 60]
"""

import argparse

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model

import bit_backbone.torchvision  # noqa: F401 (enters the builders into torchvision's registry)
from bit_backbone.datasets import DigitScenes
from bit_backbone.torchvision.tiny import TINY

CLASSES = 11  # ten digits and the background
SIZE = (96, 96)


def main() -> None:
    """Train, and print the mean intersection over union on unseen scenes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="default: %(default)s")
    args = parser.parse_args()
    torch.manual_seed(0)
    # On photographs of your own: variant="R50x1", weights_backbone="BiT-M-R50x1"
    model = get_model(
        "deeplabv3_bit", variant=TINY, num_classes=CLASSES, output_stride=8, aux_loss=True
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, max(args.steps, 2))
    scenes = DigitScenes("train", 8 * args.steps, image_size=SIZE, digit_height=(32, 48))
    for step in range(args.steps):
        images, labels = batch(scenes, range(8 * step, 8 * step + 8))
        outputs = model(images)
        loss = F.cross_entropy(outputs["out"], labels) + 0.4 * F.cross_entropy(
            outputs["aux"], labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 10 == 0 or step == args.steps - 1:
            print(f"step {step + 1}, loss {loss.item():.3f}")
    unseen = DigitScenes("test", 16, image_size=SIZE, digit_height=(32, 48))
    print(f"mean IoU {mean_iou(model, unseen):.3f} on {len(unseen)} unseen scenes")


def batch(scenes: DigitScenes, indices: range) -> tuple[Tensor, Tensor]:
    """Return images [N, 3, H, W] in -1..1, which segmenters want, and labels [N, H, W]."""
    drawn = [scenes[index] for index in indices]
    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1) for scene in drawn])
    labels = torch.stack([torch.from_numpy(scene.semantic).long() for scene in drawn])
    return images / 127.5 - 1, labels


@torch.no_grad()
def mean_iou(model: torch.nn.Module, scenes: DigitScenes) -> float:
    """Return the intersection over union, averaged over the classes that occur."""
    images, labels = batch(scenes, range(len(scenes)))
    predicted = model.eval()(images)["out"].argmax(1)
    counts = torch.bincount(
        (labels * CLASSES + predicted).flatten(), minlength=CLASSES * CLASSES
    ).view(CLASSES, CLASSES)
    shared = counts.diag()
    either = counts.sum(0) + counts.sum(1) - shared
    return (shared / either)[either > 0].mean().item()


if __name__ == "__main__":
    main()
