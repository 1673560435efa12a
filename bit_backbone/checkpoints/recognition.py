"""Finding BiT networks among the names of a state dict: whose names, and under which prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.formats import FORMATS, Format

# What wrappers of modules put into names, wherever they stand: torch.compile, DDP and averages,
# activation checkpointing, FSDP.
WRAPPERS = frozenset(("_orig_mod", "module", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"))


@dataclass(frozen=True)
class Network:
    """A BiT network among names.

    Attributes:
        format: Whose names they are.
        prefix: What stands before every name of the network, without wrappers.
    """

    format: Format
    prefix: str


@dataclass(frozen=True)
class Recognised:
    """The tensors of a network.

    Attributes:
        names: Our name of each to theirs.
        unknown: Names under the prefix that are no part of a BiT network.
        outside: Names elsewhere: other parts of a larger model.
        written_prefix: What stands before every name of it, with wrappers.
    """

    names: Mapping[str, str]
    unknown: tuple[str, ...]
    outside: tuple[str, ...]
    written_prefix: str


def unwrapped(name: str) -> str:
    """Returns a name without what wrappers of modules have put into it."""
    if not any(wrapper in name for wrapper in WRAPPERS):
        return name
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def networks_in(names: Iterable[str]) -> list[Network]:
    """Finds networks by their convolutions' names, the one with most of them first."""
    found = Counter(
        (prefix, format_.name)
        for name in map(unwrapped, names)
        for format_ in FORMATS.values()
        if format_.name != "detectron2"  # our own names, which differ by their prefix
        and (prefix := format_.prefix_of(name)) is not None
    )
    best: dict[str, str] = {}
    # Of equal counts the first format: a file of only the stem is timm's and ours alike.
    order = list(FORMATS)
    for (prefix, format_name), _ in sorted(
        found.items(), key=lambda entry: (-entry[1], order.index(entry[0][1]))
    ):
        best.setdefault(prefix, format_name)
    return [Network(_format(name, prefix), prefix) for prefix, name in best.items()]


def _format(name: str, prefix: str) -> Format:
    is_detectron2 = name == "native" and prefix.endswith(FORMATS["detectron2"].prefix)
    return FORMATS["detectron2" if is_detectron2 else name]


def read_names(
    names: Iterable[str], network: Network, origin: str, others: Iterable[Network] = ()
) -> Recognised:
    """Sorts the names of a state dict into those of a network and the rest.

    Args:
        names: All names.
        network: Of which ``networks_in`` has found.
        origin: Where the names come from, for messages.
        others: The other networks there; their tensors are in none of the lists.

    Raises:
        CheckpointError: Two names mean one tensor.
    """
    format_, prefix = network.format, network.prefix
    ours: dict[str, str] = {}
    unknown, outside = [], []
    theirs = tuple(o.prefix for o in others if not prefix.startswith(o.prefix))
    for name in names:
        written = format_.normalise(unwrapped(name))
        if written.startswith(theirs):
            continue
        if not written.startswith(prefix):
            outside.append(name)
            continue
        own = format_.read_name(written[len(prefix) :])
        if own is None:
            unknown.append(name)
        elif own in ours:
            raise CheckpointError(
                f"{origin} contains one tensor twice, as {ours[own]!r} and {name!r}"
            )
        else:
            ours[own] = name
    written = _written_prefix(tuple(ours.values()), prefix)
    outside += [name for name in unknown if not name.startswith(written)]
    unknown = [name for name in unknown if name.startswith(written)]
    return Recognised(ours, tuple(unknown), tuple(outside), written)


def _written_prefix(names: tuple[str, ...], prefix: str) -> str:
    """Returns a prefix as these names have it, with the wrappers around the network."""
    if "/" in prefix:  # TensorFlow's names, which nothing of torch wraps
        return prefix
    parts: list[str] = []
    left = prefix
    for part in names[0].split("."):
        around = ".".join([*parts, part]) + "."
        if not left and not (part in WRAPPERS and all(n.startswith(around) for n in names)):
            break
        parts.append(part)
        left = left if part in WRAPPERS else left.removeprefix(f"{part}.")
    return "".join(f"{part}." for part in parts)


def stranger(names: tuple[str, ...], origin: str) -> str:
    """Says that names are no BiT network's, and what those look like."""
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
