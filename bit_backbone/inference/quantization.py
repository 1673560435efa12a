"""Turns a network's units into 8 bits: checks them, and computes their scales."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.inference.fast_dtype import fast_dtype, has_int8
from bit_backbone.inference.int8 import LEVELS, SMALLEST_STEP, Int8Conv2d, Int8PreActUnit
from bit_backbone.inference.norm import InferenceGroupNormAct
from bit_backbone.inference.units import InPlacePreActUnit
from bit_backbone.kernels.gate import has_values, is_eager
from bit_backbone.network import BitNetwork, BottleneckUnit, GroupNormAct, PreActUnit
from bit_backbone.network.std_conv import StdConv2d
from bit_backbone.utils.ways_out import either, in_python, passing

# Activations are clipped at this many standard deviations from the mean. Clipping more of them
# costs more than coarser levels do: docs/int8.md has the measurements.
DEVIATIONS = 12.0


def dtype_of_int8(model: nn.Module) -> torch.dtype:
    """Returns torch.int8, or the type to use instead if this processor has no fast 8-bit integers.

    Raises:
        ValueError: The model cannot be computed in 8 bits.
    """
    if any(p.device.type != "cpu" for p in model.parameters()):
        way = in_python("move the model there") or passing("device", "cpu")
        raise ValueError(f"torch.int8 is for CPUs: {either(way, 'take bfloat16')}")
    check_int8(model)
    if has_int8():
        return torch.int8
    lacks = "this processor has no dot product of 8-bit integers (AVX512-VNNI, AVX-VNNI or AMX)"
    if is_int8(model):
        warnings.warn(
            f"{lacks}: the model's convolutions in torch.int8 are computed in torch.float32, which "
            "is slower than the model that it was made from",
            stacklevel=4,
        )
        return torch.int8
    dtype = fast_dtype("cpu")
    warnings.warn(f"{lacks}: the model computes in {dtype} instead", stacklevel=4)
    return dtype


def is_int8(model: nn.Module) -> bool:
    """Whether a model is in 8 bits."""
    return any(isinstance(module, Int8Conv2d) for module in model.modules())


def check_int8(model: nn.Module) -> None:
    """Raises ValueError if a model cannot be computed in 8 bits."""
    for module in model.modules():
        _check(module)
    units = quantizable_units(model)
    if not units and not is_int8(model):
        raise ValueError(
            "torch.int8 needs residual units of this package without changes, got a "
            f"{type(model).__name__} that has none. Take torch.bfloat16 or torch.float16"
        )
    for unit in units:
        _check_parameters(unit)


def _check_parameters(unit: nn.Module) -> None:
    for name, parameter in unit.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise ValueError(
                f"torch.int8 takes finite weights, and the {name} of a unit has NaN or infinity: "
                "load other weights"
            )


def _check(module: nn.Module) -> None:
    if isinstance(module, BottleneckUnit):
        raise ValueError(
            "torch.int8 takes pre-activation networks, whose convolutions read what GroupNorm has "
            "normalised; those of a bottleneck network read sums of unknown range. Take "
            "torch.bfloat16"
        )
    if isinstance(module, BitNetwork) and module.config.hidden_act != "relu":
        raise ValueError(
            "torch.int8 takes networks with the activation relu, whose values are not negative; "
            f"this one has {module.config.hidden_act}. Take torch.bfloat16 or torch.float16"
        )


def quantize(model: nn.Module, calibration: Iterable[Any] | None) -> None:
    """Turns all units of a model in eval mode into 8 bits, in place.

    Args:
        model: A model that ``dtype_of_int8`` accepts.
        calibration: Inputs of the model, on which the largest activations are measured; None
            computes them from the norms' parameters.
    """
    units = quantizable_units(model)
    bounds = {norm: bound_of(norm) for unit in units for norm in norms_of(unit)}
    if calibration is not None:
        bounds = _measured(model, bounds, calibration)
    for unit in units:
        steps = [(bounds[norm] / LEVELS).clamp(min=SMALLEST_STEP) for norm in norms_of(unit)]
        for conv, step in zip((unit.conv1, unit.conv2, unit.conv3), steps, strict=True):
            Int8Conv2d.quantize(conv, step)
        if unit.downsample is not None:
            Int8Conv2d.quantize(unit.downsample.conv, steps[0].clone())
        _change_class(unit)
    _check_inputs(model)


def make_empty(model: nn.Module) -> None:
    """Turns a network on the meta device into an 8-bit one that a state dict can be loaded into."""
    for unit in quantizable_units(model):
        for conv in convolutions_of(unit):
            steps = (torch.empty(count, device="meta") for count in conv.weight.shape[:2])
            levels = torch.empty_like(conv.weight, dtype=torch.int8)
            conv.weight = nn.Parameter(levels, requires_grad=False)
            Int8Conv2d.empty(conv, torch.float32, *steps)
        _change_class(unit)
    _check_inputs(model)


def _change_class(unit: Any) -> None:
    unit.__class__ = Int8PreActUnit
    unit.adds_in_place = unit.downsample is not None


def _check_inputs(model: nn.Module) -> None:
    for network in model.modules():
        hooks = network._forward_pre_hooks.values()
        if isinstance(network, BitNetwork) and _check_finite not in hooks:
            network.register_forward_pre_hook(_check_finite, with_kwargs=True)


def quantizable_units(model: nn.Module) -> list[Any]:
    """Returns the units that are as this package makes them, not changed by a user.

    A layer used in two places reads values of two scales, so its units are left out.
    """
    places = Counter(child for module in model.modules() for child in module.children())
    return [
        unit
        for unit in model.modules()
        if _is_ours(unit) and all(places[layer] < 2 for layer in list(unit.modules())[1:])
    ]


def bound_of(norm: GroupNormAct) -> Tensor:
    """Returns the values at which the result of a norm and its ReLU is clipped, float32 [C]."""
    shift, scale = norm.bias.detach().float(), norm.weight.detach().float().abs()
    return shift + DEVIATIONS * scale


def norms_of(unit: Any) -> tuple[GroupNormAct, ...]:
    """Returns the norms before the first three of ``convolutions_of``."""
    return unit.norm1, unit.norm2, unit.norm3


def convolutions_of(unit: Any) -> list[Any]:
    """Returns a unit's convolutions, followed by its projection's, which reads norm1's result."""
    projection = [] if unit.downsample is None else [unit.downsample.conv]
    return [unit.conv1, unit.conv2, unit.conv3, *projection]


def _is_ours(unit: Any) -> bool:
    if type(unit) not in (PreActUnit, InPlacePreActUnit):
        return False
    known = (StdConv2d, FoldedConv2d)
    return all(type(conv) in known for conv in convolutions_of(unit)) and all(
        type(norm) in (GroupNormAct, InferenceGroupNormAct) and type(norm.act) is nn.ReLU
        for norm in norms_of(unit)
    )


def _measured(
    model: nn.Module, bounds: dict[GroupNormAct, Tensor], calibration: Iterable[Any]
) -> dict[GroupNormAct, Tensor]:
    """Returns the largest results of the norms for some inputs, by channel."""
    found: dict[GroupNormAct, Tensor] = {}

    def see(norm: Any, _: Any, values: Tensor) -> None:
        largest = values.detach().float().amax((0, 2, 3))
        found[norm] = largest.maximum(found[norm]) if norm in found else largest

    handles = [norm.register_forward_hook(see) for norm in bounds]
    try:
        with torch.inference_mode():
            for images in calibration:
                model(images)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ValueError("calibration takes at least one input of the model, got none")
    if not all(bool(largest.isfinite().all()) for largest in found.values()):
        raise ValueError(
            "calibration takes finite images, and the activations of one have NaN or infinity: "
            "leave it out"
        )
    return bounds | found  # units that the model does not run keep the computed bounds


def _check_finite(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raises ValueError for NaN and infinity, which other types can hold but 8 bits cannot."""
    if not all(_is_finite(each) for each in tree_leaves((args, kwargs))):
        raise ValueError(
            "images for a network in torch.int8 must be finite, got NaN or infinity; networks in "
            "torch.bfloat16 and torch.float32 compute with them"
        )


def _is_finite(given: Any) -> bool:
    """Whether a tensor is finite, if it has values; the sum is in at least float32."""
    if not isinstance(given, Tensor) or not given.is_floating_point():
        return True
    if given.is_meta or not is_eager(given) or not has_values(given):
        return True
    wide = torch.promote_types(given.dtype, torch.float32)
    return bool(given.sum(dtype=wide).isfinite())
