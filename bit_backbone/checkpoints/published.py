"""Every published BiT checkpoint: its address, its contents and its preprocessing.

The official files are listed in the README of google-research/big_transfer; timm re-hosts fifteen
of them and transformers one. Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from bit_backbone.config import VARIANTS

__all__ = ["VTAB_TASKS", "PublishedCheckpoint", "catalog", "closest", "find", "vtab"]

BUCKET = "https://storage.googleapis.com/bit_models"
LICENCE = "Apache-2.0"
IMAGENET, IMAGENET_21K = 1000, 21843

_FINE_TUNED = "ImageNet-21k, then ImageNet-1k"
_STUDENT = "distilled from R152x2 on ImageNet-1k"

# ImageNet top-1 and top-5 (%) of BiT-M fine-tuned on ILSVRC-2012, as timm publishes them.
_FINE_TUNED_ACCURACY = {
    "R50x1": (80.19, 95.63),
    "R50x3": (83.75, 97.12),
    "R101x1": (82.21, 96.47),
    "R101x3": (84.38, 97.37),
    "R152x2": (84.4, 97.43),
    "R152x4": (84.95, 97.45),
}

# The 19 tasks of VTAB-1k and their classes (arXiv 1910.04867; google-research/task_adaptation).
VTAB_TASKS: Mapping[str, int] = MappingProxyType(
    {
        "caltech101": 102,
        "cifar100": 100,
        "clevr-count": 8,
        "clevr-distance": 6,
        "diabetic_retinopathy": 5,
        "dmlab": 6,
        "dsprites-orientation": 16,
        "dsprites-xpos": 16,
        "dtd": 47,
        "eurosat": 10,
        "kitti-distance": 4,
        "oxford_flowers102": 102,
        "oxford_iiit_pet": 37,
        "patch_camelyon": 2,
        "resisc45": 45,
        "smallnorb-azimuth": 18,
        "smallnorb-elevation": 9,
        "sun397": 397,
        "svhn": 10,
    }
)
VTAB_VARIANTS = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x4")
VTAB_RUNS = (0, 1, 2)
VTAB_PATTERN = "vtab/BiT-M-{variant}-run{run}-{task}"


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One published file.

    Attributes:
        name: The name to pass as ``weights`` or ``source``.
        variant: "R50x1" .. "R152x4".
        num_labels: Size of its head.
        data: What it was trained on.
        source: "bucket" (the official .npz) or "hub" (the Hugging Face Hub).
        location: Its URL, or its repository on the Hub.
        format: The format of the file.
        preset: Preprocessing, a preset of BitImageProcessor.
        top1: Published ImageNet top-1 accuracy in %, if any (BiT-M fine-tuned on ILSVRC-2012: as
            measured with timm's preprocessing).
        top5: Published ImageNet top-5 accuracy in %, if any.
        aliases: Other accepted names.
        licence: SPDX identifier.
    """

    name: str
    variant: str
    num_labels: int
    data: str
    source: str
    location: str
    format: str
    preset: str
    top1: float | None = None
    top5: float | None = None
    aliases: tuple[str, ...] = ()
    licence: str = LICENCE


@cache
def catalog() -> Mapping[str, PublishedCheckpoint]:
    """Returns the published checkpoints by name, without the 285 of VTAB-1k (see ``vtab``)."""
    entries = (*_pretrained(), *_fine_tuned(), *_distilled(), *_timm(), _bit_50())
    return MappingProxyType({entry.name: entry for entry in entries})


@cache
def vtab() -> Mapping[str, PublishedCheckpoint]:
    """Returns the checkpoints fine-tuned on each VTAB-1k task, three runs of five variants."""
    entries = {}
    for variant, run, task in itertools.product(VTAB_VARIANTS, VTAB_RUNS, VTAB_TASKS):
        name = VTAB_PATTERN.format(variant=variant, run=run, task=task)
        data, alias = f"ImageNet-21k, then VTAB-1k {task}", name.removeprefix("vtab/")
        entries[name] = _official(name, variant, VTAB_TASKS[task], data, aliases=(alias,))
    return MappingProxyType(entries)


def find(name: str) -> PublishedCheckpoint | None:
    """Returns the checkpoint that a name or an alias means, VTAB-1k included, or None.

    Args:
        name: "BiT-M-R50x1", "timm/resnetv2_50x1_bit.goog_in21k", "resnetv2_50x1_bitm",
            "vtab/BiT-M-R50x1-run0-dtd", ... in any case; an official name may end in ".npz".
    """
    return _index().get(name.lower().removesuffix(".npz"))


def closest(name: str) -> list[str]:
    """Returns up to three known names similar to an unknown one."""
    known = {key: entry.name for key, entry in _index().items()}
    keys = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    return list(dict.fromkeys(known[key] for key in keys))


@cache
def _index() -> Mapping[str, PublishedCheckpoint]:
    entries = (*catalog().values(), *vtab().values())
    return {name.lower(): entry for entry in entries for name in (entry.name, *entry.aliases)}


def _official(
    name: str,
    variant: str,
    num_labels: int,
    data: str,
    preset: str = "official",
    accuracy: tuple[float | None, float | None] = (None, None),
    aliases: tuple[str, ...] = (),
) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        name,
        variant,
        num_labels,
        data,
        "bucket",
        f"{BUCKET}/{name}.npz",
        "npz",
        preset,
        *accuracy,
        aliases,
    )


def _pretrained() -> Iterator[PublishedCheckpoint]:
    for variant in VARIANTS:
        yield _official(f"BiT-S-{variant}", variant, IMAGENET, "ImageNet-1k")
    for variant in VARIANTS:
        yield _official(f"BiT-M-{variant}", variant, IMAGENET_21K, "ImageNet-21k")


def _fine_tuned() -> Iterator[PublishedCheckpoint]:
    for variant, accuracy in _FINE_TUNED_ACCURACY.items():
        yield _official(
            f"BiT-M-{variant}-ILSVRC2012",
            variant,
            IMAGENET,
            _FINE_TUNED,
            accuracy=accuracy,
        )


def _distilled() -> Iterator[PublishedCheckpoint]:
    """The models of "A good teacher is patient and consistent", arXiv 2106.05237."""
    for name, variant, data, preset, top1 in (
        ("distill/R50x1_224", "R50x1", _STUDENT, "timm_distilled", 82.8),
        ("distill/R50x1_160", "R50x1", _STUDENT, "distilled_160", 80.5),
        ("distill/R152x2_T_224", "R152x2", _FINE_TUNED, "timm_distilled", None),
        ("distill/R152x2_T_384", "R152x2", _FINE_TUNED, "timm_teacher_384", None),
    ):
        yield _official(
            name, variant, IMAGENET, data, preset, (top1, None), (name.removeprefix("distill/"),)
        )


def _timm() -> Iterator[PublishedCheckpoint]:
    for variant, accuracy in _FINE_TUNED_ACCURACY.items():
        preset = "timm_480" if variant == "R152x4" else "timm_448"
        yield _rehosted(variant, "goog_in21k_ft_in1k", "_bitm", preset, accuracy=accuracy)
    for variant in VARIANTS:
        yield _rehosted(
            variant, "goog_in21k", "_bitm_in21k", "timm_in21k", IMAGENET_21K, "ImageNet-21k"
        )
    yield _rehosted(
        "R50x1",
        "goog_distilled_in1k",
        "_bit_distilled",
        "timm_distilled",
        data=_STUDENT,
        accuracy=(82.8, None),
    )
    teacher = "goog_teacher_in21k_ft_in1k"
    yield _rehosted("R152x2", teacher, "_bit_teacher", "timm_distilled")
    yield _rehosted("R152x2", f"{teacher}_384", "_bit_teacher_384", "timm_teacher_384")


def _rehosted(
    variant: str,
    tag: str,
    old: str,
    preset: str,
    num_labels: int = IMAGENET,
    data: str = _FINE_TUNED,
    accuracy: tuple[float | None, float | None] = (None, None),
) -> PublishedCheckpoint:
    """One of timm's; ``old`` is the end of its name before timm had tags."""
    stem = f"resnetv2_{variant.removeprefix('R')}"
    name = f"timm/{stem}_bit.{tag}"
    aliases = (name.removeprefix("timm/"), stem + old, f"timm/{stem}{old}")
    return PublishedCheckpoint(
        name,
        variant,
        num_labels,
        data,
        "hub",
        name,
        "timm",
        preset,
        *accuracy,
        aliases,
    )


def _bit_50() -> PublishedCheckpoint:
    return PublishedCheckpoint(
        "google/bit-50",
        "R50x1",
        IMAGENET,
        _FINE_TUNED,
        "hub",
        "google/bit-50",
        "transformers",
        "timm_448",
    )
