"""How each codebase names and lays out the same network: two-way maps, kept as tables.

Everything else in this room speaks our own names (``stage1.0.conv1.weight``) and layouts (kernels
[out, in, height, width], the head [labels, channels]). A rule's braces are the numbered or worded
parts of a name; its brackets are a prefix that is written, and optional when read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import torch

from bit_backbone.config import TRANSFORMERS_EPS

HEAD_WEIGHT = "classifier.weight"
HEAD = (HEAD_WEIGHT, "classifier.bias")
STEM_CONV = "stem.conv.weight"
STEM_GAIN = "stem.conv.gain"
OFFICIAL_EPS = 1e-10
TIMM_EPS = 1e-8


class Part(NamedTuple):
    """The spelling of one variable part of a name: what it may be, and to and from ours."""

    pattern: str
    read: Callable[[str], str]
    write: Callable[[str], str]


def _number(offset: int = 0, digits: int = 1) -> Part:
    """A number that is ours plus ``offset``, padded with zeros.

    Of three digits at most: a name may ask for no network of a billion stages.
    """
    return Part(
        r"\d{1,3}",
        lambda text: str(int(text) - offset),
        lambda ours: f"{int(ours) + offset:0{digits}}",
    )


def _words(**theirs: str) -> Part:
    """One of a few words, ours to theirs."""
    ours = {word: key for key, word in theirs.items()}
    return Part("|".join(ours), ours.__getitem__, theirs.__getitem__)


_AFFINE = _words(weight="weight", bias="bias")
_OURS = {
    "stage": _number(),
    "unit": _number(),
    "conv": _number(),
    "affine": _AFFINE,
    "tap": Part(r"stem|stage\d{1,3}", str, str),
}


def _compile(template: str, parts: Mapping[str, Part]) -> re.Pattern[str]:
    pattern = re.escape(template).replace(r"\[", "(?:").replace(r"\]", ")?")
    for name, part in parts.items():
        pattern = pattern.replace(rf"\{{{name}\}}", f"(?P<{name}>{part.pattern})")
    return re.compile(pattern)


@dataclass(frozen=True)
class Format:
    """One codebase's names and layouts.

    Attributes:
        name: "npz", "torch", "timm", "transformers", "native" or "detectron2".
        rules: Our template of a name to theirs; a name without a rule cannot be written.
        parts: Spellings that differ from ours.
        prefix: What every name gets when it is written.
        old_spellings: Regular expressions and what they stand for, applied before reading.
        kernel_axes: Their kernel's axes in the order of ours, where it differs.
        head_is_conv: Whether the head is a 1x1 convolution.
        eps: The epsilon of weight standardization that the codebase computes with.
    """

    name: str
    rules: Mapping[str, str]
    parts: Mapping[str, Part] = field(default_factory=dict)
    prefix: str = ""
    old_spellings: tuple[tuple[str, str], ...] = ()
    kernel_axes: tuple[int, int, int, int] | None = None
    head_is_conv: bool = False
    eps: float = OFFICIAL_EPS

    @cached_property
    def _parts(self) -> Mapping[str, Part]:
        return {**_OURS, **self.parts}

    @cached_property
    def _readers(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_compile(theirs, self._parts), ours) for ours, theirs in self.rules.items()]

    @cached_property
    def _writers(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_compile(ours, _OURS), theirs) for ours, theirs in self.rules.items()]

    @cached_property
    def _kernel(self) -> re.Pattern[str]:
        """Finds a convolution of the network at the end of a name, whatever stands before it."""
        kernels = [theirs for ours, theirs in self.rules.items() if ".conv" in ours]
        body = "|".join(
            re.sub(r"\?P<\w+>", "", _compile(theirs, self._parts).pattern) for theirs in kernels
        )
        return re.compile(rf"(?P<prefix>(?:.*?[./])??)(?:{body})")

    def normalise(self, name: str) -> str:
        """Returns their name without the variations that they have used over time."""
        for pattern, replacement in self.old_spellings:
            name = re.sub(pattern, replacement, name)
        return name

    def prefix_of(self, name: str) -> str | None:
        """Returns what stands before a convolution's name, or None for any other name."""
        match = self._kernel.fullmatch(self.normalise(name))
        return match["prefix"] if match else None

    def read_name(self, name: str) -> str | None:
        """Returns our name for theirs, or None if it is none of theirs."""
        name = self.normalise(name)
        for pattern, ours in self._readers:
            match = pattern.fullmatch(name)
            if match:
                found = {
                    key: self._parts[key].read(text) for key, text in match.groupdict().items()
                }
                return ours.format(**found)
        return None

    def write_name(self, name: str) -> str | None:
        """Returns their name for ours, without ``prefix``, or None if they have none."""
        for pattern, theirs in self._writers:
            match = pattern.fullmatch(name)
            if match:
                written = {
                    key: self._parts[key].write(text) for key, text in match.groupdict().items()
                }
                return re.sub(r"[\[\]]", "", theirs).format(**written)
        return None

    def read_tensor(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the tensor of our ``name`` in our layout; works on meta tensors too."""
        if self.kernel_axes is not None and tensor.ndim == 4:
            tensor = tensor.permute(self.kernel_axes)
        if name == HEAD_WEIGHT and tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
            tensor = tensor[:, :, 0, 0]
        return tensor.contiguous()

    def read_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape that ``read_tensor`` gives."""
        return tuple(self.read_tensor(name, torch.empty(shape, device="meta")).shape)

    def write_tensor(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns the tensor of our ``name`` in their layout."""
        if name == HEAD_WEIGHT and self.head_is_conv:
            tensor = tensor[:, :, None, None]
        if self.kernel_axes is not None and tensor.ndim == 4:
            tensor = tensor.permute(torch.tensor(self.kernel_axes).argsort().tolist())
        return tensor.contiguous()


_UNIT = "stage{stage}.{unit}"
_OWN = "feature_norms.{tap}.{affine}"
_NATIVE_RULES = {
    name: name
    for name in (
        STEM_CONV,
        STEM_GAIN,
        "stem.norm.{affine}",
        _UNIT + ".conv{conv}.weight",
        _UNIT + ".norm{conv}.{affine}",
        _UNIT + ".downsample.conv.weight",
        _UNIT + ".downsample.norm.{affine}",
        "norm.{affine}",
        "classifier.{affine}",
        _OWN,
    )
}
_NPZ_UNIT = "[resnet/]block{stage}/unit{unit}"
_TORCH_UNIT = "body.block{stage}.unit{unit}"
_TIMM_UNIT = "stages.{stage}.blocks.{unit}"
_TRANSFORMERS_UNIT = "[bit.]encoder.stages.{stage}.layers.{unit}"

# Native comes first: a file of only the stem is timm's and ours alike.
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        format_.name: format_
        for format_ in (
            Format("native", _NATIVE_RULES),
            Format("detectron2", _NATIVE_RULES, prefix="backbone.bottom_up."),
            Format(
                "npz",
                {
                    STEM_CONV: "[resnet/]root_block/standardized_conv2d/kernel",
                    _UNIT + ".conv{conv}.weight": _NPZ_UNIT + "/{conv}/standardized_conv2d/kernel",
                    _UNIT + ".norm{conv}.{affine}": _NPZ_UNIT + "/{conv}/group_norm/{affine}",
                    _UNIT + ".downsample.conv.weight": _NPZ_UNIT
                    + "/a/proj/standardized_conv2d/kernel",
                    "norm.{affine}": "[resnet/]group_norm/{affine}",
                    "classifier.weight": "[resnet/]head/conv2d/kernel",
                    "classifier.bias": "[resnet/]head/conv2d/bias",
                },
                {
                    "unit": _number(offset=1, digits=2),
                    "conv": _words(**{"1": "a", "2": "b", "3": "c"}),
                    "affine": _words(weight="gamma", bias="beta"),
                },
                # Some published files number their layers: standardized_conv2d_17.
                old_spellings=((r"(standardized_conv2d|group_norm|conv2d)_\d+(?=/)", r"\1"),),
                kernel_axes=(3, 2, 0, 1),
                head_is_conv=True,
            ),
            Format(
                "torch",
                {
                    STEM_CONV: "root.conv.weight",
                    _UNIT + ".conv{conv}.weight": _TORCH_UNIT + ".conv{conv}.weight",
                    _UNIT + ".norm{conv}.{affine}": _TORCH_UNIT + ".gn{conv}.{affine}",
                    _UNIT + ".downsample.conv.weight": _TORCH_UNIT + ".downsample.weight",
                    "norm.{affine}": "head.gn.{affine}",
                    "classifier.{affine}": "head.conv.{affine}",
                },
                {"unit": _number(offset=1, digits=2)},
                head_is_conv=True,
            ),
            Format(
                "timm",
                {
                    STEM_CONV: STEM_CONV,
                    "stem.norm.{affine}": "stem.norm.{affine}",
                    _UNIT + ".conv{conv}.weight": _TIMM_UNIT + ".conv{conv}.weight",
                    _UNIT + ".norm{conv}.{affine}": _TIMM_UNIT + ".norm{conv}.{affine}",
                    _UNIT + ".downsample.conv.weight": _TIMM_UNIT + ".downsample.conv.weight",
                    _UNIT + ".downsample.norm.{affine}": _TIMM_UNIT + ".downsample.norm.{affine}",
                    "norm.{affine}": "norm.{affine}",
                    "classifier.{affine}": "head.fc.{affine}",
                },
                {"stage": _number(offset=-1)},
                # timm's features_only models flatten the first level of names.
                old_spellings=(
                    (r"(^|\.)stages_(\d+)\.", r"\1stages.\2."),
                    (r"(^|\.)stem_(conv|norm)\.", r"\1stem.\2."),
                ),
                head_is_conv=True,
                eps=TIMM_EPS,
            ),
            Format(
                "transformers",
                {
                    STEM_CONV: "[bit.]embedder.convolution.weight",
                    STEM_GAIN: "[bit.]embedder.convolution.gain",
                    "stem.norm.{affine}": "[bit.]embedder.norm.{affine}",
                    _UNIT + ".conv{conv}.weight": _TRANSFORMERS_UNIT + ".conv{conv}.weight",
                    _UNIT + ".norm{conv}.{affine}": _TRANSFORMERS_UNIT + ".norm{conv}.{affine}",
                    _UNIT + ".downsample.conv.weight": _TRANSFORMERS_UNIT
                    + ".downsample.conv.weight",
                    _UNIT + ".downsample.norm.{affine}": _TRANSFORMERS_UNIT
                    + ".downsample.norm.{affine}",
                    "norm.{affine}": "[bit.]norm.{affine}",
                    "classifier.{affine}": "classifier.1.{affine}",
                    _OWN: _OWN,
                },
                {"stage": _number(offset=-1)},
                eps=TRANSFORMERS_EPS,
            ),
        )
    }
)
