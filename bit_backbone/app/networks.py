"""The networks that the page shows: opened when they are first needed, and then kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bit_backbone.backbone import BitBackbone
from bit_backbone.checkpoints.pretrained import config_for
from bit_backbone.checkpoints.sources import CONFIG_FILE, open_checkpoint
from bit_backbone.config import BitConfig
from bit_backbone.detection.trained import weights_of
from bit_backbone.training.state import SPEC_NAME

if TYPE_CHECKING:
    from bit_backbone.heads import BitForImageClassification
    from bit_backbone.preprocessing import BitImageProcessor

RANDOM_VARIANT = "R50x1"
RANDOM = f"{RANDOM_VARIANT}, random weights"
MAPS = ("as trained", "raw", "preact")
STRIDES = (32, 16, 8)
MOST_OPEN = 4  # of each kind
DEMO = ("demo/run_0", "demo/backbone_0")  # what `make demo` leaves in the folder it is run in


@dataclass(frozen=True)
class View:
    """A network, and how it is looked at.

    Attributes:
        name: Of the network, among ``Networks.names``.
        maps: One of ``MAPS``: with the outputs' norm that it was trained with, the raw sums, or
            what the next unit's norm makes of them.
        stride: Of the last stage, one of ``STRIDES``.
    """

    name: str
    maps: str = MAPS[0]
    stride: int = STRIDES[0]


@dataclass(frozen=True)
class Detector:
    """A trained detector or segmenter.

    Attributes:
        model: In eval mode.
        categories: Names of the classes, label 1 first.
        bit_depth: How many bits of deep images it was trained with.
        is_segmenter: Whether it colours pixels instead of finding objects.
    """

    model: Any
    categories: tuple[str, ...]
    bit_depth: int | str
    is_segmenter: bool


@dataclass(frozen=True)
class Classifier:
    """A classifier with its preprocessing.

    Attributes:
        model: In eval mode.
        processor: What images go through.
        names: Of the classes.
    """

    model: BitForImageClassification
    processor: BitImageProcessor
    names: tuple[str, ...]


class Networks:
    """Checkpoints by short names.

    Args:
        checkpoints: Folders of runs, files, folders and published names; with none, a network of
            random weights.
        device: Where to compute.

    Raises:
        ValueError: One cannot be found or read, or two have one name.
    """

    def __init__(self, checkpoints: Sequence[str] = (), device: str = "cpu") -> None:
        self.device = device
        self._sources = {RANDOM: ""} if not checkpoints else _named(checkpoints)
        self._heads = {name: _num_labels(source) for name, source in self._sources.items()}
        self._lock = threading.Lock()
        self._open: dict[str, OrderedDict[Any, Any]] = {}

    @property
    def names(self) -> list[str]:
        """Of all."""
        return list(self._sources)

    @property
    def detectors(self) -> list[str]:
        """Names of the detectors and segmenters."""
        return [name for name, source in self._sources.items() if _is_run(source)]

    @property
    def classifiers(self) -> list[str]:
        """Names of those with a head."""
        return [name for name in self._sources if self._heads[name]]

    def backbone(self, view: View) -> BitBackbone:
        """Returns a backbone with every output.

        Raises:
            ValueError: It cannot be read, or has no norm for "preact".
        """
        return self._kept("backbones", view, lambda: self._read_backbone(view))

    def detector(self, name: str) -> Detector:
        """Returns a detector or segmenter.

        Raises:
            ValueError: It cannot be read.
        """
        return self._kept("detectors", name, lambda: self._read_detector(name))

    def classifier(self, name: str) -> Classifier:
        """Returns a classifier.

        Raises:
            ValueError: It cannot be read, or has no head.
        """
        return self._kept("classifiers", name, lambda: self._read_classifier(name))

    def _kept(self, kind: str, key: Any, read: Callable[[], Any]) -> Any:
        with self._lock:
            kept = self._open.setdefault(kind, OrderedDict())
            if key not in kept:
                kept[key] = read()
                if len(kept) > MOST_OPEN:
                    kept.popitem(last=False)
            kept.move_to_end(key)
            return kept[key]

    def _read_backbone(self, view: View) -> BitBackbone:
        source = self._sources[view.name]
        settings: dict[str, Any] = {"output_stride": view.stride}
        if view.maps != MAPS[0]:
            settings["feature_norm"] = "preact" if view.maps == "preact" else "none"
        if not source:
            torch.manual_seed(0)
            config = BitConfig.from_variant(RANDOM_VARIANT)
            backbone = BitBackbone(config.replace(**settings, out_indices=range(_depth(config))))
            return backbone.eval().to(self.device)
        weights = weights_of(source)
        with open_checkpoint(weights) as checkpoint:
            config = config_for(weights, checkpoint)
        if settings.get("feature_norm", config.feature_norm) != "groupnorm":
            settings["out_indices"] = range(_depth(config))  # else only those with a trained norm
        return BitBackbone.from_pretrained(weights, **settings).to(self.device)

    def _read_detector(self, name: str) -> Detector:
        from bit_backbone.detection.models import is_segmenter
        from bit_backbone.detection.runs import bit_depth_of, load_detector

        source = self._sources[name]
        model, spec = load_detector(source, self.device)
        return Detector(model, spec.categories, bit_depth_of(source), is_segmenter(spec.name))

    def _read_classifier(self, name: str) -> Classifier:
        from bit_backbone.finetune.labels import class_names
        from bit_backbone.finetune.opening import classifier_of, processor_of

        weights = weights_of(self._sources[name])
        model = classifier_of(weights, None).to(self.device)
        return Classifier(model, processor_of(weights, None), class_names(model.config))


def demo_checkpoints(folder: Path) -> list[str]:
    """Returns what `make demo` has left in a folder: its detector and its classifier."""
    return [str(folder / name) for name in DEMO if (folder / name).is_dir()]


def _depth(config: BitConfig) -> int:
    """Returns how many outputs a checkpoint has weights for, the stem's included."""
    indices = config.out_indices
    assert indices is not None  # BitConfig resolves it: the last stage is its default
    return int(indices[-1]) + 1


def _is_run(source: str) -> bool:
    """Whether it is the folder of a run of `bit-backbone train`."""
    folder = Path(source)
    return (folder / SPEC_NAME).is_file() and not (folder / CONFIG_FILE).exists()


def _named(checkpoints: Sequence[str]) -> dict[str, str]:
    """Returns the checkpoints by the last parts of their paths, as many as make them differ.

    The whole path of a server's folders is nothing that a page should show.
    """
    unique = list(dict.fromkeys(checkpoints))
    for length in range(1, 1 + max(len(Path(each).parts) for each in unique)):
        names = ["/".join(Path(each).parts[-length:]) for each in unique]
        if len(set(names)) == len(names):
            return dict(zip(names, unique, strict=True))
    raise ValueError(f"checkpoints have different names, got {', '.join(checkpoints)}")


def _num_labels(source: str) -> int:
    """Returns how many classes a checkpoint has a head for, read without its tensors."""
    if not source or _is_run(source):
        return 0
    with open_checkpoint(weights_of(source)) as checkpoint:
        return checkpoint.architecture.num_labels
