"""detectron2: Faster R-CNN on BiT with detectron2's own trainer and evaluator, on DigitScenes.

    python examples/detectron2_detector.py [--iterations 200] [--output output]
    python examples/detectron2_detector.py SOLVER.BASE_LR 0.01

Needs detectron2.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.evaluation import COCOEvaluator

from bit_backbone.datasets import DigitScenes, build_scenes
from bit_backbone.detectron2 import add_bit_config, get_config_file


class Trainer(DefaultTrainer):
    """detectron2's trainer, evaluated by COCO's metrics."""

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> COCOEvaluator:
        """Return the evaluator of a data set."""
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR)


def main() -> None:
    """Make the scenes, configure, train and evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("output"))
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args()
    names = [
        register(split, count, args.output / "scenes" / split)
        for split, count in (("train", args.images), ("test", max(args.images // 10, 2)))
    ]
    cfg = configure(args, names)
    default_setup(cfg, argparse.Namespace(config_file=""))
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    ap50, _ = trainer.storage.latest()["bbox/AP50"]
    print(f"AP50 {ap50:.1f} after {args.iterations} iterations")


def register(split: str, count: int, folder: Path) -> str:
    """Make a split of DigitScenes and enter it into detectron2's catalog, as any COCO folder."""
    build_scenes(DigitScenes(split, count), folder, quiet=False)
    name = f"example_digits_{split}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_coco_instances(name, {}, str(folder / "instances.json"), str(folder / "images"))
    return name


def configure(args: argparse.Namespace, names: list[str]) -> CfgNode:
    """Return a configuration of a small BiT; COCO's, of R50x1 and larger, are in configs/."""
    cfg = get_cfg()
    add_bit_config(cfg)
    cfg.merge_from_file(get_config_file("quick/faster_rcnn_BiT_tiny_digits.yaml"))
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (names[0],), (names[1],)
    cfg.SOLVER.MAX_ITER = args.iterations
    cfg.SOLVER.STEPS = (args.iterations * 3 // 4,)
    cfg.SOLVER.WARMUP_ITERS = min(100, args.iterations // 4)
    cfg.TEST.EVAL_PERIOD = 0  # only at the end
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(args.output)
    cfg.merge_from_list(args.options)
    return cfg


if __name__ == "__main__":
    main()
