"""``bit-backbone train``: a detector or segmenter on BiT, from images and annotations."""

from __future__ import annotations

import argparse
from typing import Any

from bit_backbone.cli.data_options import open_sets
from bit_backbone.cli.image_options import check_images
from bit_backbone.cli.model_choice import LARGE, TINY, model_of
from bit_backbone.cli.options import device_of, exit_status, warn_of_old
from bit_backbone.cli.train_options import add_train_options, settings_of, spec_of

DESCRIPTION = """
Trains a detector or segmenter on BiT and evaluates it with COCO's average precision or the mean
IoU. Without --train and --test it uses the data set DigitScenes, which it makes first. The same
command resumes an interrupted run. Ctrl-C and SIGTERM save the run; the exit status is then 128
plus the number of the signal. RUN/problems.jsonl lists the faults of the data. Images that cannot
be read are replaced by the next ones; the exit status is then 3. For several GPUs or processes:
torchrun --nproc-per-node 2 -m bit_backbone train ...
"""


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a detector or segmenter on your images",
        description=DESCRIPTION,
    )
    add_train_options(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Trains and evaluates; returns the exit status, 128 + its number after a signal."""
    if args.test_only:
        from bit_backbone.cli.evaluate import evaluate_run

        warn_of_old("--test-only", "bit-backbone evaluate RUN --test DIR")
        return evaluate_run(args, args.output)
    return _train(args)


def _train(args: argparse.Namespace) -> int:
    from bit_backbone.cli.evaluate import report, without_unreadable, write_page
    from bit_backbone.detection.models import check_name
    from bit_backbone.detection.runs import load_detector, load_results, save_backbone
    from bit_backbone.detection.tasks import check_tools
    from bit_backbone.detection.training import train
    from bit_backbone.inference.allocator import keep_pages
    from bit_backbone.utils.processes import is_first_process

    check_name(model_of(args))
    train_set, test_set = open_sets(args)
    check_tools(test_set)  # before hours of training, not after them
    spec, settings = spec_of(args, train_set), settings_of(args, len(train_set))
    if is_first_process():
        _announce(args, len(train_set), len(test_set), settings)
    sets = {"train": train_set, "test": test_set}
    check_images(args, {name: [s.path(i) for i in range(len(s))] for name, s in sets.items()})
    device = device_of(args)
    if device == "cpu":
        keep_pages()  # a step's maps are freed and asked for again all the time
    result = train(spec, train_set, args.output, settings, eval_set=test_set, device=args.device)
    if is_first_process() and result.signal:
        print(f"stopped at step {result.step} and saved; the same command resumes it")
    elif is_first_process():
        assert result.metrics is not None  # there is an evaluation set, and the end was reached
        model, _ = load_detector(args.output, device)  # a sharded one ended with its run
        save_backbone(args.output, model)
        readable = without_unreadable(test_set, args.output)
        report(args, args.output, model, readable, result.metrics)
        write_page(args.output, model, readable, result.metrics, load_results(args.output))
    return exit_status(result)


def _announce(args: argparse.Namespace, train: int, test: int, settings: Any) -> None:
    model = model_of(args)
    if args.model is None and model == TINY:
        print(
            f"training a tiny model, because there is no GPU; --model {LARGE} trains one on R50x1"
        )
    elif args.weights_backbone is None and args.variant is None and model != TINY:
        print(
            "training from random weights takes long; --weights BiT-M-R50x1 starts from "
            "published ones"
        )
    print(
        f"{model}: {settings.steps} steps of {settings.batch_size} images, {train} training and "
        f"{test} test images; log: {args.output / 'log.jsonl'}"
    )
