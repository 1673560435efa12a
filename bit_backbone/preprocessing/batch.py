"""The batch that a processor returns."""

from __future__ import annotations

from typing import Any, Self

import torch


class BatchFeature(dict[str, Any]):
    """What a processor returns: a dict whose entries are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}, only {list(self)}") from None

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moves or casts every tensor in place, as ``torch.Tensor.to`` does, and returns itself."""
        for name, value in self.items():
            if isinstance(value, torch.Tensor):
                self[name] = value.to(*args, **kwargs)
        return self


def collate(tensors: list[torch.Tensor], return_tensors: str | None) -> Any:
    """Returns a batch: a tensor for "pt", an array for "np", a list of arrays for None.

    Raises:
        ValueError: The images have several shapes, and a tensor or array was asked for.
    """
    if return_tensors is None:
        return [tensor.numpy() for tensor in tensors]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            "a batch of return_tensors='pt' or 'np' needs images of one shape, got "
            f"{sorted(shapes)}: crop, resize to a height and width, or pass return_tensors=None"
        )
    batch = torch.stack(tensors)
    return batch if return_tensors == "pt" else batch.numpy()
