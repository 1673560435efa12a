"""Which norms a feature pyramid on BiT should have, measured on DigitScenes.

    python tools/compare_norms.py [--output DIR] [--seeds 0 1 2] [--arms none preact ...]

Trains the tiny Faster R-CNN of ``make demo`` for a short while, to find digits whatever they are,
two images a step, with each kind of norm, with and without pre-training, and prints a Markdown
table of COCO's average precision. Every run that ends adds a line to ``results.jsonl``, and what
stands there is not run again: the same command goes on where it was interrupted, and two commands
with different arms or seeds can share the work.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from demo import draw_digits, learn
from experiments import Results, spread
from torch import Tensor, nn

from bit_backbone import BitForImageClassification
from bit_backbone.datasets import CocoFolder, DigitScenes, build_scenes
from bit_backbone.detection import DetectionSettings, DetectorSpec, evaluate
from bit_backbone.detection.training import DetectionTask
from bit_backbone.detection.transforms import train_transforms
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.torchvision.tiny import TINY, fasterrcnn_bit_tiny_fpn
from bit_backbone.utils.files import atomic_path, read_json
from bit_backbone.utils.processes import ONE_PROCESS
from bit_backbone.utils.progress import track

IMAGE_SIZE = (96, 96)
CATEGORY = "digit"  # one for all: to tell ten apart takes longer to learn than to find them
SCENES = {"train": 1000, "test": 200}
RECIPE = {
    "steps": 400,
    "digits": 6000,
    "pretraining_steps": 600,
    "batch_size": 2,
    "base_lr": 1e-3,
    "warmup_steps": 50,
    "clip_norm": 1.0,
}
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
FPN_GROUPS = 8  # of 64 channels: as wide as the 32 of 256 that detectron2's "GN" makes
RUN = ("seed", "pretrained", "arm")
METRICS = ("box_AP", "box_AP50")


class BatchNormAct(nn.BatchNorm2d):
    """BatchNorm and an activation, in the place of a GroupNormAct."""

    def __init__(self, norm: GroupNormAct) -> None:
        super().__init__(norm.num_channels, norm.eps)
        self.act = norm.act

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate [N, C, H, W]."""
        return self.act(super().forward(x))


def plain_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """Return a convolution of the same shape that uses its filters as they are."""
    twin = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False
    )
    nn.init.kaiming_normal_(twin.weight, mode="fan_out", nonlinearity="relu")
    return twin


def use_batch_norm(network: nn.Module, standardize: bool) -> None:
    """Turn every GroupNorm into a BatchNorm and, unless ``standardize``, every filter plain."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, GroupNormAct):
                setattr(parent, name, BatchNormAct(child))
            elif isinstance(child, nn.Conv2d) and not standardize:
                setattr(parent, name, plain_conv(child))


@dataclass(frozen=True)
class Arm:
    """One kind of detector that is compared.

    Attributes:
        title: As the table calls it.
        feature_norm: Of the backbone.
        pyramid_norm: Whether GroupNorm stands behind the pyramid's convolutions.
        change: Turns the backbone into another kind of network; None leaves BiT.
        network: Name of that kind; arms that share it share their pre-training.
    """

    title: str
    feature_norm: str = "none"
    pyramid_norm: bool = False
    change: Callable[[nn.Module], None] | None = None
    network: str = "bit"


NORMS = ("none", "preact", "groupnorm")
ARMS = {
    **{norm: Arm(f"feature_norm {norm}", norm) for norm in NORMS},
    "none+gn": Arm("feature_norm none, GroupNorm in the FPN", "none", True),
    "preact+gn": Arm("feature_norm preact, GroupNorm in the FPN", "preact", True),
    "bn": Arm(
        "BatchNorm, plain convolutions",
        change=partial(use_batch_norm, standardize=False),
        network="bn",
    ),
    "bn+ws": Arm(
        "BatchNorm, weight standardization",
        change=partial(use_batch_norm, standardize=True),
        network="bn+ws",
    ),
}


def main() -> None:
    """Do the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/norms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--scenes", type=int, nargs=2, default=list(SCENES.values()))
    for name, value in RECIPE.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    recipe = {name: getattr(args, name) for name in (*RECIPE, "scenes")}
    data = {s: open_scenes(args.output, s, n) for s, n in zip(SCENES, args.scenes, strict=True)}
    results = Results(args.output / "results.jsonl", recipe)
    wanted = [(s, p, a) for s in args.seeds for p in (True, False) for a in args.arms]
    missing = [w for w in wanted if not results.find(**dict(zip(RUN, w, strict=True)))]
    for number, (seed, pretrained, arm) in enumerate(missing, 1):
        print(f"run {number} of {len(missing)}: {arm}, {pretrained=}, {seed=}", flush=True)
        weights = pretrain(args.output, ARMS[arm], seed, recipe) if pretrained else None
        began = time.monotonic()
        metrics = run(ARMS[arm], weights, data, seed, recipe)
        seconds = round(time.monotonic() - began)
        results.add(arm=arm, pretrained=pretrained, seed=seed, seconds=seconds, **metrics)
        print("  ".join(f"{name} {metrics[name]:.3f}" for name in METRICS), flush=True)
    print(table(results.read(), args.arms))


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


def pretrain(output: Path, arm: Arm, seed: int, recipe: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a network of an arm's kind that tells single digits apart."""
    steps = recipe["pretraining_steps"]
    path = output / f"{arm.network}_{seed}_{recipe['digits']}_{steps}.pt"
    if path.exists():
        return torch.load(path)
    torch.manual_seed(seed)
    model = BitForImageClassification(TINY.replace(feature_norm="none", num_labels=10))
    if arm.change is not None:
        arm.change(model)
    right = learn(model, *single_digits(output, recipe["digits"]), steps)
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
    recipe: dict[str, Any],
) -> dict[str, float]:
    """Train a detector of an arm's kind from weights or from scratch; return COCO's metrics."""
    settings = DetectionSettings(
        steps=recipe["steps"],
        batch_size=recipe["batch_size"],
        optimizer="adamw",
        base_lr=recipe["base_lr"],
        warmup_steps=recipe["warmup_steps"],
        clip_norm=recipe["clip_norm"],
        seed=seed,
    )
    torch.manual_seed(seed)
    spec = DetectorSpec("fasterrcnn_bit_tiny_fpn", data["train"].categories)
    task = DetectionTask(spec, data["train"], None, settings, ONE_PROCESS)
    task.begin(build(arm, weights))
    batches = task.batches(range(settings.steps))
    for step, batch in enumerate(track(batches, "training", settings.steps)):
        task.train_step(batch, step)
    return evaluate(task.model, data["test"])


def build(arm: Arm, weights: dict[str, Tensor] | None) -> nn.Module:
    """Build an arm's detector; everything trains."""
    norm_layer = partial(nn.GroupNorm, FPN_GROUPS) if arm.pyramid_norm else None
    model = fasterrcnn_bit_tiny_fpn(
        num_classes=2,  # the background and digits
        feature_norm=arm.feature_norm,
        norm_layer=norm_layer,
        **DETECTOR,
    )
    body = model.backbone.body
    if arm.change is not None:
        arm.change(body)
    if weights is not None:
        own = body.state_dict()
        # not in the classifier: norms of the outputs; not in the detector: the head and its norm
        fresh = [name for name in own if name.startswith("feature_norms.")]
        body.load_state_dict({n: own[n] if n in fresh else weights[n] for n in own})
    return model


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
