"""The filters that are in memory, in whatever tensors: parameters, copies, oneDNN's layouts."""

import gc

import torch
from torch import nn


def filter_bytes(model: nn.Module) -> int:
    """Bytes of a model's convolution filters."""
    return sum(m.weight.nbytes for m in model.modules() if isinstance(m, nn.Conv2d))


def live_filter_bytes(shapes: set[torch.Size]) -> int:
    """Bytes of all live tensors that have the shape of a filter, each memory once."""
    gc.collect()
    found = {}
    for tensor in gc.get_objects():
        if type(tensor) not in (torch.Tensor, nn.Parameter):
            continue  # fake tensors of compilers, among others
        if tensor.device.type == "cpu" and tensor.shape in shapes:
            place = id(tensor) if tensor.layout is torch._mkldnn else tensor.data_ptr()
            found[place] = tensor.numel() * tensor.element_size()
    return sum(found.values())


def filter_shapes(model: nn.Module) -> set[torch.Size]:
    """Shapes of a model's convolution filters."""
    return {m.weight.shape for m in model.modules() if isinstance(m, nn.Conv2d)}
