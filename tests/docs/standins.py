"""What a reader has and the tests have not: published weights, photographs, a data set.

The weights are random, in the files and under the names of the published R50x1.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from official import official_arrays, official_shape, write_official
from photographs import photograph
from PIL import Image

from bit_backbone.checkpoints import convert

COMMIT = "0123456789" * 4
OFFICIAL = ("BiT-M-R50x1", "BiT-M-R50x1-ILSVRC2012")
TIMM = ("resnetv2_50x1_bit.goog_in21k", "resnetv2_50x1_bit.goog_in21k_ft_in1k")
LABELS = 1000
CLASSES = ("cat", "dog")


def fill_caches(home: Path) -> dict[str, str]:
    """Writes stand-ins for published weights; returns the environment in which they are found."""
    bucket = home / "torch" / "hub" / "checkpoints"
    bucket.mkdir(parents=True)
    network = {**official_shape("R50x1"), "head": LABELS}
    source = write_official(bucket / f"{OFFICIAL[0]}.npz", official_arrays(**network))
    for name in OFFICIAL[1:]:
        os.link(source, bucket / f"{name}.npz")
    _write_timm(home, source)
    _write_transformers(home, source)
    return {
        "TORCH_HOME": str(home / "torch"),
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "FVCORE_CACHE": str(home / "iopath"),
        "DETECTRON2_DATASETS": str(home / "detectron2"),
    }


def _repository(home: Path, name: str) -> Path:
    """An empty snapshot in the cache of huggingface_hub."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    return snapshot


def _write_timm(home: Path, source: Path) -> None:
    weights = home / "timm.safetensors"
    convert(source, weights, "timm")
    for name in TIMM:
        snapshot = _repository(home, f"timm/{name}")
        os.link(weights, snapshot / "model.safetensors")
        values = {"architecture": name.partition(".")[0], "num_classes": LABELS}
        (snapshot / "config.json").write_text(json.dumps(values))


def _write_transformers(home: Path, source: Path) -> None:
    from transformers import BitImageProcessor

    snapshot = _repository(home, "google/bit-50")
    convert(source, snapshot.with_name("bit-50"), "transformers")
    for path in snapshot.with_name("bit-50").iterdir():
        shutil.move(path, snapshot)
    BitImageProcessor(
        size={"shortest_edge": 448},
        crop_size={"height": 448, "width": 448},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(snapshot)


def fill_workspace(folder: Path) -> None:
    """Writes a reader's own files: photographs, and folders of labelled images."""
    photograph("china").save(folder / "photo.jpg")
    photograph("flower").save(folder / "flower.jpg")
    (folder / "photos").mkdir()
    photograph("china").save(folder / "photos" / "china.jpg")
    photograph("flower").save(folder / "photos" / "flower.jpg")
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (folder / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(128 * label, 128 * (label + 1), (40, 48, 3))
                path = folder / "pets" / split / name / f"{index}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
