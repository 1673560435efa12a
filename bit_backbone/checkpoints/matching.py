"""Comparing a checkpoint with a model, tensor by tensor, before anything is read or changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from bit_backbone.checkpoints.architecture import Architecture
from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.formats import HEAD, HEAD_WEIGHT, STEM_CONV, STEM_GAIN
from bit_backbone.checkpoints.recognition import (
    Network,
    networks_in,
    read_names,
    stranger,
    unwrapped,
)
from bit_backbone.checkpoints.report import LoadReport, ShapePair
from bit_backbone.config import BitConfig
from bit_backbone.network.image_channels import RGB_CHANNELS

HEAD_POLICIES = ("keep", "drop", "new")
_STAGE = re.compile(r"stage(\d+)\.")


class Target:
    """The BiT network inside a model.

    Attributes:
        network: The module that holds the network: the model itself, or the part of a DDP model,
            a compiled model or a detector that is one.
        tensors: Its parameters and buffers by name.
        architecture: What it is, all stages of its configuration.
        last_stage: Index of the deepest stage it builds.
    """

    def __init__(self, model: nn.Module) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        found = _network_of(model, tensors)
        recognised = read_names(tensors, found, f"the {type(model).__name__}")
        own = [n for n in tensors if n not in recognised.outside]
        prefix = recognised.written_prefix
        self.network = model.get_submodule(prefix.removesuffix("."))
        # None of our names has the wrappers inside of the network, of compiled stages for example.
        self._written = {unwrapped(n)[len(found.prefix) :]: n.removeprefix(prefix) for n in own}
        self.tensors: Mapping[str, torch.Tensor] = {
            name: tensors[prefix + written] for name, written in self._written.items()
        }
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        built = Architecture.of_shapes(shapes)
        self.last_stage = len(built.depths)
        config = getattr(self.network, "config", None)
        self.architecture = (
            Architecture.of_config(config) if isinstance(config, BitConfig) else built
        )

    def owner(self, name: str) -> nn.Module:
        """Returns the module that one of the tensors is a parameter or a buffer of."""
        return self.network.get_submodule(self._written[name].rpartition(".")[0])

    @property
    def is_partial(self) -> bool:
        """Whether the network stops before its configuration's last stage."""
        return self.last_stage < len(self.architecture.depths)

    def checkpoint_name(self, name: str) -> str:
        """Returns what a tensor of the network is called in a checkpoint of the whole network.

        The norm after the last stage of a network that stops early is the norm that the next
        stage begins with.
        """
        return self.entry_norm(name) if self.is_partial else name

    def entry_norm(self, name: str) -> str:
        """Returns the name of the next stage's first norm for that of the final one."""
        kind, _, leaf = name.rpartition(".")
        return f"stage{self.last_stage + 1}.0.norm1.{leaf}" if kind == "norm" else name


def _network_of(model: nn.Module, names: Iterable[str]) -> Network:
    """Returns the one network in a model.

    Raises:
        CheckpointError: There is none or another codebase's, or there are several.
    """
    kind = type(model).__name__
    found = networks_in(names)
    if not found:
        raise CheckpointError(stranger(tuple(names), f"the {kind}"))
    if found[0].format.name not in ("native", "detectron2"):
        raise CheckpointError(
            f"weights can only be loaded into models of this package; the {kind} has "
            f"{found[0].format.name}'s "
            "names: convert the file to that format instead"
        )
    rivals = [network.prefix for network in found if network.format == found[0].format]
    if len(rivals) > 1:
        raise CheckpointError(
            f"the {kind} holds several BiT networks, under {', '.join(map(repr, rivals))}: load "
            "into one of these modules"
        )
    return found[0]


@dataclass(frozen=True)
class Match:
    """What to do: which tensors to copy from where, and everything that is left over.

    Attributes:
        sources: The file's name of each tensor that will be loaded, by the model's name.
        report: The report, as it will be once the tensors are loaded.
        new_head: Whether the model's own head is to be random.
    """

    sources: Mapping[str, str]
    report: LoadReport
    new_head: bool


def match(target: Target, checkpoint: Checkpoint, head: str) -> Match:
    """Pairs the tensors of a model with those of a checkpoint.

    Args:
        target: The model.
        checkpoint: The file.
        head: "keep", "drop" or "new"; see ``load``.
    """
    keeps_head = head == "keep" and HEAD_WEIGHT in target.tensors
    wanted = {
        name: _source_of(name, target, checkpoint)
        for name in target.tensors
        if keeps_head or name not in HEAD
    }
    sources, misshapen, adapted = {}, {}, []
    for name, source in wanted.items():
        if source not in checkpoint.specs:
            continue
        shapes = ShapePair(checkpoint.specs[source].shape, tuple(target.tensors[name].shape))
        if shapes.file == shapes.model:
            sources[name] = source
        elif name == STEM_CONV and _can_adapt(shapes):
            sources[name] = source
            adapted.append(name)
        else:
            misshapen[name] = shapes
    left = [name for name in checkpoint.specs if name not in wanted.values()]
    heads = [name for name in left if name in HEAD]
    beyond = [name for name in left if _is_beyond(name, target)]
    unexpected = [name for name in left if name not in heads and name not in beyond]
    report = LoadReport(
        source=checkpoint.origin,
        format=checkpoint.format.name,
        architecture=checkpoint.architecture,
        model=target.architecture,
        loaded=tuple(sources),
        missing=tuple(
            name
            for name, source in wanted.items()
            if source not in checkpoint.specs and not is_own(name)
        ),
        unexpected=(*unexpected, *checkpoint.unknown),
        misshapen=misshapen,
        head=tuple(heads),
        beyond=tuple(beyond),
        adapted=tuple(adapted),
        outside=checkpoint.outside,
        part=checkpoint.part,
        other_parts=checkpoint.other_parts,
    )
    return Match(sources, report, new_head=head == "new")


def _source_of(name: str, target: Target, checkpoint: Checkpoint) -> str:
    """Returns where in the file a tensor of the model comes from.

    The norm after the last stage is what the file's next stage begins with, where it has one; a
    partial network's own state dict has it as ``norm``.
    """
    entry = target.entry_norm(name)
    return entry if entry in checkpoint.specs else name


def _can_adapt(shapes: ShapePair) -> bool:
    """Whether RGB filters of the file can serve another number of image channels."""
    file, model = shapes
    return file[1:2] == (RGB_CHANNELS,) and (file[0], *file[2:]) == (model[0], *model[2:])


def _is_beyond(name: str, target: Target) -> bool:
    """Whether a tensor of the file lies after the last stage that the model builds."""
    stage = _STAGE.match(name)
    if stage:
        return target.last_stage < int(stage[1]) <= len(target.architecture.depths)
    return name.startswith("norm.") and ("norm.weight" not in target.tensors or target.is_partial)


def is_own(name: str) -> bool:
    """Whether a tensor is one that no published checkpoint has, and starts fresh."""
    return name.startswith("feature_norms.") or name == STEM_GAIN
