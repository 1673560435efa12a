"""detectron2's .pkl files, and other plain pickles."""

from __future__ import annotations

from pathlib import Path

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.trees import TreeFile
from bit_backbone.checkpoints.files.unpickling import unpickle
from bit_backbone.checkpoints.files.values import PickleError
from bit_backbone.utils.files import BoundedReader


def open_pickle_file(path: Path) -> TreeFile:
    """Reads detectron2's model-zoo format: a pickled dict of arrays, usually under "model".

    Raises:
        CheckpointError: Truncated or damaged.
    """
    try:
        with BoundedReader(path) as file:
            content = unpickle(file)
    except PickleError as error:
        raise CheckpointError(
            f"{path} is truncated or not a pickle ({error}); delete it and fetch it again"
        ) from error
    return TreeFile(content, str(path), "pickle")
