"""The evaluators of detectron2 by the kind of a data set, and the packages that they need.

Evaluation comes last, after days of training: ``require_evaluators`` looks at it first.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)

from bit_backbone.utils.extras import MissingExtraError

__all__ = ["EVALUATORS", "alias_cityscapes_scripts", "build_evaluator", "require_evaluators"]

Builder = Callable[[CfgNode, str, str], DatasetEvaluator]


class Kind(NamedTuple):
    """What evaluates one kind of data set.

    Attributes:
        builders: Take the configuration, the data set's name and the folder for results.
        package: What the evaluators import, "" for nothing beyond detectron2's own needs.
        source: What pip installs it from.
    """

    builders: tuple[Builder, ...]
    package: str = ""
    source: str = ""


# What NumPy 1.24 and 2.4 dropped, and the evaluators' packages still use.
_FORMER_NUMPY: dict[str, Any] = {
    "float": float,  # lvis 0.5.3
    # cityscapesscripts 2.3.0
    "in1d": lambda values, among, **options: np.isin(np.ravel(values), among, **options),
}


@contextmanager
def _former_numpy() -> Iterator[None]:
    """Gives NumPy the names that it had, and takes them back."""
    added = {name: it for name, it in _FORMER_NUMPY.items() if name not in vars(np)}
    vars(np).update(added)
    try:
        yield
    finally:
        for name in added:
            del vars(np)[name]


class _OnAnyNumPy(DatasetEvaluator):
    """Lets an evaluator's package find what newer NumPy lacks."""

    def evaluate(self) -> Any:
        """Returns what the evaluator returns."""
        with _former_numpy():
            return super().evaluate()


class _LVISEvaluator(_OnAnyNumPy, LVISEvaluator):
    pass


class _CityscapesInstanceEvaluator(_OnAnyNumPy, CityscapesInstanceEvaluator):
    """Writes the matches, whose counts are NumPy's, which cityscapesscripts 2.3.0 cannot."""

    def evaluate(self) -> Any:
        """Returns AP and AP50 of masks."""
        helpers = importlib.import_module("cityscapesscripts.helpers.csHelpers")
        vars(helpers)["writeDict2JSON"] = _write_json
        return super().evaluate()


def _write_json(value: Any, file: str) -> None:
    text = json.dumps(value, default=lambda o: o.item() if isinstance(o, np.generic) else vars(o))
    Path(file).write_text(text)


class _CityscapesSemSegEvaluator(_OnAnyNumPy, CityscapesSemSegEvaluator):
    pass


def _coco(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluator:
    """Boxes, masks and keypoints, whichever the model predicts."""
    return COCOEvaluator(
        name, output_dir=folder, kpt_oks_sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS)
    )


def _with_folder(evaluator: Callable[..., DatasetEvaluator]) -> Builder:
    return lambda cfg, name, folder: evaluator(name, output_dir=folder)


def _without_folder(evaluator: Callable[[str], DatasetEvaluator]) -> Builder:
    return lambda cfg, name, folder: evaluator(name)


_semantic = _with_folder(SemSegEvaluator)
_panoptic = _with_folder(COCOPanopticEvaluator)
_voc = _without_folder(PascalVOCDetectionEvaluator)
_city_instances = _without_folder(_CityscapesInstanceEvaluator)
_city_semantic = _without_folder(_CityscapesSemSegEvaluator)
_PANOPTIC = ("panopticapi", "git+https://github.com/cocodataset/panopticapi.git")
_CITYSCAPES = ("cityscapesscripts", "cityscapesscripts")

# By what a data set's metadata calls its evaluator.
EVALUATORS = {
    "coco": Kind((_coco,)),
    "sem_seg": Kind((_semantic,)),
    "coco_panoptic_seg": Kind((_semantic, _coco, _panoptic), *_PANOPTIC),
    "lvis": Kind((_with_folder(_LVISEvaluator),), "lvis", "lvis"),
    "pascal_voc": Kind((_voc,)),
    "cityscapes_instance": Kind((_city_instances,), *_CITYSCAPES),
    "cityscapes_sem_seg": Kind((_city_semantic,), *_CITYSCAPES),
}


def build_evaluator(cfg: CfgNode, name: str, folder: str) -> DatasetEvaluators:
    """Builds the evaluators that a data set's metadata asks for.

    Args:
        cfg: Keypoints other than COCO's need ``TEST.KEYPOINT_OKS_SIGMAS``.
        name: The data set's name in detectron2's catalogs.
        folder: Where they write predictions and results.

    Raises:
        ValueError: ``evaluator_type`` in the metadata is none of EVALUATORS.
        MissingExtraError: A package that they import is missing.
    """
    kind = _kind(name)
    return DatasetEvaluators([build(cfg, name, folder) for build in kind.builders])


def require_evaluators(names: Iterable[str]) -> None:
    """Checks that each data set can be evaluated, as far as that can be known before.

    Args:
        names: Names in detectron2's catalogs.

    Raises:
        ValueError: ``evaluator_type`` in some metadata is none of EVALUATORS.
        MissingExtraError: A package that some evaluator imports is missing.
    """
    for name in names:
        _kind(name)


def _kind(name: str) -> Kind:
    asked = MetadataCatalog.get(name).get("evaluator_type")
    if asked not in EVALUATORS:
        raise ValueError(
            f"evaluator_type of {name} must be one of {', '.join(EVALUATORS)}, got "
            f"{asked!r}; set it with MetadataCatalog.get({name!r})"
        )
    kind = EVALUATORS[asked]
    try:
        importlib.import_module(kind.package or "detectron2")
    except ImportError as error:
        raise MissingExtraError(
            f"evaluating {name} ({asked}) needs {kind.package}, which cannot be imported "
            f"({error}); install it with: pip install {kind.source}"
        ) from error
    return kind


def alias_cityscapes_scripts() -> None:
    """Lets detectron2 find cityscapesscripts where its newer versions look for it.

    detectron2 of June 2026 imports them from ``deeplearning.projects.cityscapesApi``, which exists
    only inside Meta: both evaluators and the loader of instances fail beside the public package.
    Does nothing where that package is missing, or where the other one exists.
    """
    scripts = importlib.util.find_spec("cityscapesscripts")
    if scripts is None or importlib.util.find_spec("deeplearning") is not None:
        return
    outer = None
    for part in ("deeplearning", "projects", "cityscapesApi", "cityscapesscripts"):
        module = ModuleType(part if outer is None else f"{outer.__name__}.{part}")
        module.__path__ = []
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, loader=None)
        sys.modules[module.__name__] = module
        if outer is not None:
            setattr(outer, part, module)
        outer = module
    module.__path__ = list(scripts.submodule_search_locations or ())


alias_cityscapes_scripts()
