"""torchvision: Faster R-CNN on BiT, trained in a loop of your own and evaluated by COCO's metrics.

    python examples/torchvision_detector.py [--steps 150] [--output detector]

Makes DigitScenes first. `bit-backbone train` does the same with more settings, and continues
where it was interrupted.
"""

import argparse
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.utils import draw_bounding_boxes, save_image

from bit_backbone.datasets import CocoFolder, DigitScenes, build_scenes
from bit_backbone.detection import evaluate
from bit_backbone.torchvision import fasterrcnn_bit_tiny_fpn


def main() -> None:
    """Make the scenes, train, evaluate, and draw one scene with what is found in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("detector"))
    args = parser.parse_args()
    torch.manual_seed(0)
    data = {}
    for split, count in (("train", args.images), ("test", max(args.images // 10, 2))):
        build_scenes(DigitScenes(split, count), args.output / split, quiet=False)
        data[split] = CocoFolder(args.output / split)
    # On photographs: fasterrcnn_bit_fpn(weights_backbone="BiT-M-R50x1", num_classes=...)
    model = fasterrcnn_bit_tiny_fpn(num_classes=len(data["train"].categories) + 1)
    train(model, data["train"], args.steps)
    metrics = evaluate(model, data["test"])
    print(f"AP50 {metrics['box_AP50']:.3f} on {len(data['test'])} unseen scenes")
    draw(model, data["test"], args.output / "found.png")


def train(model: torch.nn.Module, scenes: CocoFolder, steps: int) -> None:
    """Train by AdamW; a detector in train mode returns its losses."""
    loader = DataLoader(scenes, 4, shuffle=True, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, max(steps, 2))
    model.train()
    step = 0
    while step < steps:
        for images, targets in loader:
            losses = model(list(images), list(targets))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if step % 10 == 0 or step == steps:
                print(f"step {step}, loss {sum(losses.values()).item():.3f}")
            if step == steps:
                break


def collate(items: list) -> tuple:
    """Return the images and the targets of a batch, in two tuples: images differ in size."""
    return tuple(zip(*items, strict=True))


@torch.no_grad()
def draw(model: torch.nn.Module, scenes: CocoFolder, path: Path) -> None:
    """Write one scene with the boxes that are found in it with a score of 0.5 or more."""
    image, _ = scenes[0]
    (found,) = model.eval()([image])
    sure = found["scores"] >= 0.5
    labels = [scenes.categories[label - 1] for label in found["labels"][sure].tolist()]
    save_image(draw_bounding_boxes(image, found["boxes"][sure], labels), path)
    print(f"{int(sure.sum())} objects in {path}")


if __name__ == "__main__":
    main()
