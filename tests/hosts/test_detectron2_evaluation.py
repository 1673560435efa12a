"""Each kind of data set, in its own files made here, read and evaluated as detectron2 does."""

import argparse
import importlib
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import (
    register_coco_panoptic_separated,
    register_pascal_voc,
)
from detectron2.data.datasets.cityscapes import load_cityscapes_instances, load_cityscapes_semantic
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from tiny_detectron2 import read, shrink, shrink_heads, tiny_cfg

from bit_backbone.detectron2.evaluation import (
    _former_numpy,
    _OnAnyNumPy,
    _write_json,
    alias_cityscapes_scripts,
    build_evaluator,
    require_evaluators,
)
from bit_backbone.utils.extras import MissingExtraError

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 64, 96
# x, y, width and height of the one object in each image.
BOX = (10, 8, 40, 32)
TRAIN_NET = runpy.run_path(str(ROOT / "tools" / "train_net.py"))


@pytest.fixture(autouse=True)
def catalogs() -> Iterator[None]:
    """Take back what a test registers."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
    for name in [n for n in MetadataCatalog if n.startswith("tiny_")]:
        MetadataCatalog.remove(name)


def mask() -> np.ndarray:
    """Return the object's pixels, [HEIGHT, WIDTH]."""
    x, y, width, height = BOX
    full = np.zeros((HEIGHT, WIDTH), dtype=bool)
    full[y : y + height, x : x + width] = True
    return full


def save(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def photograph(path: Path) -> Path:
    return save(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8), path)


def instances(found: bool, classes: int = 0) -> Instances:
    """Return the object, perfectly found, or something beside it."""
    x, y, width, height = BOX
    right, down = (0, 0) if found else (45, 20)
    instances = Instances((HEIGHT, WIDTH))
    box = torch.tensor([[x + right, y + down, x + right + width, y + down + height]])
    instances.pred_boxes = Boxes(box.float())
    instances.pred_classes, instances.scores = torch.tensor([classes]), torch.tensor([0.9])
    instances.pred_masks = torch.from_numpy(mask())[None].roll((down, right), (1, 2))
    return instances


def evaluate(name: str, output: dict[str, Any], folder: Path) -> dict[str, dict[str, float]]:
    """Evaluate the same prediction for every image."""
    require_evaluators([name])
    evaluator = build_evaluator(tiny_cfg(), name, str(folder / "results"))
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        evaluator.process([record], [output])
    return evaluator.evaluate()


@pytest.mark.parametrize(("found", "expected"), [(True, 100), (False, 0)])
@pytest.mark.parametrize("year", [2007, 2012])
def test_pascal_voc(year: int, found: bool, expected: float, tmp_path: Path) -> None:
    x, y, width, height = BOX
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\nb\n")
    annotation = (
        f"<annotation><size><width>{WIDTH}</width><height>{HEIGHT}</height></size><object>"
        "<name>digit</name><pose>x</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
        f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + width}</xmax>"
        f"<ymax>{y + height}</ymax></bndbox></object></annotation>"
    )
    for name in "ab":
        photograph(tmp_path / "JPEGImages" / f"{name}.jpg")
        (tmp_path / "Annotations" / f"{name}.xml").write_text(annotation)
    register_pascal_voc("tiny_voc", str(tmp_path), "test", year, ("digit",))
    MetadataCatalog.get("tiny_voc").evaluator_type = "pascal_voc"
    results = evaluate("tiny_voc", {"instances": instances(found)}, tmp_path)
    assert results["bbox"]["AP50"] == pytest.approx(expected)


def lvis_file(folder: Path) -> Path:
    x, y, width, height = BOX
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    photograph(folder / "images" / "a.jpg")
    record = {"id": 1, "height": HEIGHT, "width": WIDTH, "coco_url": "http://x/images/a.jpg"}
    record |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": list(BOX)}
    annotation |= {"area": width * height, "segmentation": [polygon]}
    file = folder / "lvis.json"
    category = {"id": 1, "name": "digit", "frequency": "f"}
    document = {"images": [record], "annotations": [annotation], "categories": [category]}
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize(("found", "expected"), [(True, 100), (False, 0)])
def test_lvis(found: bool, expected: float, tmp_path: Path) -> None:
    pytest.importorskip("lvis")
    file = str(lvis_file(tmp_path))
    names = set(vars(np))
    DatasetCatalog.register("tiny_lvis", lambda: load_lvis_json(file, f"{tmp_path}/"))
    MetadataCatalog.get("tiny_lvis").set(
        json_file=file, evaluator_type="lvis", thing_classes=["digit"]
    )
    results = evaluate("tiny_lvis", {"instances": instances(found)}, tmp_path)
    assert results["bbox"]["AP50"] == pytest.approx(expected)
    assert results["segm"]["APf"] == pytest.approx(expected)
    assert {"float", "in1d"}.isdisjoint(set(vars(np)) - names)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """One image of Cityscapes with a car (id 26, train id 13) on a road (7, train id 0)."""
    stem = "ulm_000000_000019"
    photograph(tmp_path / "images" / "ulm" / f"{stem}_leftImg8bit.png")
    truth, car = tmp_path / "gt" / "ulm", mask()
    maps = {
        "instanceIds": np.where(car, 26000, 7).astype(np.uint16),
        "labelIds": np.where(car, 26, 7).astype(np.uint8),
        "labelTrainIds": np.where(car, 13, 0).astype(np.uint8),
    }
    for kind, values in maps.items():
        save(values, truth / f"{stem}_gtFine_{kind}.png")
    document = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": []}
    (truth / f"{stem}_gtFine_polygons.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize(("found", "expected"), [(True, 100), (False, 0)])
def test_cityscapes_instances(found, expected, cityscapes: Path, monkeypatch) -> None:
    monkeypatch.chdir(cityscapes)  # where cityscapesscripts writes its matches.json
    pytest.importorskip("cityscapesscripts")
    pytest.importorskip("cv2")
    folders = [str(cityscapes / name) for name in ("images", "gt")]
    DatasetCatalog.register(
        "tiny_city", lambda: load_cityscapes_instances(*folders, from_json=False)
    )
    MetadataCatalog.get("tiny_city").set(
        gt_dir=folders[1], evaluator_type="cityscapes_instance", thing_classes=["person", "car"]
    )
    (record,) = DatasetCatalog.get("tiny_city")
    assert len(record["annotations"]) == 1
    results = evaluate("tiny_city", {"instances": instances(found, classes=1)}, cityscapes)
    assert results["segm"]["AP50"] == pytest.approx(expected)


@pytest.mark.parametrize(("found", "expected"), [(True, 100), (False, 39.58)])
def test_cityscapes_pixels(found: bool, expected: float, cityscapes: Path) -> None:
    """A road everywhere has IoU 1 - 1280 / 6144 for the road and 0 for the car."""
    pytest.importorskip("cityscapesscripts")
    folders = [str(cityscapes / name) for name in ("images", "gt")]
    DatasetCatalog.register("tiny_pixels", lambda: load_cityscapes_semantic(*folders))
    MetadataCatalog.get("tiny_pixels").set(gt_dir=folders[1], evaluator_type="cityscapes_sem_seg")
    scores = torch.zeros(19, HEIGHT, WIDTH)
    scores[0] = 1
    scores[13] = torch.from_numpy(mask()) * 2.0 * found
    results = evaluate("tiny_pixels", {"sem_seg": scores}, cityscapes)
    assert results["sem_seg"]["IoU"] == pytest.approx(expected, abs=0.01)


@pytest.fixture
def panoptic(tmp_path: Path) -> str:
    """One image of COCO Panoptic with a digit, on a sky, registered as detectron2 does."""
    x, y, width, height = BOX
    photograph(tmp_path / "images" / "a.jpg")
    digit = mask()
    ids = np.where(digit, 1, 2).astype(np.uint8)
    save(np.stack([ids, 0 * ids, 0 * ids], 2), tmp_path / "panoptic" / "a.png")  # id = R + 256 G ..
    save(np.where(digit, 0, 1).astype(np.uint8), tmp_path / "stuff" / "a.png")
    categories = [
        {"id": 1, "name": "digit", "isthing": 1, "supercategory": ""},
        {"id": 2, "name": "sky", "isthing": 0, "supercategory": ""},
    ]
    images = [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    shape = {"bbox": list(BOX), "area": width * height, "iscrowd": 0, "category_id": 1, "id": 1}
    segments = [
        shape,
        {**shape, "id": 2, "category_id": 2, "area": HEIGHT * WIDTH - width * height},
    ]
    annotations = {
        "instances": {**shape, "image_id": 1, "segmentation": [polygon]},
        "panoptic": {"image_id": 1, "file_name": "a.png", "segments_info": segments},
    }
    for kind, annotation in annotations.items():
        wanted = categories[:1] if kind == "instances" else categories
        document = {"images": images, "annotations": [annotation], "categories": wanted}
        (tmp_path / f"{kind}.json").write_text(json.dumps(document))
    metadata = {
        "thing_classes": ["digit"],
        "stuff_classes": ["things", "sky"],
        "thing_dataset_id_to_contiguous_id": {1: 0},
        "stuff_dataset_id_to_contiguous_id": {0: 0, 2: 1},
    }
    register_coco_panoptic_separated(
        "tiny_panoptic",
        metadata,
        *(str(tmp_path / name) for name in ("images", "panoptic", "panoptic.json")),
        *(str(tmp_path / name) for name in ("stuff", "instances.json")),
    )
    return "tiny_panoptic_separated"


@pytest.mark.parametrize(("found", "expected"), [(True, 100), (False, 0)])
def test_panoptic(found: bool, expected: float, panoptic: str, tmp_path: Path) -> None:
    pytest.importorskip("panopticapi")
    digit = torch.from_numpy(mask())
    segments = [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": False, "category_id": 1},
    ]
    output = {
        "instances": instances(found),
        "sem_seg": torch.stack([digit, ~digit]).float(),
        "panoptic_seg": (
            torch.where(digit, 1 if found else 0, 2).int(),
            segments if found else segments[1:],
        ),
    }
    results = evaluate(panoptic, output, tmp_path)
    assert results["sem_seg"]["mIoU"] == pytest.approx(100)
    assert results["bbox"]["AP50"] == pytest.approx(expected)
    assert results["segm"]["AP50"] == pytest.approx(expected)
    assert results["panoptic_seg"]["PQ_th"] == pytest.approx(expected)
    assert results["panoptic_seg"]["PQ_st"] == pytest.approx(100)


def test_a_panoptic_fpn_is_evaluated(panoptic: str, tmp_path: Path) -> None:
    pytest.importorskip("panopticapi")
    cfg = shrink_heads(shrink(read("COCO-PanopticSegmentation/panoptic_fpn_BiT_R50x1_1x.yaml")))
    cfg.MODEL.WEIGHTS, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "", 1
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.DATALOADER.NUM_WORKERS = 2, 0
    cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (panoptic,), str(tmp_path / "run")
    cfg.INPUT.MIN_SIZE_TEST = 64
    trainer = TRAIN_NET["Trainer"]
    results = trainer.test(cfg, trainer.build_model(cfg))
    assert set(results) == {"sem_seg", "bbox", "segm", "panoptic_seg"}
    assert 0 <= results["panoptic_seg"]["PQ"] <= 100


@pytest.mark.parametrize(
    ("kind", "package", "source"),
    [
        ("lvis", "lvis", "lvis"),
        ("coco_panoptic_seg", "panopticapi", "git+https://github.com/cocodataset/panopticapi.git"),
        ("cityscapes_instance", "cityscapesscripts", "cityscapesscripts"),
        ("cityscapes_sem_seg", "cityscapesscripts", "cityscapesscripts"),
    ],
)
def test_a_missing_package_is_told_before_training(kind, package, source, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    MetadataCatalog.get("tiny_missing").evaluator_type = kind
    message = (
        rf"evaluating tiny_missing \({kind}\) needs {package}, .*pip install {re.escape(source)}"
    )
    with pytest.raises(MissingExtraError, match=message):
        require_evaluators(["tiny_missing"])


def test_names_that_numpy_dropped_are_there_for_an_evaluator_alone(monkeypatch) -> None:
    monkeypatch.delattr(np, "float", raising=False)
    monkeypatch.delattr(np, "in1d", raising=False)

    class Upstream(DatasetEvaluator):
        def evaluate(self):
            found = np.in1d([[1, 2], [3, 4]], [2, 3], invert=True)
            assert np.float is float
            raise RuntimeError(found.tolist())

    class Evaluator(_OnAnyNumPy, Upstream):
        pass

    with pytest.raises(RuntimeError, match=r"\[True, False, False, True\]"):
        Evaluator().evaluate()
    assert not hasattr(np, "float")
    assert not hasattr(np, "in1d")


def test_a_name_that_numpy_still_has_stays(monkeypatch) -> None:
    own = object()
    monkeypatch.setattr(np, "in1d", own, raising=False)
    with _former_numpy():
        assert np.in1d is own
    assert np.in1d is own


def test_counts_of_numpy_are_written_as_numbers(tmp_path: Path) -> None:
    value = {"matches": [np.int64(3), np.float32(0.5)], "box": argparse.Namespace(x=np.int32(1))}
    _write_json(value, str(tmp_path / "matches.json"))
    told = json.loads((tmp_path / "matches.json").read_text())
    assert told == {"matches": [3, 0.5], "box": {"x": 1}}


def test_cityscapes_scripts_are_found_where_detectron2_looks(tmp_path, monkeypatch) -> None:
    helpers = tmp_path / "cityscapesscripts" / "helpers"
    helpers.mkdir(parents=True)
    (helpers.parent / "__init__.py").touch()
    (helpers / "__init__.py").touch()
    (helpers / "labels.py").write_text("labels = ['road']\n")
    inside_meta = ["deeplearning", "deeplearning.projects"]
    inside_meta += [f"{inside_meta[1]}.cityscapesApi"]
    inside_meta += [f"{inside_meta[2]}.cityscapesscripts"]
    for name in [name for name in sys.modules if name.startswith(("cityscapessc", "deeplearn"))]:
        monkeypatch.delitem(sys.modules, name)
    for name in inside_meta:
        monkeypatch.setitem(sys.modules, name, None)  # so that it is put back afterwards
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    alias_cityscapes_scripts()
    found = importlib.import_module(f"{inside_meta[3]}.helpers.labels")
    assert found.labels == ["road"]
    assert found.__file__ == str(helpers / "labels.py")
    alias_cityscapes_scripts()  # once more, where the other name exists by now
    assert sys.modules[inside_meta[3]].helpers.labels is found
    for name in [name for name in sys.modules if name.startswith(("cityscapessc", "deeplearn"))]:
        del sys.modules[name]


def test_a_data_set_without_evaluator_is_told() -> None:
    with pytest.raises(ValueError, match=r"evaluator_type of tiny_ must be one of coco, .*None"):
        require_evaluators(["tiny_"])


@pytest.mark.parametrize(
    ("device", "amp", "training", "cuda", "message"),
    [
        ("cpu", False, True, False, None),
        ("cpu", True, False, False, None),  # detectron2 evaluates without AMP
        ("cuda", True, True, True, None),
        ("cuda", True, True, False, r"MODEL.DEVICE must be .*got cuda.* MODEL.DEVICE cpu SOLVER"),
        ("cuda:1", False, False, False, r"MODEL.DEVICE must be .*got cuda:1"),
        ("cpu", True, True, False, r"SOLVER.AMP.ENABLED needs CUDA.* SOLVER.AMP.ENABLED False"),
        ("cpu", True, True, True, r"SOLVER.AMP.ENABLED needs CUDA"),
    ],
)
def test_a_missing_device_is_told(device, amp, training, cuda, message, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    cfg = tiny_cfg(DEVICE=device)
    cfg.SOLVER.AMP.ENABLED = amp
    if message is None:
        TRAIN_NET["check_device"](cfg, training)
    else:
        with pytest.raises(ValueError, match=message):
            TRAIN_NET["check_device"](cfg, training)


@pytest.mark.parametrize(
    ("asked", "found", "eval_only", "rejected"),
    [
        (1, 0, False, False),
        (2, 2, False, False),
        (2, 0, True, False),
        (2, 0, False, True),
        (4, 2, True, True),
    ],
)
def test_missing_gpus_are_told(asked, found, eval_only, rejected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    args = argparse.Namespace(num_gpus=asked, eval_only=eval_only)
    if not rejected:
        TRAIN_NET["check_processes"](args)
    else:
        with pytest.raises(ValueError, match=rf"at most the number of GPUs here, {found}, got"):
            TRAIN_NET["check_processes"](args)
