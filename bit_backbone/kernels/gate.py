"""The conditions that all fast paths share; each is checked only here.

A fast path is for eager PyTorch: operators that run one after the other on plain tensors. Compilers
and exporters need the plain operators, which they optimize better themselves.
``torch.jit.is_scripting`` is not included, because TorchScript understands this call only in an
``if`` of the function that it compiles.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

# A fake tensor runs the eager code without memory, to count what that code would take.
_Mode = torch._C._TorchDispatchModeKey
_PLAIN = (Tensor, nn.Parameter, FakeTensor)


def is_compiled() -> bool:
    """Whether torch.compile or torch.export traces the code instead of running it."""
    return torch.compiler.is_compiling()


def is_exported() -> bool:
    """Whether the traced code will run without this package."""
    return torch.compiler.is_exporting()


def is_traced() -> bool:
    """Whether torch.jit.trace or make_fx records the operators that run."""
    return torch.jit.is_tracing() or _is_mode_on(_Mode.PROXY)


def is_transformed() -> bool:
    """Whether one of torch.func's transforms (grad, vmap, ..) runs the operators."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_eager(*tensors: Tensor) -> bool:
    """Whether eager PyTorch runs, with autograd as the only other reader of these tensors.

    It is False inside torch.compile and torch.export, under torch.jit.trace, make_fx and torch.fx
    (which passes proxies), inside torch.func's transforms, and for tensors of forward-mode
    differentiation or of a subclass (DTensor, quantized weights).
    """
    if is_compiled() or is_traced() or is_transformed():
        return False
    return all(
        type(tensor) in _PLAIN and forward_ad.unpack_dual(tensor).tangent is None
        for tensor in tensors
    )


def has_values(*tensors: Tensor) -> bool:
    """Whether the memory of tensors in eager PyTorch holds their values.

    That of fake tensors, and of all tensors where operators make those, does not. Neither does that
    of a view that PyTorch negates only when it is read.
    """
    if _is_mode_on(_Mode.FAKE):
        return False
    return not any(type(tensor) is FakeTensor or tensor.is_neg() for tensor in tensors)


def _is_mode_on(mode: Any) -> bool:
    return torch._C._get_dispatch_mode(mode) is not None


def is_recorded(*tensors: Tensor) -> bool:
    """Whether autograd records an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_watched() -> bool:
    """Whether a PyTorch mode sees every operator or function, and may keep the results."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def has_hooks(*modules: Any) -> bool:
    """Whether one of the modules has hooks, PyTorch's global ones included.

    Hooks may keep or replace a module's result. A backward hook makes the result a view that
    rejects writes in place. A ``forward`` set on the instance, as some libraries do, counts as one.
    """
    return bool(_has_any_global_hook()) or any(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )
