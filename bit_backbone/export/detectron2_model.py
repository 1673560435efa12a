"""detectron2's detectors, as torchvision's are: a list of images in, a dict for each out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor, nn

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.export.pixels import LEVELS, resize_columns_first
from bit_backbone.export.sizes import Size, largest, least

MASK_THRESHOLD = 0.5  # from which on a pixel belongs to a mask
ARCHITECTURES = ("GeneralizedRCNN", "RetinaNet", "FCOS")


class Detectron2Detector(nn.Module):
    """A detectron2 detector with what its configuration says of images.

    It takes and gives what torchvision's detectors do: a list of images [3, H, W], RGB in 0..1, and
    for each a dict of boxes, labels from 1 on, scores and, of a Mask R-CNN, masks.

    Args:
        model: detectron2's, with a BiT backbone.
        min_size: Pixels to which the shorter side is resized (INPUT.MIN_SIZE_TEST); 0 for none.
        max_size: Limit of the longer side (INPUT.MAX_SIZE_TEST).
        channels: "RGB" or "BGR" (INPUT.FORMAT).

    Raises:
        ValueError: The model is of a kind that gives no boxes, or keypoints, or the channels are
            others.
    """

    def __init__(
        self, model: nn.Module, min_size: int = 800, max_size: int = 1333, channels: str = "RGB"
    ) -> None:
        super().__init__()
        if type(model).__name__ not in ARCHITECTURES or getattr(
            getattr(model, "roi_heads", None), "keypoint_on", False
        ):
            raise ValueError(
                f"of detectron2's models {', '.join(ARCHITECTURES)} without keypoints can be "
                f"exported, got a {type(model).__name__}"
            )
        if channels not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is RGB or BGR for an export, got {channels!r}")
        self.model: Any = model
        self.min_size, self.max_size, self.flips = min_size, max_size, channels == "BGR"

    @property
    def parts(self) -> tuple[str, ...]:
        """What is found beyond boxes, labels and scores."""
        has_masks = getattr(getattr(self.model, "roi_heads", None), "mask_on", False)
        return ("masks",) if has_masks else ()

    def set_threshold(self, threshold: float) -> None:
        """Changes the score from which on a detection counts."""
        heads = getattr(self.model, "roi_heads", None)
        if heads is None:
            self.model.test_score_thresh = threshold
            return
        predictors = heads.box_predictor  # of a cascade: one for each stage
        for each in predictors if isinstance(predictors, nn.ModuleList) else (predictors,):
            each.test_score_thresh = threshold

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Does what ``DefaultPredictor`` does to each image, in detectron2's own code."""
        return [self._of_one(image) for image in images]

    def _of_one(self, image: Tensor) -> dict[str, Tensor]:
        height, width = image.shape[1:]
        picture = Image.fromarray((image * LEVELS).round().byte().permute(1, 2, 0).numpy())
        picture = resize_columns_first(picture, *self.target(height, width), Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        given = {
            "image": pixels.flip(0) if self.flips else pixels,
            "height": height,
            "width": width,
        }
        found = self.model([given])[0]["instances"]
        values = {
            "boxes": found.pred_boxes.tensor,
            "labels": found.pred_classes + 1,
            "scores": found.scores,
        }
        return values | ({"masks": found.pred_masks[:, None].float()} if self.parts else {})

    def target(self, height: Size, width: Size) -> tuple[Size, Size]:
        """Returns the size that detectron2's ``ResizeShortestEdge`` gives an image.

        It computes in double precision and this in whole numbers, so that a side whose exact value
        ends in one half may differ by a pixel.
        """
        if self.min_size == 0:
            return height, width
        short, long = least(height, width), largest(height, width)
        sides = []
        for side in (height, width):
            by_short = (2 * side * self.min_size + short) // (2 * short)
            by_long = (2 * side * self.max_size + long) // (2 * long)
            sides.append(least(by_short, by_long))
        return sides[0], sides[1]


def load_from_config(
    path: str | Path, weights: str | None = None
) -> tuple[Detectron2Detector, tuple[str, ...]]:
    """Builds a detector from a detectron2 configuration, and loads its weights.

    Args:
        path: A YAML file.
        weights: Instead of its MODEL.WEIGHTS: a file, or a URL.

    Returns:
        The detector, and the names of its classes where the first test data set has them.

    Raises:
        ValueError: There are no weights, or not for every layer, or the model cannot be exported.
        ImportError: detectron2 is not installed.
    """
    from bit_backbone.detectron2 import add_bit_config  # its error says how to install detectron2

    # isort: split
    from detectron2.config import get_cfg
    from detectron2.data import MetadataCatalog
    from detectron2.modeling import build_model
    from detectron2.projects.deeplab import add_deeplab_config

    cfg = get_cfg()
    add_bit_config(cfg)
    add_deeplab_config(cfg)  # for tools/train_net.py writes its settings into every config.yaml
    try:
        cfg.merge_from_file(str(path))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has settings that only its project knows: {error}") from error
    cfg.MODEL.DEVICE = "cpu"
    source = weights or cfg.MODEL.WEIGHTS
    if not source:
        raise ValueError(
            f"an export takes trained weights, and {path} has no MODEL.WEIGHTS; name a checkpoint"
        )
    images = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, cfg.INPUT.FORMAT
    detector = Detectron2Detector(build_model(cfg).eval(), *images)
    _load(detector.model, source)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else None
    names = metadata.get("thing_classes", ()) if metadata is not None else ()
    return detector, tuple(names)


def _load(model: nn.Module, source: str) -> None:
    """Loads a checkpoint that has every parameter; detectron2 only warns of those that lack."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.utils.file_io import PathManager

    if not Path(PathManager.get_local_path(source)).is_file():
        raise CheckpointError(f"there is no checkpoint {source}")
    for parameter in model.parameters():
        nn.init.constant_(parameter, math.nan)
    DetectionCheckpointer(model).load(source)
    missing = [name for name, value in model.named_parameters() if bool(value.isnan().any())]
    if missing:
        raise CheckpointError(
            f"{source} has no weights for {missing[0]} and {len(missing) - 1} other parameters of "
            "the model: export takes the checkpoint of a finished training"
        )
