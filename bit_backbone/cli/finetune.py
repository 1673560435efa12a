"""``bit-backbone finetune``: a classifier of one's own images, by BiT-HyperRule."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.cli.image_options import (
    AUTO,
    add_bit_depth_option,
    add_unreadable_options,
    check_images,
)
from bit_backbone.cli.networks import add_part_option
from bit_backbone.cli.options import (
    add_device_option,
    add_training_options,
    add_weights_option,
    exit_status,
    image_size,
    positive,
)
from bit_backbone.detection.trained import weights_of
from bit_backbone.finetune.hyperrule import BASE_LEARNING_RATE, BATCH_SIZE, Resolution, resolution

if TYPE_CHECKING:
    from bit_backbone.finetune.folders import LabelledImages
    from bit_backbone.finetune.settings import FineTuneSettings
    from bit_backbone.finetune.training import FineTuneResult
    from bit_backbone.heads import BitForImageClassification


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a classifier on a folder of images, by BiT-HyperRule",
        description="Fine-tunes a classifier on images in TRAIN/CLASS/IMAGE and writes it to "
        "OUTPUT/model. BiT-HyperRule chooses resolution, schedule and mixup from the size and "
        "number of the images (arXiv 1912.11370, section 3.3). The same command resumes an "
        "interrupted run; Ctrl-C and SIGTERM save the run. Images that cannot be read are replaced "
        "by the next ones and listed in OUTPUT/problems.jsonl; the exit status is then 3. For "
        "several GPUs or processes: torchrun --nproc-per-node 2 -m bit_backbone finetune ...",
    )
    parser.add_argument(
        "--train", type=Path, required=True, metavar="DIR", help="training images, DIR/CLASS/IMAGE"
    )
    parser.add_argument("--eval", type=Path, metavar="DIR", help="test images, DIR/CLASS/IMAGE")
    text = "pretrained weights: a published name, a checkpoint file or folder, or a run's folder"
    add_weights_option(parser, "NAME", text, required=True)
    add_part_option(parser)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder of the run"
    )
    _add_data_options(parser)
    _add_settings_options(parser)
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that load images (default 0)"
    )
    add_device_option(parser)
    parser.set_defaults(func=run)


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--examples-per-class",
        type=positive,
        metavar="K",
        help="draw K images per class, by --seed",
    )
    data.add_argument(
        "--image-size",
        type=image_size,
        metavar="HxW",
        help="image size that the rule uses; default: the median of the training images",
    )
    data.add_argument(
        "--resolution",
        type=_resolution,
        metavar="RESIZE,CROP",
        help="sizes of resizing and cropping; default: the rule's, which is 160,128 below 96x96 "
        "pixels, else 512,480",
    )
    add_unreadable_options(data)
    add_bit_depth_option(data)
    data.add_argument(
        "--no-flip", action="store_true", help="disable mirroring, for example for text"
    )


def _add_settings_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("settings")
    option = group.add_argument
    default = "default %(default)s"
    option("--head", choices=("zero", "random"), default="zero", help=f"initial head ({default})")
    option(
        "--batch-size",
        type=positive,
        default=BATCH_SIZE,
        metavar="N",
        help=f"images per step ({default})",
    )
    option(
        "--batch-split",
        type=positive,
        default=1,
        metavar="N",
        help="compute each batch in N parts, to save memory (default 1)",
    )
    option(
        "--base-lr",
        type=float,
        default=BASE_LEARNING_RATE,
        metavar="RATE",
        help=f"learning rate ({default})",
    )
    option("--steps", type=positive, metavar="N", help="length; default: the rule's")
    option("--mixup-alpha", type=float, metavar="A", help="strength of mixup; default: the rule's")
    option("--seed", type=int, default=0, metavar="N", help=f"of all random choices ({default})")
    add_training_options(group)
    option(
        "--eval-every",
        type=positive,
        metavar="STEPS",
        help="evaluate after every so many steps; default: only at the end",
    )
    option(
        "--save-every",
        type=positive,
        default=100,
        metavar="STEPS",
        help=f"save after every so many steps ({default})",
    )


def _resolution(text: str) -> Resolution:
    sides = text.split(",")
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f"must be RESIZE,CROP in pixels, such as 512,480; got {text!r}"
        )
    try:
        return Resolution(*map(int, sides))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace) -> int:
    """Fine-tunes; returns the exit status, 128 + its number after a signal."""
    from bit_backbone.finetune.folders import LabelledImages
    from bit_backbone.finetune.training import finetune
    from bit_backbone.finetune.transforms import eval_transform, train_transform, typical_size
    from bit_backbone.utils.processes import is_first_process

    images = LabelledImages(args.train, bit_depth=args.bit_depth)
    size = args.image_size or typical_size([path for path, _ in images.samples])
    sides = args.resolution or resolution(*size)
    images.transform = train_transform(sides, flip=not args.no_flip)
    eval_set = None
    if args.eval is not None:
        transform = eval_transform(sides)
        eval_set = LabelledImages(args.eval, transform, images.classes, args.bit_depth)
    train_set = _few(images, args)
    settings = _settings(args)
    model = _model(args, images.classes)
    if is_first_process():
        _report_ignored(args.train, images)
        if eval_set is not None:
            _report_ignored(args.eval, eval_set)
        _announce(args, len(train_set), images, sides, settings)
    check_images(args, _paths(images, eval_set))
    must_match: dict[str, Any] = {
        "classes": images.classes,
        "resolution": [sides.resize, sides.crop],
        "flip": not args.no_flip,
        "examples_per_class": args.examples_per_class,
    }
    if args.bit_depth != AUTO:
        must_match["bit_depth"] = args.bit_depth
    result = finetune(
        model,
        train_set,
        args.output,
        settings,
        eval_set=eval_set,
        device=args.device,
        must_match=must_match,
    )
    if settings.fsdp and is_first_process() and not result.signal:
        model = _with_weights_of(args, images.classes)
    return _finish(args, model, sides, result)


def _with_weights_of(args: argparse.Namespace, classes: list[str]) -> BitForImageClassification:
    """Returns the classifier of a sharded run, whose own model has ended with its processes."""
    from bit_backbone.training.saving import load_weights
    from bit_backbone.training.state import RunState

    model, state = _model(args, classes), RunState.load(args.output)
    assert state is not None
    load_weights(model, state.model)
    return model


def _paths(images: LabelledImages, eval_set: LabelledImages | None) -> dict[str, list[Path]]:
    sets = {"train": images} | ({} if eval_set is None else {"eval": eval_set})
    return {name: [Path(p) for p, _ in own.samples] for name, own in sets.items()}


def _few(images: LabelledImages, args: argparse.Namespace) -> Any:
    from torch.utils.data import Subset

    from bit_backbone.finetune.fewshot import select_few_shot

    if args.examples_per_class is None:
        return images
    count = len(images.classes)
    return Subset(
        images, select_few_shot(images.targets, args.examples_per_class, args.seed, count)
    )


def _settings(args: argparse.Namespace) -> FineTuneSettings:
    import dataclasses

    from bit_backbone.finetune.settings import FineTuneSettings

    names = {field.name for field in dataclasses.fields(FineTuneSettings)}
    return FineTuneSettings(**{k: v for k, v in vars(args).items() if k in names})


def _model(args: argparse.Namespace, classes: list[str]) -> BitForImageClassification:
    import torch

    from bit_backbone.heads import BitForImageClassification

    model = BitForImageClassification.from_pretrained(
        weights_of(args.weights), head="drop", part=args.part
    )
    torch.manual_seed(args.seed)  # a random head is the same in every process
    model.reset_classifier(len(classes), dict(enumerate(classes)), zero=args.head == "zero")
    model.set_grad_checkpointing(args.grad_checkpointing)
    model.set_activation_recompute(args.activation_recompute)
    return model


def _report_ignored(folder: Path, images: LabelledImages) -> None:
    if images.ignored:
        print(f"{folder}: ignored: {images.ignored}", file=sys.stderr)


def _announce(
    args: argparse.Namespace,
    num_examples: int,
    images: LabelledImages,
    sides: Resolution,
    settings: FineTuneSettings,
) -> None:
    print(
        f"{args.weights} on {num_examples} images of {len(images.classes)} classes: "
        f"{settings.schedule(num_examples).total} steps of {settings.batch_size}, resize "
        f"{sides.resize}, crop {sides.crop}, mixup {settings.alpha(num_examples):g}",
        file=sys.stderr,
    )


def _finish(
    args: argparse.Namespace,
    model: BitForImageClassification,
    sides: Resolution,
    result: FineTuneResult,
) -> int:
    from bit_backbone.finetune.transforms import eval_processor
    from bit_backbone.training.state import MODEL_FOLDER
    from bit_backbone.utils.processes import is_first_process

    if not is_first_process():
        return exit_status(result)
    if result.signal:
        print(
            f"saved in {args.output} after step {result.step}; the same command resumes it",
            file=sys.stderr,
        )
        return exit_status(result)
    model.save_pretrained(args.output / MODEL_FOLDER)
    eval_processor(sides, args.bit_depth).save_pretrained(args.output / MODEL_FOLDER)
    if result.metrics is not None:
        metrics = result.metrics
        top5 = f"top-5 {metrics.top5:.2%}, " if model.num_labels > 5 else ""
        print(
            f"top-1 {metrics.top1:.2%}, {top5}loss {metrics.loss:.4f} on "
            f"{metrics.num_examples} images"
        )
    print(f"the classifier is {args.output / MODEL_FOLDER}", file=sys.stderr)
    return exit_status(result)
