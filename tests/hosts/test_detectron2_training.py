"""The training scripts, test-time augmentation and the predictor, on a few scenes made here."""

import json
import logging
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("sklearn")
pytest.importorskip("skimage")

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor
from tiny_detectron2 import read, shrink, shrink_heads

from bit_backbone.datasets import DigitScenes, build_scenes
from bit_backbone.detectron2 import datasets, get_config_file

ROOT = Path(__file__).parents[2]
QUICK = "quick/faster_rcnn_BiT_tiny_digits.yaml"
# What a user's own module does: a data set, and a backbone of another plug-in beside ours.
PLUGIN = """
def setup_environment():
    from detectron2.data.datasets import register_coco_instances
    from detectron2.modeling import BACKBONE_REGISTRY

    for split in ("train", "test"):
        folder = f"{ROOT}/digit_scenes/{split}"
        register_coco_instances(
            f"tiny_{split}", {}, f"{folder}/instances.json", f"{folder}/images"
        )

    @BACKBONE_REGISTRY.register()
    def build_vovnet_fpn_backbone(cfg, input_shape):
        raise NotImplementedError
"""
LAZY = """
from detectron2.config import LazyConfig
from tiny_detectron2 import shrink_lazy
from bit_backbone.detectron2 import get_config_file

_cfg = LazyConfig.load(get_config_file("COCO-Detection/fcos_BiT_R50x1_FPN_1x.py"))
model, dataloader, optimizer = shrink_lazy(_cfg.model), _cfg.dataloader, _cfg.optimizer
lr_multiplier, train = _cfg.lr_multiplier, _cfg.train
model.num_classes = 10
dataloader.train.dataset.names, dataloader.test.dataset.names = "tiny_train", "tiny_test"
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = dataloader.test.num_workers = 0
for _mapper in (dataloader.train.mapper, dataloader.test.mapper):
    _mapper.augmentations[0].short_edge_length = 96
train.init_checkpoint = ""
train.device, train.amp.enabled = "cpu", False
train.max_iter = train.eval_period = 2
"""
SHORT = {
    "DATASETS.TRAIN": "('tiny_train',)",
    "DATASETS.TEST": "('tiny_test',)",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": "(1,)",
    "DATALOADER.NUM_WORKERS": 0,
    "TEST.EVAL_PERIOD": 0,
    "TEST.AUG.MIN_SIZES": "(160,)",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with four training and two test scenes, and a user's module."""
    folder = tmp_path_factory.mktemp("work")
    for split, size in {"train": 4, "test": 2}.items():
        build_scenes(DigitScenes(split, num_images=size), folder / "digit_scenes" / split)
    (folder / "plugin.py").write_text(f"ROOT = {str(folder)!r}\n{PLUGIN}")
    (folder / "fcos.py").write_text(LAZY)
    return folder


def run(work: Path, script: str, *options: object) -> str:
    """Run a training script as a user does, and return what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "hosts")]),
        "DETECTRON2_ENV_MODULE": str(work / "plugin.py"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-W", "ignore", ROOT / "tools" / script, *options]
    done = subprocess.run(
        [str(part) for part in command], cwd=work, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_train_net_trains_evaluates_resumes_and_augments(work: Path) -> None:
    options = [part for pair in SHORT.items() for part in pair]
    command = ("--config-file", get_config_file(QUICK), "OUTPUT_DIR", "yaml", *options)
    told = run(work, "train_net.py", *command, "SOLVER.MAX_ITER", 2)
    assert "Starting training from iteration 0" in told
    assert "bbox/AP50" in metrics(work / "yaml")[-1]
    augmented = ("SOLVER.MAX_ITER", 3, "TEST.AUG.ENABLED", True)
    told = run(work, "train_net.py", "--resume", *command, *augmented)
    assert "Starting training from iteration 2" in told
    assert "BiT tensors from the checkpoint" in told
    assert {"bbox/AP50", "bbox_TTA/AP50"} <= set(metrics(work / "yaml")[-1])


@pytest.mark.slow
def test_train_net_evaluates_only(work: Path) -> None:
    options = [part for pair in SHORT.items() for part in pair]
    command = ("--eval-only", "--config-file", get_config_file(QUICK), "OUTPUT_DIR", "only")
    told = run(work, "train_net.py", *command, *options)
    assert "Task: bbox" in told
    assert not (work / "only" / "model_final.pth").exists()


@pytest.mark.slow
def test_lazy_trains_in_two_processes_evaluates_and_resumes(work: Path) -> None:
    """Two gloo processes: a parameter without gradient would stop the second iteration."""
    command = ("--config-file", work / "fcos.py", "--num-gpus", 2, "--dist-url", "auto")
    told = run(work, "lazyconfig_train_net.py", *command, "train.output_dir=lazy")
    assert "World size: 2" in told
    assert "bbox/AP50" in metrics(work / "lazy")[-1]
    resumed = ("--resume", "train.output_dir=lazy", "train.max_iter=3")
    told = run(work, "lazyconfig_train_net.py", "--config-file", work / "fcos.py", *resumed)
    assert "Starting training from iteration 2" in told


@pytest.fixture
def quiet_logs() -> Iterator[None]:
    """Take back what a trainer does to detectron2's logger, which other tests listen to."""
    logger = logging.getLogger("detectron2")
    before = (logger.level, logger.propagate, logger.handlers[:])
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers[:] = before[1:]


@pytest.fixture
def segments(work: Path) -> Iterator[str]:
    """The training scenes as a data set for semantic segmentation."""
    folder = work / "digit_scenes" / "train"
    names = sorted(path.stem for path in (folder / "images").iterdir())
    records = [
        {
            "file_name": str(folder / "images" / f"{name}.jpg"),
            "sem_seg_file_name": str(folder / "semantic" / f"{name}.png"),
            "image_id": name,
            "height": 160,
            "width": 192,
        }
        for name in names
    ]
    DatasetCatalog.register("tiny_segments", lambda: records)
    classes = ["background", *"0123456789"]
    MetadataCatalog.get("tiny_segments").set(
        evaluator_type="sem_seg", stuff_classes=classes, ignore_label=255
    )
    yield "tiny_segments"
    DatasetCatalog.remove("tiny_segments")
    MetadataCatalog.remove("tiny_segments")


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Two scenes as ``register_digit_scenes`` registers them."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setattr(datasets, "SIZES", {"train": 2, "test": 2})
    forget_digit_scenes()
    datasets.register_digit_scenes()
    yield "digit_scenes_train"
    forget_digit_scenes()
    monkeypatch.undo()
    datasets.register_digit_scenes()


def forget_digit_scenes() -> None:
    for split in ("train", "test"):
        DatasetCatalog.remove(f"digit_scenes_{split}")
        MetadataCatalog.remove(f"digit_scenes_{split}")


def deeplab_cfg(name: str, output: Path) -> CfgNode:
    config = "Cityscapes-SemanticSegmentation/deeplabv3plus_BiT_R50x1_OS16.yaml"
    cfg = shrink_heads(shrink(read(config)))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    cfg.INPUT.CROP.SIZE = [32, 32]
    cfg.MODEL.SEM_SEG_HEAD.COMMON_STRIDE = 4
    shorten(cfg, name, output)
    cfg.INPUT.MIN_SIZE_TEST = 160  # the scenes' own, a multiple of the crop
    return cfg


def shorten(cfg: CfgNode, name: str, output: Path) -> CfgNode:
    """Make a configuration train two iterations on a data set, here, and evaluate on it."""
    cfg.MODEL.WEIGHTS = ""
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (128, 160), 128
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS = 2, 2, (1,)
    cfg.SOLVER.AMP.ENABLED = False
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.OUTPUT_DIR = str(output)
    return cfg


def test_deeplab_trains_on_crops_and_is_evaluated(
    segments: str, tmp_path: Path, quiet_logs: None
) -> None:
    trainer_class = runpy.run_path(str(ROOT / "tools" / "train_net.py"))["Trainer"]
    cfg = deeplab_cfg(segments, tmp_path)
    batch = next(iter(trainer_class.build_train_loader(cfg)))
    assert {tuple(image["image"].shape[1:]) for image in batch} == {(32, 32)}
    assert {tuple(image["sem_seg"].shape) for image in batch} == {(32, 32)}
    trainer = trainer_class(cfg)
    assert type(trainer.scheduler).__name__ == "WarmupPolyLR"
    trainer.train()
    assert 0 <= metrics(tmp_path)[-1]["sem_seg/mIoU"] <= 100


def test_semantic_fpn_trains_and_is_evaluated(
    segments: str, tmp_path: Path, quiet_logs: None
) -> None:
    trainer_class = runpy.run_path(str(ROOT / "tools" / "train_net.py"))["Trainer"]
    cfg = shrink_heads(shrink(read("COCO-SemanticSegmentation/semantic_fpn_BiT_R50x1_1x.yaml")))
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
    trainer = trainer_class(shorten(cfg, segments, tmp_path))
    trainer.train()
    assert 0 <= metrics(tmp_path)[-1]["sem_seg/mIoU"] <= 100


def test_keypoints_of_digits_are_trained_and_evaluated(
    digits: str, tmp_path: Path, quiet_logs: None
) -> None:
    """Four keypoints, where COCO has seventeen: the evaluator needs their sigmas."""
    trainer_class = runpy.run_path(str(ROOT / "tools" / "train_net.py"))["Trainer"]
    cfg = shrink_heads(shrink(read("COCO-Keypoints/keypoint_rcnn_BiT_R50x1_FPN_1x.yaml")))
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 10, 0.0
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 4
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.1] * 4
    trainer = trainer_class(shorten(cfg, digits, tmp_path))
    trainer.train()
    assert {"bbox/AP", "keypoints/AP"} <= set(metrics(tmp_path)[-1])


def test_digit_scenes_are_made_when_asked_for(digits: str, tmp_path: Path) -> None:
    datasets.register_digit_scenes()  # again is harmless
    assert list(tmp_path.iterdir()) == []
    records = DatasetCatalog.get(digits)
    assert len(records) == 2
    assert all(Path(record["file_name"]).is_file() for record in records)
    assert MetadataCatalog.get(digits).thing_classes == list("0123456789")


def test_the_predictor_turns_its_bgr_images() -> None:
    cfg = shrink_heads(shrink(read("COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml")))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.INPUT.MIN_SIZE_TEST = 64
    predictor = DefaultPredictor(cfg)
    bgr = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    boxes = predictor(bgr)["instances"].pred_boxes.tensor
    rgb = torch.from_numpy(bgr[:, :, ::-1].copy()).permute(2, 0, 1).float()
    with torch.no_grad():
        (expected,) = predictor.model([{"image": rgb, "height": 64, "width": 96}])
    assert torch.equal(boxes, expected["instances"].pred_boxes.tensor)
    assert len(boxes) > 0
