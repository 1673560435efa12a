"""A checkpoint seen through our own names and layouts, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from bit_backbone.checkpoints.architecture import Architecture
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files import FLOAT_DTYPES, TensorFile, TensorSpec
from bit_backbone.checkpoints.files.base import Closing
from bit_backbone.checkpoints.formats import Format
from bit_backbone.checkpoints.parts import choose, find_parts
from bit_backbone.checkpoints.recognition import read_names


class Checkpoint(Closing):
    """The BiT network inside an open file; a context manager that closes the file.

    Attributes:
        origin: Where it came from, for messages.
        format: Whose names and layouts the file uses.
        prefix: What stands before every name in the file.
        part: Which of the file's networks it is: the keys and the prefix that lead to it.
        other_parts: The names of the others.
        specs: Shape and type of each tensor, under our names and in our layout.
        unknown: Names beside those tensors that are no part of a BiT network.
        outside: Names of other parts of a larger model.
        architecture: The network, read off the shapes.

    Args:
        file: The file, which belongs to the checkpoint from now on.
        part: The network to take; None for the model's own, by the order in ``parts``.

    Raises:
        CheckpointError: No BiT network in it, no such part, or weights that are no floating-point
            numbers.
    """

    def __init__(self, file: TensorFile, part: str | None = None) -> None:
        self._file = file
        self.origin = file.origin
        try:
            self._read_headers(file, part)
        except BaseException:
            file.close()
            raise

    def _read_headers(self, file: TensorFile, wanted: str | None) -> None:
        parts = find_parts(file)
        part = choose(parts, wanted, file.origin)
        file.select(part.group)
        self.part = part.name
        self.other_parts = tuple(other.name for other in parts if other is not part)
        self.format: Format = part.network.format
        self.prefix = part.network.prefix
        beside = [p.network for p in parts if p is not part and p.group == part.group]
        recognised = read_names(file.specs, part.network, file.origin, beside)
        self.unknown, self.outside = recognised.unknown, recognised.outside
        self._names = recognised.names
        self.specs: Mapping[str, TensorSpec] = {
            ours: self._our_spec(ours, file.specs[theirs]) for ours, theirs in self._names.items()
        }
        self.architecture = Architecture.of_shapes(
            {name: spec.shape for name, spec in self.specs.items()}
        )

    def read(self, name: str) -> torch.Tensor:
        """Returns the tensor of our ``name``, contiguous, in memory that belongs to the caller."""
        return self.format.read_tensor(name, self._file.read(self._names[name]))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _our_spec(self, ours: str, spec: TensorSpec) -> TensorSpec:
        if spec.dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{self.origin}: weights must be {', '.join(FLOAT_DTYPES)}, got {spec.dtype} in "
                f"{self._names[ours]!r}"
            )
        return TensorSpec(self.format.read_shape(ours, spec.shape), spec.dtype)
