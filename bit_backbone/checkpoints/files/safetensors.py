"""Reading .safetensors files straight into the memory that the tensors keep.

The safetensors library checks the header; the data are read here and not memory-mapped: a mapped
weight would keep changing, or crash the process, when somebody writes to the file it came from,
and "load, train, save under the same name" does exactly that.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files.base import FLOAT_DTYPES, TensorFile, TensorSpec

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
_LENGTH_BYTES = 8


class SafetensorsFile(TensorFile):
    """A .safetensors file.

    Raises:
        CheckpointError: Truncated, or a header that does not describe the data.
    """

    kind = ".safetensors"

    def __init__(self, path: Path) -> None:
        self.origin = str(path)
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            raise CheckpointError(
                f"{path} is truncated or not a .safetensors file ({error}); delete it and fetch it "
                "again"
            ) from error
        self._file = path.open("rb", buffering=0)
        length = int.from_bytes(self._file.read(_LENGTH_BYTES), "little")
        header = json.loads(self._file.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self._starts = {
            name: _LENGTH_BYTES + length + entry["data_offsets"][0]
            for name, entry in header.items()
        }
        self.specs = {
            name: TensorSpec(tuple(entry["shape"]), _DTYPES.get(entry["dtype"], entry["dtype"]))
            for name, entry in header.items()
        }

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def read(self, name: str) -> torch.Tensor:
        """Returns one tensor."""
        spec = self.specs[name]
        tensor = torch.empty(spec.shape, dtype=FLOAT_DTYPES[spec.dtype], device="cpu")
        left = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
        self._file.seek(self._starts[name])
        while left:
            count = self._file.readinto(left)
            if not count:
                raise CheckpointError(
                    f"{self.origin} was cut short while it was being read, at {name!r}"
                )
            left = left[count:]
        return tensor
