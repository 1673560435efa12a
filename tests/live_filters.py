"""The filters that are in memory, in whatever tensors: parameters, copies, oneDNN's layouts."""

import gc

import torch
from torch import Tensor, nn


def filter_bytes(model: nn.Module) -> int:
    """Bytes of a model's convolution filters."""
    return sum(m.weight.nbytes for m in model.modules() if isinstance(m, nn.Conv2d))


class LiveFilters:
    """Counts the filters of networks like a model that have come into memory since.

    What is alive already, such as the model's own and those that other tests left in caches, does
    not count. It is held, so that nothing new can take its place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shapes = {m.weight.shape for m in model.modules() if isinstance(m, nn.Conv2d)}
        self.earlier = self._find()

    def bytes(self) -> int:
        """Bytes of the new ones, each memory once."""
        new = self._find()
        return sum(
            tensor.numel() * tensor.element_size()
            for place, tensor in new.items()
            if place not in self.earlier
        )

    def _find(self) -> dict[int, Tensor]:
        gc.collect()
        found = {}
        for tensor in gc.get_objects():
            if type(tensor) not in (Tensor, nn.Parameter):
                continue  # fake tensors of compilers, among others
            if tensor.device.type == "cpu" and tensor.shape in self.shapes:
                place = id(tensor) if tensor.layout is torch._mkldnn else tensor.data_ptr()
                found[place] = tensor
        return found
