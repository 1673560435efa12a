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


def collate(
    tensors: list[torch.Tensor], return_tensors: str | None, device: torch.device | None
) -> Any:
    """Returns a batch: a tensor for "pt", an array for "np", a list for None.

    The list holds tensors on ``device``, or, where that is None, arrays.

    Raises:
        ValueError: The images have several shapes, and a tensor or array was asked for; or an array
            on a device that has none.
    """
    if return_tensors == "np" and device is not None and device.type != "cpu":
        raise ValueError(
            "return_tensors='np' makes arrays in the memory of the CPU, got device "
            f"'{device}': pass return_tensors='pt', or no device"
        )
    if return_tensors is None:
        return [tensor.numpy() if device is None else tensor.to(device) for tensor in tensors]
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise ValueError(
            "a batch of return_tensors='pt' or 'np' needs images of one shape, got "
            f"{sorted(shapes)}: crop, resize to a height and width, pass do_pad=True, or "
            "return_tensors=None"
        )
    batch = torch.stack(tensors)
    return batch.to(device) if return_tensors == "pt" else batch.numpy()
