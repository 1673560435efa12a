"""The questions that every fast path asks first, each asked here and nowhere else.

A fast path is for eager PyTorch: operators that run one after the other on plain tensors. Compilers
and exporters have to see the operators of the paper, and do better with them themselves.
``torch.jit.is_scripting`` is missing here because TorchScript understands that call only where it
stands in an ``if`` of the function that it compiles.
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
    """Whether torch.compile or torch.export reads the code instead of running it."""
    return torch.compiler.is_compiling()


def is_exported() -> bool:
    """Whether what reads the code will run without this package."""
    return torch.compiler.is_exporting()


def is_traced() -> bool:
    """Whether torch.jit.trace or make_fx notes down the operators that run."""
    return torch.jit.is_tracing() or _is_mode_on(_Mode.PROXY)


def is_transformed() -> bool:
    """Whether one of torch.func's transforms (grad, vmap, ..) runs the operators."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_eager(*tensors: Tensor) -> bool:
    """Whether eager PyTorch runs, with autograd as the only other reader of these tensors.

    Not inside torch.compile or torch.export, not under torch.jit.trace, make_fx or torch.fx (which
    passes proxies), not inside torch.func's transforms, not for tensors of forward-mode
    differentiation, or of a subclass (DTensor, quantized weights).
    """
    if is_compiled() or is_traced() or is_transformed():
        return False
    return all(
        type(tensor) in _PLAIN and forward_ad.unpack_dual(tensor).tangent is None
        for tensor in tensors
    )


def has_values(*tensors: Tensor) -> bool:
    """Whether tensors that eager PyTorch runs on hold numbers, and no operator makes fake ones."""
    return not _is_mode_on(_Mode.FAKE) and not any(type(t) is FakeTensor for t in tensors)


def _is_mode_on(mode: Any) -> bool:
    return torch._C._get_dispatch_mode(mode) is not None


def is_recorded(*tensors: Tensor) -> bool:
    """Whether autograd records an operation on these tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def is_watched() -> bool:
    """Whether a mode of PyTorch's sees every operator or function, and may keep what it returns."""
    return bool(torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def has_hooks(*modules: Any) -> bool:
    """Whether hooks, PyTorch's global ones included, see one of the modules called.

    They may keep what it returns, or replace it. A backward hook makes it a view that rejects
    writes in place. A forward that was set on a module, as some libraries do, is a hook too.
    """
    return bool(_has_any_global_hook()) or any(
        "forward" in module.__dict__
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )
