"""Keeps the old names of modules that moved into rooms.

Importing an old name returns the module of the new name, with a DeprecationWarning.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# Under bit_backbone: the old name, and the new one.
MOVED = {
    "channels": "network.image_channels",
    "classification": "finetune.classification",
    "convolution": "network.std_conv",
    "datasets.annotations": "datasets.coco.annotations",
    "datasets.build": "datasets.digits.build",
    "datasets.glyphs": "datasets.digits.glyphs",
    "datasets.headers": "datasets.coco.headers",
    "datasets.masks": "datasets.coco.masks",
    "datasets.preview": "datasets.digits.preview",
    "datasets.problems": "datasets.coco.problems",
    "datasets.records": "datasets.digits.records",
    "datasets.rules": "datasets.coco.rules",
    "datasets.scenes": "datasets.digits.scenes",
    "datasets.sources": "datasets.digits.sources",
    "datasets.workspace": "datasets.digits.workspace",
    "detection.drawing": "visualization.objects",
    "detection.evaluation": "detection.coco_metrics",
    "finetune.evaluation": "finetune.accuracy",
    "labels": "finetune.labels",
    "layers": "network.layers",
    "live_bytes": "profiling.live_bytes",
    "memory": "training.memory",
    "out_of_memory": "utils.out_of_memory",
    "padding": "network.padding",
    "pages": "inference.allocator",
    "pointwise": "kernels.conv",
    "pooling": "network.stem_pool",
    "progress": "utils.progress",
    "recompute": "kernels.recompute",
    "stage_spec": "config.stages",
    "variants": "config.variants",
}


class _Finder(MetaPathFinder, Loader):
    """Finds the modules of ``MOVED``; Python calls it after all other finders."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if package != "bit_backbone" or old not in MOVED:
            return None
        return ModuleSpec(name, self, is_package=False)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = f"bit_backbone.{MOVED[old.partition('.')[2]]}"
        warnings.warn(f"{old} is {new} now", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)  # import then uses it, not module


def keep_old_names() -> None:
    """Makes ``import`` find modules under their old names."""
    if not any(type(finder).__name__ == _Finder.__name__ for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
