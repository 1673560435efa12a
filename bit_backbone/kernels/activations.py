"""The activations of BiT's norms, by name: values and derivatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bit_backbone.kernels.gate import has_hooks

ACTIVATIONS = ("relu", "gelu", "gelu_new", "selu", "none")
SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and scale: arXiv 1706.02515, section 2


def check_activation(act: str | None) -> str:
    """Returns the operator's name of an activation: "none" for None.

    Raises:
        ValueError: The activation is unknown.
    """
    name = "none" if act is None else act
    if name not in ACTIVATIONS:
        raise ValueError(f"act must be None or one of {', '.join(ACTIVATIONS)}, got {act!r}")
    return name


def activation_name(module: nn.Module) -> str | None:
    """Returns the name of a module's activation, or None if the module itself must be called.

    It must be called if it is of another kind, or if it has hooks.
    """
    if has_hooks(module):
        return None
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_new"
    return {nn.ReLU: "relu", nn.SELU: "selu", nn.Identity: "none"}.get(type(module))


def activate(z: Tensor, act: str) -> Tensor:
    """Activates ``z``, in place if the activation supports it."""
    if act == "gelu":
        return F.gelu(z)
    if act == "gelu_new":
        return F.gelu(z, approximate="tanh")
    if act == "relu":
        return F.relu_(z)
    return F.selu_(z) if act == "selu" else z


def gradient_before(gradient: Tensor, z: Tensor, act: str) -> Tensor:
    """Returns the gradient of ``z``, given that of ``activate(z, act)``."""
    if act == "none":
        return gradient
    if act == "relu":
        return torch.ops.aten.threshold_backward(gradient, z, 0)
    if act == "selu":
        return torch.ops.aten.elu_backward(gradient, *SELU, 1.0, False, z)
    approximate = "tanh" if act == "gelu_new" else "none"
    return torch.ops.aten.gelu_backward(gradient, z, approximate=approximate)
