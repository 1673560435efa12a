"""The stage of a model optimized for inference, whose norms run inside its convolutions."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bit_backbone import kernels
from bit_backbone.inference.convolution import FoldedConv2d
from bit_backbone.inference.int8 import Int8Conv2d, Int8PreActUnit
from bit_backbone.inference.norm import InferenceGroupNormAct
from bit_backbone.inference.units import InPlacePreActUnit
from bit_backbone.kernels import native
from bit_backbone.kernels.gate import has_hooks, has_values, is_eager, is_recorded, is_watched
from bit_backbone.kernels.norm_conv import Filters, Norm, can_convolve, norm_conv, norm_tables
from bit_backbone.network import Projection, Stage

__all__ = ["InferenceStage", "runs_as_chains"]


@kernels.returns_new_memory
class InferenceStage(Stage):
    """A stage that on CPUs runs as one chain of convolutions, which normalise their input.

    The chain takes units, norms and convolutions as this package makes them, without hooks, which
    would see results that the chain does not make. Otherwise units run one by one, layer by layer.
    Filters are laid out for the chain once; it takes as much memory as the weights. They are laid
    out again after a change that PyTorch counts, which it does not for one through ``.data``.
    """

    __jit_ignored_attributes__ = ("_links",)

    if TYPE_CHECKING:  # TorchScript evaluates the annotations that it finds in a class
        _links: dict[Any, tuple[Any, Any, _Link | None]]  # by unit: see _link

    @classmethod
    def adopt(cls, stage: Stage) -> None:
        """Turns a Stage into an InferenceStage: its class changes, so hooks and references stay."""
        fast: Any = stage
        fast.__class__ = cls
        fast._links = {}

    def forward(self, x: Tensor, activated: Tensor | None = None) -> Tensor:
        """Maps the previous stage's output to its own; ``activated`` is enter(x), if computed."""
        if not torch.jit.is_scripting():  # noqa: SIM102 (the only condition that TorchScript skips)
            if _is_eager_on_cpu(x):
                y = self._chain(x)
                if y is not None:
                    return y
        for unit in self:
            x = unit(x, activated)
            activated = None
        return x

    @torch.jit.unused
    def _chain(self, x: Tensor) -> Tensor | None:
        """Returns the stage's output, or None if a chain cannot compute it."""
        links: list[_Link] = []
        channels = x.shape[1]
        for unit in self._modules.values():
            link = self._link(unit, x.dtype)
            if link is None or link.in_channels != channels:
                return None
            links.append(link)
            channels = link.out_channels
        if not links:
            return None
        x = x.contiguous(memory_format=torch.channels_last)
        tables = norm_tables(x, links[0].norms[0])
        for link, following in zip_longest(links, links[1:]):
            of_next = None if following is None else following.norms[0]
            x, tables = link.run(x, tables, of_next, may_overwrite=link is not links[0])
        return x

    @torch.jit.unused
    def _link(self, unit: Any, dtype: torch.dtype) -> _Link | None:
        """Returns a unit as a link, made again after a change, or None if it cannot be one."""
        if not _is_known(unit, dtype):
            return None
        tensors = _tensors(unit)
        if not all(type(tensor) in _PLAIN for tensor in tensors):  # a subclass has no address
            return None
        state = [torch.is_grad_enabled(), *_state(unit), *map(_identity, tensors)]
        seen, _, link = self._links.get(unit, _UNSEEN)  # other threads may run this stage too
        if state != seen:
            link = _Link(unit) if _can_link(unit) else None
            # While memory is held, no other tensor can get its address.
            held = [tensor.detach() for tensor in tensors]
            others = {each: self._links[each] for each in self if each in self._links}
            self._links = others | {unit: (state, held, link)}  # without units that were replaced
        return link

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        self._links = {}
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_links": {}}


def runs_as_chains(network: nn.Module) -> bool:
    """Whether all stages of a network would run as chains on its own device and in its own type."""
    stages = [module for module in network.modules() if isinstance(module, Stage)]
    like = next(network.parameters())
    return like.device.type == "cpu" and all(
        isinstance(stage, InferenceStage)
        and all(stage._link(unit, like.dtype) is not None for unit in stage)
        for stage in stages
    )


class _Link:
    """A residual unit in a chain: filters laid out, norms as the kernels take them."""

    def __init__(self, unit: Any) -> None:
        convs = unit.conv1, unit.conv2, unit.conv3
        norms = unit.norm1, unit.norm2, unit.norm3
        self.norms = [Norm(*each) for each in zip(norms, map(_steps, convs), strict=True)]
        self.filters = [_filters(conv) for conv in convs]
        self.shortcut = None if unit.downsample is None else _filters(unit.downsample.conv)
        self.adds_in_place = unit.adds_in_place
        self.in_channels, self.out_channels = convs[0].weight.shape[1], convs[2].weight.shape[0]

    def run(
        self, x: Tensor, tables: Tensor, following: Norm | None, may_overwrite: bool
    ) -> tuple[Tensor, Tensor]:
        """Returns the unit's residual sums, and what normalises them for the next unit."""
        first, second, last = self.filters
        branch, of_branch = norm_conv(x, tables, first, self.norms[1])
        branch, of_branch = norm_conv(branch, of_branch, second, self.norms[2])
        if self.shortcut is not None:
            total, _ = norm_conv(x, tables, self.shortcut)
        else:
            total = x if self.adds_in_place and may_overwrite else x.clone()
        return norm_conv(branch, of_branch, last, following, total)


def _steps(conv: Any) -> Tensor | None:
    return conv.input_steps.float().contiguous() if isinstance(conv, Int8Conv2d) else None


def _filters(conv: Any) -> Filters:
    is_int8 = isinstance(conv, Int8Conv2d)
    return Filters(conv, conv.weight_steps.float().contiguous() if is_int8 else None)


def _layers(unit: Any) -> tuple[list[Any], list[Any]]:
    """Returns a unit's norms and convolutions, a projection's at the end."""
    layers = unit._modules  # not by name: attributes of modules are slow, and there are many
    norms = [layers["norm1"], layers["norm2"], layers["norm3"]]
    convs = [layers["conv1"], layers["conv2"], layers["conv3"]]
    shortcut = unit.downsample
    return norms, convs if shortcut is None else [*convs, shortcut._modules.get("conv")]


def _tensors(unit: Any) -> list[Tensor]:
    norms, convs = _layers(unit)
    owners = (own for each in (*norms, *convs) for own in (each._parameters, each._buffers))
    return [tensor for own in owners for tensor in own.values() if tensor is not None]


def _state(unit: Any) -> list[Any]:
    """Returns what a link is made of besides tensors, to see later whether it still is."""
    norms, convs = _layers(unit)
    sizes = ((conv.kernel_size, conv.stride, conv.padding, conv.dilation) for conv in convs)
    return [
        unit.adds_in_place,
        *((norm, norm.num_groups, norm.eps) for norm in norms),
        *((conv, conv.pads_same, *size) for conv, size in zip(convs, sizes, strict=True)),
    ]


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    version = None if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), tensor.shape, tensor.stride(), version, tensor.requires_grad


def _is_eager_on_cpu(x: Tensor) -> bool:
    return (
        is_eager(x)
        and x.device.type == "cpu"
        and x.dtype in native.DTYPES
        and x.ndim == 4
        and x.numel() > 0
        and has_values(x)
        and not is_recorded(x)
        and not is_watched()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_known(unit: Any, dtype: torch.dtype) -> bool:
    """Whether a unit has only layers of kinds that the chain computes, without hooks."""
    kind: Any = _CONVOLUTIONS.get(type(unit))
    shortcut = None if kind is None else unit.downsample
    if kind is None or unit.crops or not (shortcut is None or type(shortcut) is Projection):
        return False
    norms, convs = _layers(unit)
    if not all(type(norm) is InferenceGroupNormAct for norm in norms):
        return False
    acts = [norm._modules["act"] for norm in norms]
    ends = [] if shortcut is None else [shortcut._modules["norm"]]
    return (
        all(type(conv) is kind and "weight" in conv._parameters for conv in convs)
        and all(conv.fits(dtype) for conv in convs)
        and all(type(act) is nn.ReLU for act in acts)
        and all(type(end) is nn.Identity for end in ends)
        and not has_hooks(unit, *norms, *convs, *acts, *ends, *([shortcut] if ends else []))
    )


def _can_link(unit: Any) -> bool:
    """Whether the layers of a known unit fit together, and the kernels can compute them."""
    norms, convs = _layers(unit)
    tensors = _tensors(unit)
    return (
        all(tensor.device.type == "cpu" for tensor in tensors)
        and has_values(*tensors)
        and not is_recorded(*tensors)
        and all(norm.fits() for norm in norms)
        and all(can_convolve(conv) and _filters_fit(conv) for conv in convs)
        and _channels_fit(norms, convs)
        and _sizes_fit(convs)
    )


def _filters_fit(conv: Any) -> bool:
    """Whether PyTorch counts changes of the filters, and one step belongs to each channel."""
    fits = not conv.weight.is_inference()
    if isinstance(conv, Int8Conv2d):
        out_channels, in_channels = conv.weight.shape[:2]
        fits &= conv.input_steps.shape == (in_channels,)
        fits &= conv.weight_steps.shape == (out_channels,)
    return fits


def _channels_fit(norms: list[Any], convs: list[Any]) -> bool:
    """Whether each layer takes the channels that the one before it makes, and both sums match."""
    reads = [conv.weight.shape[1] for conv in convs]
    makes = [conv.weight.shape[0] for conv in convs]
    start, total = (reads[3], makes[3]) if len(convs) > 3 else (reads[0], reads[0])
    return (
        [norm.num_channels for norm in norms] == reads[:3]
        and [start, *makes[:3]] == [*reads[:3], total]
        and min(makes) > 0
    )


def _sizes_fit(convs: list[Any]) -> bool:
    """Whether the branch and the shortcut make maps of one size, for inputs of any size."""
    # With such padding, a convolution divides sizes by its stride and rounds up.
    pads = (2 * c.padding[0] == (c.kernel_size[0] - 1) * c.dilation[0] for c in convs)
    strides = [conv.stride[0] for conv in convs]
    same = all(conv.pads_same or fits for conv, fits in zip(convs, pads, strict=True))
    return same and math.prod(strides[:3]) == math.prod(strides[3:])


_CONVOLUTIONS: dict[type, type] = {InPlacePreActUnit: FoldedConv2d, Int8PreActUnit: Int8Conv2d}
_PLAIN = (Tensor, nn.Parameter)
_UNSEEN = (None, None, None)
