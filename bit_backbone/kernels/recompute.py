"""Training with half the activations: normalised maps are made twice rather than kept.

Of norm, activation and convolution in a row, autograd keeps the norm's input and the
convolution's, and the second is soon made from the first. Here the norm marks its output with a
``Recipe``; a convolution that is given a marked map keeps the ingredients, which the norm keeps
anyway, and not the map. In backward it makes the map again, to the last bit, and leaves it to the
norm, whose activation needs it next. Convolutions, the costly part, are never repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bit_backbone.kernels import torch_group_norm
from bit_backbone.kernels.activations import gradient_before
from bit_backbone.kernels.group_norm import (
    are_plain,
    dense_format,
    implementation,
    is_faster_in_triton,
)
from bit_backbone.kernels.pointwise import Geometry, convolve, convolve_backward


class RecomputingModule(nn.Module):
    """A module whose norms can make their outputs anew in backward."""

    def set_activation_recompute(self, enable: bool = True) -> None:
        """Makes normalised maps anew in backward instead of storing them for the convolutions.

        Some 0.6 of the memory of activations for some 5% more time, and the same gradients. Goes
        together with ``set_grad_checkpointing``, which saves more and takes more. Second
        derivatives are refused. Nothing changes inside torch.compile, whose partitioner decides
        for itself what to recompute, and under torch.func.

        Args:
            enable: Whether to, from now on.
        """
        for module in self.modules():
            if hasattr(module, "recomputes_activation"):
                module.recomputes_activation = enable  # type: ignore[assignment]


class _Maker:
    """What norm and convolutions share in backward: how to make the norm's output, and it.

    It holds no tensor after forward: autograd holds those, and per-block checkpointing drops them.
    """

    def __init__(self, kernels: ModuleType, eps: float, act: str) -> None:
        self.kernels, self.eps, self.act = kernels, eps, act
        self.made: Tensor | None = None

    def make(self, ingredients: tuple[Tensor, ...]) -> Tensor:
        """Returns the output, made for the first convolution that asks and kept for the others."""
        if self.made is None:
            self.made = self.kernels.again(*ingredients, self.eps, self.act)
        return self.made

    def forget(self) -> None:
        """Forgets the output, which nobody needs any more."""
        self.made = None


class Recipe(NamedTuple):
    """How a norm's output is made; hangs on it as its attribute ``recipe``."""

    maker: _Maker
    ingredients: tuple[Tensor, ...]  # input, mean and 1 / standard deviation, weight, bias
    version: int  # of the output, before anybody writes into it


def can_recompute(x: Tensor, weight: Tensor) -> bool:
    """Whether a norm of ``x`` can mark its output: autograd, and it alone, differentiates it."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and isinstance(x, Tensor)  # torch.fx passes proxies
        and (isinstance(x, FakeTensor) or are_plain(x, weight))
        and (x.requires_grad or weight.requires_grad)
    )


def norm_act(norm: nn.GroupNorm, x: Tensor, act: str) -> Tensor:
    """GroupNorm and activation of [N, C, H, W]; hangs the recipe on the result.

    Args:
        norm: The parameters.
        x: [N, C, H, W].
        act: Name of the activation in ``bit_backbone.kernels.activations``.
    """
    kernels: ModuleType = torch_group_norm
    if is_faster_in_triton(x, norm.weight):
        kernels = implementation(x, norm.weight)
    elif x.is_cuda and torch.is_autocast_enabled("cuda"):
        x = x.float()  # as autocast itself does for group_norm
    x = x.contiguous(memory_format=dense_format(x))
    maker = _Maker(kernels, norm.eps, act)
    y, *statistics = _NormAct.apply(x, norm.weight, norm.bias, norm.num_groups, maker)
    ingredients = tuple(t.detach() for t in (x, *statistics, norm.weight, norm.bias))
    y.recipe = Recipe(maker, ingredients, y._version)
    return y


def recipe_of(x: Tensor, weight: Tensor) -> Recipe | None:
    """Returns how to make a convolution's input, if it has to be there in backward and can be."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, FakeTensor):
        return None
    recipe = getattr(x, "recipe", None)
    if recipe is None or not (weight.requires_grad and torch.is_grad_enabled()):
        return None
    return recipe if recipe.version == x._version else None


def convolve_made(x: Tensor, weight: Tensor, geometry: Geometry, recipe: Recipe) -> Tensor:
    """Convolves a map and keeps its recipe instead.

    Args:
        x: [N, in, H, W], what the recipe makes.
        weight: [out, in, height, width].
        geometry: How to convolve.
        recipe: How to make ``x``.
    """
    return _ConvOfNorm.apply(x, weight, *recipe.ingredients, recipe.maker, geometry)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses create_graph=True; ``once_differentiable`` lets constant gradients pass silently."""

    @wraps(backward)
    def checked(ctx: Any, *gradients: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "recomputed norms have no second derivative, got create_graph=True; call "
                "set_activation_recompute(False) first"
            )
        return backward(ctx, *gradients)

    return checked


class _NormAct(torch.autograd.Function):
    """GroupNorm and activation; keeps the input alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, maker: _Maker
    ) -> tuple[Tensor, Tensor, Tensor]:
        y, mean, rstd = maker.kernels.forward(x, num_groups, weight, bias, maker.eps, maker.act)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.maker = maker
        return y, mean, rstd

    @staticmethod
    @_once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        maker, act = ctx.maker, ctx.maker.act
        ingredients = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=dense_format(ingredients[0]))
        if act == "relu" and maker.kernels is torch_group_norm:
            # The map says where it is 0, to the last bit, also where no convolution asked for it.
            made = maker.make(ingredients)
            # Into the map's own memory: nobody needs the map any more.
            gradient = gradient_before(gradient, made, act, out=made)
            act = "none"
        maker.forget()
        return *maker.kernels.backward(gradient, *ingredients, act), None, None


class _ConvOfNorm(torch.autograd.Function):
    """Convolution that makes its input again in backward."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, *recipe: Any) -> Tensor:
        *ingredients, ctx.maker, ctx.geometry = recipe
        ctx.save_for_backward(weight, *ingredients)
        return convolve(y, weight, ctx.geometry)

    @staticmethod
    @_once
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, *ingredients = ctx.saved_tensors
        y = ctx.maker.make(tuple(ingredients))
        # Autocast has narrowed both for the convolution.
        narrow = y.to(gradient.dtype), weight.to(gradient.dtype)
        needs = ctx.needs_input_grad
        of_y, of_weight = convolve_backward(gradient, *narrow, ctx.geometry, needs[:2])
        assert of_weight is not None  # recipe_of wants weights that train
        if of_y is not None:
            of_y = of_y.to(y.dtype)
        return of_y, of_weight.to(weight.dtype), *[None] * (len(needs) - 2)
