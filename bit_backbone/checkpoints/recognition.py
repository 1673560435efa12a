"""Finding a BiT network among the names of a state dict: whose names, and under which prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.formats import FORMATS, Format


@dataclass(frozen=True)
class Recognised:
    """A BiT network found among names.

    Attributes:
        format: Whose names they are.
        prefix: What stands before every name of the network.
        names: Our name of each of its tensors to theirs.
        unknown: Names under the prefix that are no part of a BiT network.
        outside: Names elsewhere: other parts of a larger model.
    """

    format: Format
    prefix: str
    names: Mapping[str, str]
    unknown: tuple[str, ...]
    outside: tuple[str, ...]


def recognise(names: Iterable[str], origin: str) -> Recognised:
    """Finds the network by its convolutions' names.

    Args:
        names: All names of a state dict.
        origin: Where they come from, for messages.

    Raises:
        CheckpointError: There is no BiT network, there are several, or two names mean one tensor.
    """
    names = tuple(names)
    found = Counter(
        (format_.name, prefix)
        for format_ in FORMATS.values()
        if format_.name != "detectron2"  # our own names, told apart by their prefix
        for name in names
        if (prefix := format_.prefix_of(name)) is not None
    )
    if not found:
        raise CheckpointError(_stranger(names, origin))
    (format_name, prefix), _ = found.most_common(1)[0]
    rivals = sorted(p for (other, p) in found if other == format_name and p != prefix)
    if rivals:
        raise CheckpointError(
            f"{origin} holds several BiT networks, under {prefix!r} and "
            f"{', '.join(map(repr, rivals))}: pass the tensors of one as a dict"
        )
    if format_name == "native" and prefix.endswith(FORMATS["detectron2"].prefix):
        format_name = "detectron2"
    return _sort(names, FORMATS[format_name], prefix, origin)


def _sort(names: tuple[str, ...], format_: Format, prefix: str, origin: str) -> Recognised:
    ours: dict[str, str] = {}
    unknown, outside = [], []
    for name in names:
        if not format_.normalise(name).startswith(prefix):
            outside.append(name)
            continue
        own = format_.read_name(format_.normalise(name)[len(prefix) :])
        if own is None:
            unknown.append(name)
        elif own in ours:
            raise CheckpointError(f"{origin} holds one tensor twice, as {ours[own]!r} and {name!r}")
        else:
            ours[own] = name
    return Recognised(format_, prefix, ours, tuple(unknown), tuple(outside))


def _stranger(names: tuple[str, ...], origin: str) -> str:
    sample = ", ".join(map(repr, names[:3])) or "(none)"
    layouts = ", ".join(
        f"{format_.name} ({format_.write_name('stage1.0.conv1.weight')})"
        for format_ in FORMATS.values()
        if format_.name != "detectron2"
    )
    return (
        f"{origin} holds no BiT network: none of its {len(names)} names ({sample}, ...) is a BiT "
        f"convolution; known layouts: {layouts}"
    )
