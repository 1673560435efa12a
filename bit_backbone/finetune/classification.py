"""Classifying image files in batches; an unreadable or too large one does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bit_backbone.heads import BitForImageClassification
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.preprocessing.settings import PLAIN
from bit_backbone.utils.out_of_memory import TooLargeError, each_that_fits, fitting
from bit_backbone.utils.ways_out import after, passing
from bit_backbone.utils.workers import serve_parent


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, best first.

    Attributes:
        path: Path of the image.
        classes: Indices of the classes.
        probabilities: Probability of each, by softmax over all classes.
        error: Why the image was not classified; the other attributes are then empty.
    """

    path: Path
    classes: tuple[int, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


@torch.inference_mode()
def classify(
    model: BitForImageClassification,
    processor: BitImageProcessor,
    paths: Sequence[Path],
    *,
    top_k: int = 5,
    batch_size: int = 8,
    workers: int = 0,
) -> Iterator[Prediction]:
    """Classifies image files.

    Args:
        model: In eval mode, on the device to compute on.
        processor: Prepares the images, all at one size.
        paths: Paths of the images.
        top_k: Number of classes of each prediction, at most as many as there are.
        batch_size: Images of one forward pass.
        workers: Processes that read images; 0 reads in this one.

    Yields:
        A prediction for each path, in order.

    Raises:
        ValueError: The processor gives images of different sizes, and a batch has several images.
    """
    if batch_size > 1 and not _gives_one_size(processor):
        raise ValueError(
            "images of one batch need one size: crop them or resize them to a height and width "
            f"(got size {processor.size} without a crop)" + after(", or ", passing("batch_size", 1))
        )
    loader = DataLoader(
        _Files(paths, processor),
        batch_size,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=serve_parent,
    )
    for items in loader:
        images = [value for _, value in items if isinstance(value, Tensor)]
        rows = iter(each_that_fits(partial(_best, model, top_k), images, _too_large))
        for path, value in items:
            row = next(rows) if isinstance(value, Tensor) else value
            yield Prediction(path, error=row) if isinstance(row, str) else Prediction(path, *row)


def _gives_one_size(processor: BitImageProcessor) -> bool:
    pads = processor.do_pad and processor.pad_size is not None
    return pads or processor.do_center_crop or (processor.do_resize and "height" in processor.size)


Row = tuple[tuple[int, ...], tuple[float, ...]]


def _best(
    model: BitForImageClassification, top_k: int, images: Sequence[Tensor]
) -> list[Row | str]:
    """Classes and probabilities of each image."""
    if not images:
        return []
    with fitting(f"a batch of {len(images)} x {list(images[0].shape)}"):
        pixels = torch.stack(list(images)).to(next(model.parameters()))
        logits = model(pixels, output_hidden_states=False, return_dict=True).logits
        best = logits.float().softmax(-1).topk(min(top_k, model.num_labels))
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [(tuple(classes), tuple(probabilities)) for classes, probabilities in rows]


def _too_large(_: Tensor, error: TooLargeError) -> Row | str:
    return str(error)


class _Files(Dataset[tuple[Path, Tensor | str]]):
    """Image files as pixel values, or what is wrong with them."""

    def __init__(self, paths: Sequence[Path], processor: BitImageProcessor) -> None:
        self.paths, self.processor = paths, processor.replace(**PLAIN)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, Tensor | str]:
        path = self.paths[index]
        try:
            with fitting("the image"):
                return path, self.processor(path)["pixel_values"][0]
        except (OSError, ValueError) as error:
            return path, str(error)
