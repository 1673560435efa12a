"""Loading a checkpoint into a model: all of it, or an error that lists what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import logging
import warnings
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.formats import HEAD, STEM_CONV, STEM_GAIN
from bit_backbone.checkpoints.matching import HEAD_POLICIES, Match, Target, match
from bit_backbone.checkpoints.report import LoadReport
from bit_backbone.checkpoints.sources import SourceLike, open_checkpoint
from bit_backbone.network.image_channels import adapt_rgb_filters
from bit_backbone.network.std_conv import StdConv2d
from bit_backbone.utils.ways_out import after, in_python, passing

_LOGGER = logging.getLogger(__name__)


def load(
    model: nn.Module,
    source: SourceLike,
    head: str = "keep",
    strict: bool = True,
    *,
    part: str | None = None,
) -> LoadReport:
    """Loads a checkpoint into a model of this package, or into a larger model that holds one.

    All names and shapes are compared before anything is read, and everything is read before the
    model changes. After an error the model is as it was. A model on the meta device is filled
    directly, on torch's default device, without random initialization: loading takes the memory of
    the tensors and a few megabytes.

    A backbone without the last stages takes its part of the file; the report lists the rest as
    ``beyond``. Weights for RGB images also fit a model with another ``num_channels``;
    ``bit_backbone.network.image_channels.adapt_rgb_filters`` describes how.

    Args:
        model: A BitBackbone, BitModel or BitForImageClassification; or a DDP model, a compiled
            model or a detector around one.
        source: A published name ("BiT-M-R50x1", "timm/resnetv2_50x1_bit.goog_in21k"), a file, a
            folder, a repository on the Hugging Face Hub, a dict of tensors or of such dicts, or a
            ``Source``, which also names a part.
        head: The classification head, if the model has one. "keep" loads the file's, which must
            fit. "drop" leaves the model's head as it is. "new" initializes the model's head at
            random.
        strict: Whether anything missing, unexpected or misshapen is an error; otherwise it is a
            warning, and whatever fits is loaded.
        part: The network to take from a file with several, such as "state_dict_ema" or "teacher".
            None takes the model's own weights, by the order in ``bit_backbone.checkpoints.parts``;
            the report names the others.

    Returns:
        The loaded tensors, and all tensors that were not loaded.

    Raises:
        CheckpointError: The source cannot be found or read, or, if strict, does not fit.
        ValueError: ``head`` has another value.
    """
    with open_checkpoint(source, part=part) as checkpoint:
        return load_checkpoint(model, checkpoint, head, strict)


def load_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, head: str = "keep", strict: bool = True
) -> LoadReport:
    """Does what ``load`` does, with a checkpoint that is already open."""
    if head not in HEAD_POLICIES:
        raise ValueError(f"head must be one of {', '.join(map(repr, HEAD_POLICIES))}, got {head!r}")
    target = Target(model)
    found = match(target, checkpoint, head)
    if not found.report.complete:
        _complain(found.report, strict)
    tensors = _read(target, checkpoint, found)
    not_finite = tuple(name for name, tensor in tensors.items() if not _is_finite(tensor))
    if not_finite:
        warnings.warn(
            f"{checkpoint.origin} holds NaN or infinite values in {', '.join(not_finite)}; the "
            "results of the network will be meaningless",
            stacklevel=3,
        )
    fresh = _fill(target, tensors, HEAD if found.new_head else ())
    kept = tuple(n for n in target.tensors if n not in tensors and n not in fresh)
    report = dataclasses.replace(found.report, fresh=fresh, kept=kept, not_finite=not_finite)
    _LOGGER.info("%s", report)
    return report


def _complain(report: LoadReport, strict: bool) -> None:
    message = f"{report.source} does not fit the model:\n  {report.problems()}"
    if not strict:
        warnings.warn(f"{message}\nonly the tensors that fit are loaded", stacklevel=4)
        return
    head_names = {*report.missing, *report.misshapen} & {*HEAD}
    labels = report.architecture.num_labels
    what_fits = passing("strict", False, "to load what fits")
    if head_names and report.same_network:
        message += f"\nthe file has {labels or 'no'} labels" + after(
            ": ",
            passing("head", "new", "for a new head"),
            in_python(f"build the model with num_labels={labels}"),
        )
    elif report.same_network:
        message += after("\n", what_fits)
    else:
        message += after("\n", in_python("build the model that the file is made for"), what_fits)
    raise CheckpointError(message, report)


def _read(target: Target, checkpoint: Checkpoint, found: Match) -> dict[str, Tensor]:
    """Reads what will be loaded, in the model's types."""
    tensors = {}
    for name, source in found.sources.items():
        dtype = target.tensors[name].dtype
        tensor = checkpoint.read(source)
        if name in found.report.adapted:
            conv = target.owner(STEM_CONV)
            assert isinstance(conv, StdConv2d)
            tensor, gain = adapt_rgb_filters(tensor, conv.in_channels, conv.eps)
            tensors[STEM_GAIN] = gain.to(dtype)
        tensors[name] = tensor.to(dtype)
    if STEM_GAIN in target.tensors and STEM_GAIN not in tensors:
        # A file that has none was trained without it.
        like = target.tensors[STEM_GAIN]
        tensors[STEM_GAIN] = torch.ones(like.shape, dtype=like.dtype, device="cpu")
    return tensors


def _is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds no NaN and no infinity, without a mask of its size.

    numpy's extrema are NaN where there is one, and as fast on one core as memory is.
    """
    values = (tensor.float() if tensor.itemsize < 4 else tensor).numpy()
    return values.size == 0 or bool(np.isfinite([values.min(), values.max()]).all())


def _fill(target: Target, tensors: dict[str, Tensor], renewed: Iterable[str]) -> tuple[str, ...]:
    """Gives the network its tensors, and returns the names of those that are random."""
    on_meta = {name for name, tensor in target.tensors.items() if tensor.is_meta}
    fresh = tuple(n for n in target.tensors if n in renewed or (n in on_meta and n not in tensors))
    device = _real_device()
    by_owner: dict[tuple[nn.Module, bool], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        is_new = name in on_meta
        values = by_owner.setdefault((target.owner(name), is_new), {})
        values[name.rpartition(".")[2]] = tensor.to(device) if is_new else tensor
    for (module, is_new), values in by_owner.items():
        module.load_state_dict(values, strict=False, assign=is_new)
    _initialise(target, fresh)
    return fresh


def _real_device() -> torch.device:
    """Where tensors go that were on the meta device."""
    default = torch.get_default_device()
    return torch.device("cpu") if default.type == "meta" else default


def _initialise(target: Target, names: Iterable[str]) -> None:
    """Gives the named tensors the values that their modules start with, and real memory."""
    leaves: dict[nn.Module, set[str]] = {}
    for name in names:
        leaves.setdefault(target.owner(name), set()).add(name.rpartition(".")[2])
    for module, wanted in leaves.items():
        own = dict(module.named_parameters(recurse=False)) | dict(
            module.named_buffers(recurse=False)
        )
        # A module that has some of its tensors already is initialised through a copy.
        fresh = module if wanted == set(own) else copy.deepcopy(module)
        if any(own[leaf].is_meta for leaf in wanted):
            fresh.to_empty(device=_real_device(), recurse=False)
        fresh.reset_parameters()  # type: ignore[operator]
        if fresh is not module:
            values = {leaf: getattr(fresh, leaf).detach() for leaf in wanted}
            module.load_state_dict(values, strict=False, assign=True)
