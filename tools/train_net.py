"""Train or evaluate a YAML configuration with detectron2.

    python tools/train_net.py --num-gpus 8 \
        --config-file configs/COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_FPN_1x.yaml
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
    python tools/train_net.py --config-file ... --resume

Batch and learning rate of the configurations are for 8 GPUs; `--num-gpus 2
SOLVER.REFERENCE_WORLD_SIZE 8` scales them, and the schedule with them. Whatever stands at the top
level of this file also happens in the processes that --num-gpus starts; registrations belong there.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, build_detection_train_loader, transforms
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup, hooks, launch
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.projects.deeplab import build_lr_scheduler as build_deeplab_lr_scheduler
from detectron2.utils import comm

import bit_backbone.detectron2
from bit_backbone.detectron2.evaluation import build_evaluator, require_evaluators

Results = dict[str, Any]


class Trainer(DefaultTrainer):
    """The evaluators, crops and schedules that the shipped configurations ask for."""

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Builds the evaluators that a data set's metadata asks for, see build_evaluator."""
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """Builds the loader; a semantic segmenter gets crops that no single category fills."""
        if cfg.MODEL.META_ARCHITECTURE != "SemanticSegmentor" or not cfg.INPUT.CROP.ENABLED:
            return super().build_train_loader(cfg)
        mapper = DatasetMapper(cfg, is_train=True, augmentations=segmenter_augmentations(cfg))
        return build_detection_train_loader(cfg, mapper=mapper)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Builds detectron2's schedules and DeepLab's WarmupPolyLR."""
        return build_deeplab_lr_scheduler(cfg, optimizer)

    def build_hooks(self) -> list[hooks.HookBase]:
        """Adds the evaluation with test-time augmentation, in front of what writes the results."""
        built = super().build_hooks()
        if not self.cfg.TEST.AUG.ENABLED:
            return built
        augmented = hooks.EvalHook(0, lambda: self.test_with_augmentation(self.cfg, self.model))
        writers = [hook for hook in built if isinstance(hook, hooks.PeriodicWriter)]
        return [*(hook for hook in built if hook not in writers), augmented, *writers]

    @classmethod
    def test_with_augmentation(cls, cfg: CfgNode, model: torch.nn.Module) -> Results:
        """Evaluates an R-CNN with test-time augmentation (TEST.AUG)."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return {f"{task}_TTA": scores for task, scores in results.items()}


def segmenter_augmentations(cfg: CfgNode) -> list[transforms.Augmentation]:
    """Resizes, crops and flips as DeepLab does."""
    crop, sizes = cfg.INPUT.CROP, cfg.INPUT
    return [
        transforms.ResizeShortestEdge(
            sizes.MIN_SIZE_TRAIN, sizes.MAX_SIZE_TRAIN, sizes.MIN_SIZE_TRAIN_SAMPLING
        ),
        transforms.RandomCrop_CategoryAreaConstraint(
            crop.TYPE,
            crop.SIZE,
            crop.SINGLE_CATEGORY_MAX_AREA,
            cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        ),
        transforms.RandomFlip(),
    ]


def read_config(args: argparse.Namespace) -> CfgNode:
    """Reads the configuration file and the options after it, and starts the logs."""
    cfg = get_cfg()
    add_deeplab_config(cfg)
    bit_backbone.detectron2.add_bit_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def evaluate(cfg: CfgNode, resume: bool) -> Results:
    """Evaluates MODEL.WEIGHTS, or the last checkpoint of OUTPUT_DIR."""
    model = Trainer.build_model(cfg)
    DetectionCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
        cfg.MODEL.WEIGHTS, resume=resume
    )
    results = Trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results |= Trainer.test_with_augmentation(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def check_device(cfg: CfgNode, training: bool) -> None:
    """Checks that the machine has what MODEL.DEVICE and SOLVER.AMP.ENABLED ask for.

    Raises:
        ValueError: It has not; the message names the options that train without.
    """
    device = torch.device(cfg.MODEL.DEVICE)
    without = "MODEL.DEVICE cpu SOLVER.AMP.ENABLED False"
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE must be a device of this machine, got {cfg.MODEL.DEVICE}, and PyTorch "
            f"finds no CUDA here; to continue without, add the options: {without}"
        )
    if training and cfg.SOLVER.AMP.ENABLED and device.type != "cuda":
        raise ValueError(
            f"SOLVER.AMP.ENABLED needs CUDA in detectron2, and MODEL.DEVICE is {cfg.MODEL.DEVICE}; "
            f"add the options: {without}"
        )


def check_processes(args: argparse.Namespace) -> None:
    """Checks --num-gpus before any process starts.

    Raises:
        ValueError: There are fewer GPUs, and the processes cannot do without.
    """
    found = torch.cuda.device_count()
    if args.num_gpus <= max(found, 1) or (found == 0 and args.eval_only):
        return
    raise ValueError(
        f"--num-gpus must be at most the number of GPUs here, {found}, got {args.num_gpus}; "
        "detectron2's trainer of YAML files cannot divide the work over CPUs, "
        "tools/lazyconfig_train_net.py can (train.device=cpu)"
    )


def main(args: argparse.Namespace) -> Results | None:
    """Trains or evaluates, in each process.

    Raises:
        ValueError: The machine lacks a device, or a data set cannot be evaluated.
        MissingExtraError: An evaluator's package is missing.
    """
    cfg = read_config(args)
    check_device(cfg, training=not args.eval_only)
    require_evaluators(cfg.DATASETS.TEST)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    check_processes(args)
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
