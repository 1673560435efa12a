"""The catalog: every published file, under every name that is asked for."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from bit_backbone import BitConfig
from bit_backbone.checkpoints import catalog
from bit_backbone.checkpoints.formats import FORMATS
from bit_backbone.checkpoints.published import VTAB_TASKS, closest, find, vtab
from bit_backbone.config import VARIANTS
from bit_backbone.preprocessing import PRESETS, BitImageProcessor

BUCKET = "https://storage.googleapis.com/bit_models/"


def test_every_file_is_there():
    kinds = Counter(name.split("-")[0].split("/")[0] for name in catalog())
    assert kinds == {"BiT": 18, "distill": 4, "timm": 15, "google": 1}
    assert len(vtab()) == 5 * 3 * 19
    assert sum("R152x2" in name for name in vtab()) == 0
    for variant in VARIANTS:
        assert catalog()[f"BiT-S-{variant}"].num_labels == 1000
        assert catalog()[f"BiT-M-{variant}"].num_labels == 21843
        assert catalog()[f"BiT-M-{variant}-ILSVRC2012"].num_labels == 1000


@pytest.mark.parametrize(
    ("asked", "location", "variant", "labels", "preset"),
    [
        ("BiT-M-R50x1", BUCKET + "BiT-M-R50x1.npz", "R50x1", 21843, "official"),
        ("bit-m-r101x3.npz", BUCKET + "BiT-M-R101x3.npz", "R101x3", 21843, "official"),
        (
            "BiT-M-R152x2-ILSVRC2012", BUCKET + "BiT-M-R152x2-ILSVRC2012.npz",
            "R152x2", 1000, "official",
        ),
        ("R50x1_224", BUCKET + "distill/R50x1_224.npz", "R50x1", 1000, "timm_distilled"),
        ("distill/R50x1_160", BUCKET + "distill/R50x1_160.npz", "R50x1", 1000, "distilled_160"),
        (
            "R152x2_T_384", BUCKET + "distill/R152x2_T_384.npz", "R152x2", 1000,
            "timm_teacher_384",
        ),
        (
            "vtab/BiT-M-R101x1-run2-clevr-count",
            BUCKET + "vtab/BiT-M-R101x1-run2-clevr-count.npz", "R101x1", 8, "official",
        ),
        (
            "BiT-M-R50x3-run0-sun397", BUCKET + "vtab/BiT-M-R50x3-run0-sun397.npz", "R50x3", 397,
            "official",
        ),
        (
            "timm/resnetv2_50x1_bit.goog_in21k", "timm/resnetv2_50x1_bit.goog_in21k",
            "R50x1", 21843, "timm_in21k",
        ),
        (
            "resnetv2_152x4_bitm", "timm/resnetv2_152x4_bit.goog_in21k_ft_in1k",
            "R152x4", 1000, "timm_480",
        ),
        (
            "timm/resnetv2_101x3_bitm_in21k", "timm/resnetv2_101x3_bit.goog_in21k",
            "R101x3", 21843, "timm_in21k",
        ),
        (
            "resnetv2_152x2_bit_teacher_384",
            "timm/resnetv2_152x2_bit.goog_teacher_in21k_ft_in1k_384",
            "R152x2", 1000, "timm_teacher_384",
        ),
        ("google/bit-50", "google/bit-50", "R50x1", 1000, "timm_448"),
    ],
)  # fmt: skip
def test_names_that_are_asked_for(asked, location, variant, labels, preset):
    entry = find(asked)
    assert (entry.location, entry.variant, entry.num_labels) == (location, variant, labels)
    assert entry.preset == preset
    assert entry.licence == "Apache-2.0"
    assert BitConfig.from_variant(entry.variant)


def test_published_accuracy():
    published = {
        "R50x1": (80.19, 95.63),
        "R50x3": (83.75, 97.12),
        "R101x1": (82.21, 96.47),
        "R101x3": (84.38, 97.37),
        "R152x2": (84.4, 97.43),
        "R152x4": (84.95, 97.45),
    }
    for variant, (top1, top5) in published.items():
        for name in (f"BiT-M-{variant}-ILSVRC2012", f"resnetv2_{variant[1:]}_bitm"):
            assert (find(name).top1, find(name).top5) == (top1, top5)
    assert (find("R50x1_224").top1, find("R50x1_160").top1) == (82.8, 80.5)
    assert find("BiT-M-R50x1").top1 is None


def test_unknown_names():
    assert find("BiT-L-R50x1") is None
    assert find("vtab/BiT-M-R152x2-run0-dtd") is None
    assert "BiT-M-R50x1" in closest("BiT-L-R50x1")
    assert closest("something else entirely") == []


def test_entries_refer_to_what_exists():
    for entry in (*catalog().values(), *vtab().values()):
        assert entry.preset in PRESETS
        assert entry.format in FORMATS
        assert entry.source == ("bucket" if entry.location.startswith("https://") else "hub")
        for alias in entry.aliases:
            assert find(alias) is entry
    assert len(VTAB_TASKS) == 19


def test_a_processor_is_made_by_a_checkpoints_name():
    processor = BitImageProcessor.from_preset("resnetv2_152x4_bitm")
    assert processor.crop_size == {"height": 480, "width": 480}
    assert processor == BitImageProcessor.from_preset("timm_480")


@pytest.mark.parametrize("entry", [e for e in catalog().values() if e.format == "timm"], ids=str)
def test_presets_are_timms_own(entry):
    timm = pytest.importorskip("timm")
    theirs = timm.get_pretrained_cfg(entry.location.removeprefix("timm/")).to_dict()
    preset = BitImageProcessor.from_preset(entry.preset)
    height = theirs["input_size"][1]
    assert preset.crop_size == {"height": height, "width": height}
    assert preset.size == {"shortest_edge": int(height / theirs["crop_pct"])}
    assert preset.resample.name.lower() == theirs["interpolation"]
    assert list(theirs["mean"]) == list(preset.image_mean)
    assert theirs["num_classes"] == entry.num_labels


def test_the_catalog_needs_no_torch():
    code = (
        "import sys; from bit_backbone.checkpoints import catalog; catalog(); "
        "sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
