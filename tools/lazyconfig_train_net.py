"""Train or evaluate a LazyConfig with detectron2.

    python tools/lazyconfig_train_net.py --num-gpus 8 \
        --config-file configs/COCO-InstanceSegmentation/mask_rcnn_BiT_R50x1_FPN_1x.py
    python tools/lazyconfig_train_net.py --config-file ... --eval-only \
        train.init_checkpoint=output/model_final.pth
    python tools/lazyconfig_train_net.py --config-file ... --resume

detectron2's script of the same name runs these configurations just as well; this one also trains on
CPUs (train.device=cpu, with --num-gpus as the number of processes).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
    launch,
)
from detectron2.engine.defaults import create_ddp_model
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

import bit_backbone.detectron2  # noqa: F401 (registers backbones, weights and data sets)

Results = dict[str, Any]


def evaluate(cfg: DictConfig, model: torch.nn.Module) -> Results | None:
    """Runs the configuration's evaluator, if it has one."""
    if "evaluator" not in cfg.dataloader:
        return None
    loader = instantiate(cfg.dataloader.test)
    evaluator = instantiate(cfg.dataloader.evaluator)
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def build_model(cfg: DictConfig) -> torch.nn.Module:
    """Builds the model where it will run."""
    return instantiate(cfg.model).to(cfg.train.device)


def distribute(cfg: DictConfig, model: torch.nn.Module) -> torch.nn.Module:
    """Wraps the model for several processes, if there are."""
    options = OmegaConf.to_container(cfg.train.get("ddp", OmegaConf.create()))
    if cfg.train.device == "cpu":
        options["device_ids"] = None  # detectron2 would name a GPU
    return create_ddp_model(model, **options)


def train(cfg: DictConfig, resume: bool) -> None:
    """Trains from train.init_checkpoint, or on from the last checkpoint of train.output_dir."""
    model = build_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = distribute(cfg, model)
    kind = AMPTrainer if cfg.train.amp.enabled else SimpleTrainer
    trainer = kind(model, instantiate(cfg.dataloader.train), optimizer)
    checkpointer = DetectionCheckpointer(model, cfg.train.output_dir, trainer=trainer)
    trainer.register_hooks(train_hooks(cfg, model, checkpointer))
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    resumed = resume and checkpointer.has_checkpoint()
    # A checkpoint holds the iteration that had ended.
    trainer.train(trainer.iter + 1 if resumed else 0, cfg.train.max_iter)


def train_hooks(
    cfg: DictConfig, model: torch.nn.Module, checkpointer: DetectionCheckpointer
) -> list[hooks.HookBase | None]:
    """Returns what happens around the iterations, in order; only the first process writes."""
    settings = cfg.train
    schedule = hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))
    evaluation = hooks.EvalHook(settings.eval_period, lambda: evaluate(cfg, model))
    if not comm.is_main_process():
        return [hooks.IterationTimer(), schedule, evaluation]
    writers = default_writers(settings.output_dir, settings.max_iter)
    return [
        hooks.IterationTimer(),
        schedule,
        hooks.PeriodicCheckpointer(checkpointer, **settings.checkpointer),
        evaluation,
        hooks.PeriodicWriter(writers, period=settings.log_period),
    ]


def main(args: argparse.Namespace) -> None:
    """Trains or evaluates, in each process."""
    cfg = LazyConfig.load(args.config_file)
    cfg = LazyConfig.apply_overrides(cfg, args.opts)
    default_setup(cfg, args)
    if not args.eval_only:
        train(cfg, args.resume)
        return
    model = distribute(cfg, build_model(cfg))
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    evaluate(cfg, model)


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
