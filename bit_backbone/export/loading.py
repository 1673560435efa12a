"""Exported files as models, for commands and scripts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bit_backbone.checkpoints import CheckpointError
from bit_backbone.config import BitConfig
from bit_backbone.export.metadata import Metadata
from bit_backbone.export.runtimes import Run, format_of, open_file
from bit_backbone.outputs import ImageClassifierOutput
from bit_backbone.preprocessing import BitImageProcessor

LEVELS = 255.0


def load(path: str | os.PathLike[str]) -> ExportedModel:
    """Opens a file that ``export`` wrote, in its own runtime and on the CPU.

    Files of torch's formats (*.pt2, *.pt, *.ts) can run any code when they are loaded. Open only
    files that you trust.

    Raises:
        CheckpointError: The file is missing or damaged, or was not written by ``export``.
        MissingExtraError: Its runtime is not installed.
    """
    path = Path(path)
    run, metadata = open_file(path)
    return ExportedModel(path, run, metadata)


class ExportedModel(nn.Module):
    """An exported file with the inputs and outputs of the model.

    A detector or segmenter takes a list of images [3, H, W] in 0..1 and returns a dict for each. A
    classifier or backbone takes ``pixel_values`` [N, 3, H, W] and returns logits or a dict of maps.
    A file with preprocessing takes images as they are read, uint8 [H, W, 3].

    Attributes:
        path: The file.
        format: Of the file.
        metadata: The description in the file.
    """

    def __init__(self, path: Path, run: Run, metadata: Metadata) -> None:
        super().__init__()
        self.path, self.format, self.metadata = path, format_of(path), metadata
        self._run = run
        # Callers bring images to a model's device and type.
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)
        self.eval()

    def _apply(self, fn: Any, recurse: bool = True) -> ExportedModel:
        """Moves and casts nothing: an exported file computes where and in what it was made for."""
        return self

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Returns the outputs of the file by name, given its inputs."""
        return dict(zip(self.metadata.outputs, self._run(images.contiguous()), strict=True))

    def forward(self, images: Any, **options: Any) -> Any:
        """Does what the model did.

        Args:
            images: As the docstring of the class says.
            **options: Options of a classifier's forward; they have no effect here.

        Raises:
            ValueError: The file takes only images of another size.
        """
        if self.metadata.with_preprocessing:
            found = [self.run(image) for image in ([images] if _is_one(images) else images)]
            return found[0] if _is_one(images) else found
        if self.metadata.task == "detection":
            return [self._of_one(image) for image in images]
        if self.metadata.task == "segmentation":
            return [self._map_of_one(image) for image in images]
        maps = self._of_batch(self._fitting(images))
        if self.metadata.task == "classification":
            return ImageClassifierOutput(None, maps["logits"], None)
        return maps

    def _of_batch(self, images: Tensor) -> dict[str, Tensor]:
        """Returns what the file gives for a batch, one image at a time where it takes but one."""
        if self.metadata.takes_batches:
            return self.run(images)
        found = [self.run(image[None]) for image in images]
        return {name: torch.cat([of[name] for of in found]) for name in self.metadata.outputs}

    def _of_one(self, image: Tensor) -> dict[str, Tensor]:
        return self.run(self._fitting(image))

    def _map_of_one(self, image: Tensor) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.run(self._fitting(image)[None]).items()}

    def _fitting(self, images: Tensor) -> Tensor:
        size = self.metadata.image_size
        if size is not None and tuple(images.shape[-2:]) != size:
            raise ValueError(
                f"{self.path} takes only images of {size[0]}x{size[1]}, got "
                f"{images.shape[-2]}x{images.shape[-1]}; export without an image size for any"
            )
        return images

    @property
    def num_labels(self) -> int:
        """Number of classes of a classifier."""
        return len(self.metadata.categories)

    @property
    def config(self) -> BitConfig:
        """The names and the number of a classifier's classes, like those of a configuration."""
        names = dict(enumerate(self.metadata.categories))
        return BitConfig(num_labels=len(names), id2label=names)

    @property
    def processor(self) -> BitImageProcessor:
        """The preprocessing that the file leaves to its caller."""
        if self.metadata.preprocessing is None:
            return BitImageProcessor(do_resize=False, do_center_crop=False)
        return BitImageProcessor.from_dict(self.metadata.preprocessing)

    def require(self, tasks: str | Sequence[str], command: str) -> ExportedModel:
        """Returns the model itself, if it is for one of these tasks.

        Raises:
            CheckpointError: It is for another.
        """
        tasks = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        if self.metadata.task not in tasks:
            raise CheckpointError(
                f"{command} takes a model for {' or '.join(tasks)}, and {self.path} is one for "
                f"{self.metadata.task}"
            )
        return self


def _is_one(images: Tensor | Sequence[Tensor]) -> bool:
    return isinstance(images, Tensor)
