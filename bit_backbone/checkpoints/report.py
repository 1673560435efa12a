"""The result of loading: every tensor is in one of its lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from bit_backbone.checkpoints.architecture import Architecture

_SHOWN = 6


class ShapePair(NamedTuple):
    """The shapes of one tensor on both sides."""

    file: tuple[int, ...]
    model: tuple[int, ...]

    def __str__(self) -> str:
        return f"{list(self.file)} in the file, {list(self.model)} in the model"


@dataclass(frozen=True)
class LoadReport:
    """The outcome of loading a checkpoint into a model.

    All names are those of the model, except the unexpected ones, which only the file has.

    Attributes:
        source: Where the tensors came from.
        format: The format of the file: "npz", "torch", "timm", "transformers", "native" or
            "detectron2".
        architecture: The network in the file.
        model: The network of the model.
        loaded: Tensors of the model that were loaded from the file.
        missing: Tensors of the model that the file lacks.
        unexpected: Tensors of the file's network that the model does not have.
        misshapen: Tensors whose shapes differ.
        head: Tensors of the file's head that were not loaded, because of ``head`` or because the
            model has no head.
        beyond: Tensors of the file after the last stage that the model builds.
        fresh: Tensors of the model that are random: a new head, and on the meta device everything
            that the file lacks.
        kept: Tensors of the model that keep the values they had.
        adapted: Tensors that were made to fit another number of image channels.
        outside: Names in the file outside of the network: the other parts of a detector.
        not_finite: Loaded tensors that hold NaN or infinity.
        part: The network that was taken: the keys and the prefix that lead to it; "" if the file is
            only one network.
        other_parts: The other networks in the file, such as an average or a teacher; ``part=``
            chooses one of them.
    """

    source: str
    format: str
    architecture: Architecture
    model: Architecture
    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: Mapping[str, ShapePair] = field(default_factory=dict)
    head: tuple[str, ...] = ()
    beyond: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()
    part: str = ""
    other_parts: tuple[str, ...] = ()

    @property
    def same_network(self) -> bool:
        """Whether file and model agree on every stage that both have."""
        return not self.architecture.conflicts_with(self.model)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, unexpected or misshapen, and the networks are the same."""
        return self.same_network and not (self.missing or self.unexpected or self.misshapen)

    def problems(self) -> str:
        """Returns what does not fit, a line for each kind."""
        lines = []
        if not self.same_network:
            lines.append(f"this file is {self.architecture}; the model is {self.model}")
        if self.missing:
            lines.append(f"missing from the file: {_listed(self.missing)}")
        if self.unexpected:
            lines.append(f"unexpected in the file: {_listed(self.unexpected)}")
        if self.misshapen:
            pairs = tuple(f"{name} is {pair}" for name, pair in self.misshapen.items())
            lines.append(f"misshapen: {_listed(pairs, '; ')}")
        return "\n  ".join(lines)

    def __str__(self) -> str:
        part = f", {self.part!r} of it" if self.part and self.other_parts else ""
        lines = [
            f"{self.source} ({self.format} names, {self.architecture}{part}): loaded "
            f"{len(self.loaded)} tensors"
        ]
        notes = {
            "left out, the file's head": self.head,
            "left out, after the model's last stage": self.beyond,
            "left out, outside the network": self.outside,
            "initialised at random": self.fresh,
            "kept as they were": self.kept,
            "adapted to the image's channels": self.adapted,
            "not finite": self.not_finite,
        }
        lines += [f"{what}: {_listed(names)}" for what, names in notes.items() if names]
        if self.other_parts:
            lines.append(f"not taken, other parts of the file: {listed_parts(self.other_parts)}")
        if not self.complete:
            lines.append(self.problems())
        return "\n  ".join(lines)


def listed_parts(names: tuple[str, ...]) -> str:
    """Returns the first few names of parts, and how many more there are."""
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + rest


def _listed(items: tuple[str, ...], separator: str = ", ") -> str:
    shown = separator.join(items[:_SHOWN])
    rest = len(items) - _SHOWN
    count = f"{len(items)} tensors: " if len(items) > 1 else ""
    return f"{count}{shown}{separator}and {rest} more" if rest > 0 else count + shown
