"""Outputs of the models with a head: values by attribute, by key and by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageClassifierOutput", "ModelOutput", "PooledOutput"]


class ModelOutput(Mapping[str, Any]):
    """Base of dataclasses with the interface of transformers' outputs.

    A value is an attribute (``out.logits``), a key (``out["logits"]``) and a position among the
    values that are not None (``out[0]``, ``out[:2]``, ``out.to_tuple()``). Iterating gives the keys
    of these values, as for any mapping.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        """Returns the values that are not None, in order."""
        return tuple(self.values())

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return self.to_tuple()[key]
        if key not in list(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        names = (field.name for field in fields(self))  # type: ignore[arg-type]
        return (name for name in names if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(eq=False)
class PooledOutput(ModelOutput):
    """Output of BitModel.

    Attributes:
        last_hidden_state: The last stage after the final norm and activation, [N, C, h, w].
        pooler_output: Its mean over height and width, [N, C, 1, 1].
        hidden_states: The stem and every stage as raw residual sums, shallow to deep, if asked for.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


@dataclass(eq=False)
class ImageClassifierOutput(ModelOutput):
    """Output of BitForImageClassification.

    Attributes:
        loss: A scalar, if labels were given.
        logits: Scores before softmax, [N, num_labels].
        hidden_states: The stem and every stage as raw residual sums, shallow to deep, if asked for.
    """

    loss: Tensor | None
    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


# torch.export and DistributedDataParallel look for tensors only in registered types.
torch.export.register_dataclass(PooledOutput, serialized_type_name="bit_backbone.PooledOutput")
torch.export.register_dataclass(
    ImageClassifierOutput, serialized_type_name="bit_backbone.ImageClassifierOutput"
)
