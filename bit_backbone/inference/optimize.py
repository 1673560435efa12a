"""Models made fast for inference: filters folded, sums in place, memory kept, compiled if asked."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from bit_backbone.inference.allocator import keep_pages as keep_pages_of_process
from bit_backbone.inference.convolution import NO_TRAINING, FoldedConv2d
from bit_backbone.inference.fast_dtype import fast_dtype
from bit_backbone.inference.int8 import Int8Conv2d, Int8PreActUnit
from bit_backbone.inference.norm import InferenceGroupNormAct
from bit_backbone.inference.quantization import dtype_of_int8, is_int8, quantize
from bit_backbone.inference.stages import InferenceStage, runs_as_chains
from bit_backbone.inference.units import InPlacePreActUnit
from bit_backbone.network import (
    BitNetwork,
    BottleneckUnit,
    PreActUnit,
    Projection,
    Stage,
    Stem,
    Unit,
)
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.network.std_conv import StdConv2d

__all__ = ["optimize_for_inference", "optimize_in_place"]

Model = TypeVar("Model", bound=nn.Module)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


def optimize_for_inference(
    model: Model,
    channels_last: bool = True,
    compile: bool = False,
    dtype: torch.dtype | str | None = None,
    keep_pages: bool = True,
    calibration: Iterable[Any] | None = None,
) -> Model:
    """Returns a copy of a model, of the same type, with its BiT parts made fast for inference.

    Takes a BitBackbone, a BitModel, a BitForImageClassification, or any model that contains one or
    parts of one: a detector of torchvision or detectron2, a segmenter. In float32 its outputs are
    as close to the exact ones (float64's) as the original's. For R50x1 with random weights, both
    are within 4e-5 of the largest value in stage4, and within 5e-6 in stage1.

    * Filters are standardized once. The state dict keeps its names and holds the standardized
      filters. Any state dict of the original's architecture can be loaded; loading standardizes it.
    * On x86 CPUs with AVX2 or AVX-512, a stage of the default kind (pre-activation, ReLU, in
      float32, bfloat16 or int8) runs as a chain of convolutions that normalise their input on the
      way. It needs a C++ compiler, no hooks in the stage, and a second copy of the filters. Change
      the copy's parameters by operators or ``load_state_dict``, not through ``.data``, which hides
      the change.
    * Elsewhere, residual sums are made in place, on CPUs within the convolution before them. That
      convolution also lays out its filters once for a repeated image shape. Hooks see every module
      called, but later units overwrite the outputs of units and projections: copy them.
    * The copy is in eval mode and its parameters are frozen; ``train()`` and a forward that would
      need gradients raise ValueError. The original is not changed and can be trained further.

    Args:
        model: The model to optimize; it is not changed.
        channels_last: Whether all convolution weights, including the host's own layers, and so all
            feature maps are laid out channels-last (NHWC), which is faster nearly everywhere.
            Shapes stay [N, C, H, W]; strides differ.
        compile: Whether torch.compile compiles each BiT network at its first forward, with
            inductor. A network that runs as chains is faster, and stays as it is. Under
            ``torch.no_grad()`` or ``torch.inference_mode()`` the weights are frozen into the code,
            so load them before; ``load_state_dict`` raises ValueError afterwards. The
            first image takes half a minute, and so does the first batch of several. The code
            serves all sizes, with two exceptions that compile a few more times: after a square
            first image, and on CPUs for a single image smaller than about 200 pixels.
        dtype: The type in which the BiT networks compute: torch.float32, torch.bfloat16,
            torch.float16, or "auto" (bfloat16 if the model's device has it in hardware, else
            float32). The networks convert their inputs and return float32, so other layers are not
            affected. None changes nothing. torch.int8, on CPUs, computes convolutions in 8-bit
            integers, with scales from the parameters, and the rest as with "auto". A processor
            without a dot product of 8-bit integers uses "auto", with a warning.
        keep_pages: Whether the process keeps its freed memory, if the model is on the CPU and the
            C library supports it: see ``bit_backbone.keep_pages``.
        calibration: Inputs of the model. With torch.int8, the largest activations are measured on
            them instead of being computed.

    Raises:
        ValueError: ``model`` has no BiT layer, ``dtype`` is not one of these, or the model cannot
            be computed in it.
    """
    found = checked_dtype(model, dtype, compile, calibration)
    with torch.inference_mode(False):  # else new parameters would stay inference tensors
        optimized = copy.deepcopy(model)
    return _optimize(optimized, channels_last, compile, found, keep_pages, calibration)


def optimize_in_place(
    model: Model,
    channels_last: bool = True,
    compile: bool = False,
    dtype: torch.dtype | str | None = None,
    keep_pages: bool = True,
    calibration: Iterable[Any] | None = None,
) -> Model:
    """Optimizes a model like ``optimize_for_inference``, but in place, and returns it.

    It is for networks that fill the memory, because it makes no copy of the weights. It does not
    lay out filters for repeated shapes either, which would be another copy; on CPUs this is slower
    for batches of a few small images. The model cannot be trained afterwards, and its original
    state dict is lost.

    Args:
        model: The model to optimize; it is changed.
        channels_last: As in ``optimize_for_inference``.
        compile: As in ``optimize_for_inference``.
        dtype: As in ``optimize_for_inference``.
        keep_pages: As in ``optimize_for_inference``.
        calibration: As in ``optimize_for_inference``.

    Raises:
        ValueError: As in ``optimize_for_inference``.
    """
    found = checked_dtype(model, dtype, compile, calibration)
    optimized = _optimize(model, channels_last, compile, found, keep_pages, calibration)
    for module in optimized.modules():
        if isinstance(module, FoldedConv2d):
            module.lays_out = False
    return optimized


def checked_dtype(
    model: nn.Module, dtype: torch.dtype | str | None, compile: bool, calibration: Any
) -> torch.dtype | None:
    """Returns the type to compute in; raises ValueError before a change if it is impossible."""
    if dtype is not None and dtype not in (*_DTYPES, "auto"):
        known = ", ".join(map(str, _DTYPES))
        raise ValueError(f'dtype must be None, "auto", {known}, got {dtype!r}')
    kinds = (FoldedConv2d, Int8Conv2d)
    if not any(type(m) is StdConv2d or isinstance(m, kinds) for m in model.modules()):
        raise ValueError(
            "optimizing for inference takes a BiT model, or a model that holds one, got a "
            f"{type(model).__name__} without a convolution of BiT's"
        )
    if is_int8(model):
        _check_int8_again(dtype, compile, calibration)
    if calibration is not None and dtype != torch.int8:
        raise ValueError(f"calibration is for dtype torch.int8, got dtype {dtype!r}")
    if dtype == torch.int8:
        if compile:
            raise ValueError("a model in torch.int8 is not compiled: leave compile out")
        return dtype_of_int8(model)
    if not isinstance(dtype, str):
        return dtype
    return fast_dtype(next(model.parameters()).device)


def _check_int8_again(dtype: torch.dtype | str | None, compile: bool, calibration: Any) -> None:
    """Raises ValueError for options that cannot be applied to a model in 8 bits."""
    asked = None if dtype in (None, torch.int8) else f"dtype {dtype!r}"
    asked = "compile=True" if compile else asked
    asked = asked if calibration is None else "calibration"
    if asked is not None:
        raise ValueError(
            f"a model in torch.int8 cannot be optimized again, got {asked}: optimize the model "
            "that it was made from"
        )


def _optimize(
    model: Model,
    channels_last: bool,
    compile: bool,
    dtype: torch.dtype | None,
    keep_pages: bool,
    calibration: Iterable[Any] | None,
) -> Model:
    with torch.inference_mode(False):
        if dtype == torch.int8:
            quantize(model.eval(), calibration)
            dtype = fast_dtype("cpu")
        _replace_layers(model.eval().requires_grad_(False), channels_last)
    networks = [module for module in model.modules() if isinstance(module, BitNetwork)]
    with torch.inference_mode(False):  # else the parameters become inference tensors
        if dtype is not None:
            for network in networks:
                compute_in(network, dtype)
        if channels_last:
            model.to(memory_format=torch.channels_last)
    if compile:
        for network in (each for each in networks if not runs_as_chains(each)):
            network.compile(dynamic=True, options={"freezing": True})
            network.register_load_state_dict_pre_hook(_reject_new_weights)
    if keep_pages and any(p.device.type == "cpu" for p in model.parameters()):
        keep_pages_of_process()
    model.train = _TrainingRejected(model)  # type: ignore[method-assign, assignment]
    return model


def _replace_layers(model: nn.Module, channels_last: bool) -> None:
    """Turns BiT's layers into their fast forms, but not a user's subclasses of them."""
    # Only the class of a module changes, so that hooks and references stay.
    for module in list(model.modules()):
        if type(module) is StdConv2d:
            FoldedConv2d.fold(module, channels_last)
        elif isinstance(module, FoldedConv2d):
            module.channels_last = channels_last
        elif type(module) is GroupNormAct:
            InferenceGroupNormAct.adopt(module)
        elif type(module) is Stage:
            InferenceStage.adopt(module)
    overwritable = _units_behind_units(model)
    for module in model.modules():
        if type(module) is PreActUnit and _may_sum_in_place(module, overwritable):
            module.__class__ = InPlacePreActUnit
        if isinstance(module, Int8PreActUnit):
            module.adds_in_place |= module in overwritable
        for conv, norm in _norms_behind_convolutions(module):
            if isinstance(norm, InferenceGroupNormAct) and isinstance(conv, nn.Conv2d):
                norm.in_place = True
                norm.made_by += (conv,)


def _units_behind_units(model: nn.Module) -> set[nn.Module]:
    """Returns the units whose input is always another unit's output that nothing else needs."""
    stages = [list(module) for module in model.modules() if isinstance(module, Stage)]
    pairs = [pair for stage in stages for pair in pairwise([None, *stage])]
    others = {unit for before, unit in pairs if not isinstance(before, Unit)}
    return {unit for stage in stages for unit in stage} - others


def _may_sum_in_place(unit: Any, overwritable: set[nn.Module]) -> bool:
    """Whether a unit may overwrite its shortcut, even if a user has changed the unit."""
    if not isinstance(unit.conv3, FoldedConv2d):
        return False
    return isinstance(unit.downsample, Projection) or (
        unit.downsample is None and unit in overwritable
    )


def _norms_behind_convolutions(module: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Returns pairs of child modules: a convolution, and the only norm that reads its output."""
    if isinstance(module, (Stem, Projection)):
        return [(module.conv, module.norm)]
    if not isinstance(module, Unit):
        return []
    convs: list[Any] = [module.conv1, module.conv2, module.conv3]
    norms: list[Any] = [module.norm1, module.norm2, module.norm3]
    if isinstance(module, BottleneckUnit):
        return list(zip(convs, norms, strict=True))
    return list(zip(convs[:2], norms[1:], strict=True))


def compute_in(network: BitNetwork, dtype: torch.dtype) -> None:
    """Makes a network compute in a type, with float32 inputs and outputs."""
    network.to(dtype)
    hooks = (*network._forward_pre_hooks.values(), *network._forward_hooks.values())
    for hook in hooks:
        if isinstance(hook, _CastInputs):
            hook.dtype = dtype
    if not any(isinstance(hook, _CastInputs) for hook in hooks):
        network.register_forward_pre_hook(_CastInputs(dtype), with_kwargs=True)
        network.register_forward_hook(_cast_outputs)


def _reject_new_weights(*_: Any) -> None:
    raise ValueError(
        "the weights of a model optimized with compile=True are part of its code: load weights "
        "into the model that it was made from, then call optimize_for_inference again"
    )


class _CastInputs:
    """Forward pre-hook that converts floating-point tensors to a type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _cast((args, kwargs), self.dtype)


def _cast_outputs(module: nn.Module, args: Any, outputs: Any) -> Any:
    return _cast(outputs, torch.float32)


def _cast(tree: Any, dtype: torch.dtype) -> Any:
    return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, tree)


class _TrainingRejected:
    """Replaces a model's ``train``, to raise the error before any module has changed."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, mode: bool = True) -> nn.Module:
        if mode:
            raise ValueError(NO_TRAINING)
        return type(self.model).train(self.model, False)
