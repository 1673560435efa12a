"""The BiT networks in a file, their names, and the choice among them.

Training scripts save several networks in one file: a network and its average, a student and its
teacher, in dicts of dicts or in one dict under prefixes. Each of them is a part. By default the
model's own weights are taken:

1. A part is an average, and is taken last, if a word of its name is in AVERAGES: ``model_ema``,
   ``state_dict_ema``, ``teacher``, ``modelTeacher``, ``encoder_k``, ``target_network``.
2. Of the other parts, the one whose first name is earliest in OWN is taken; other names follow.
3. If two parts rank equally, the caller has to choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files import GroupPath, TensorFile
from bit_backbone.checkpoints.recognition import Network, networks_in, stranger
from bit_backbone.utils.ways_out import after, passing

# Where training scripts put the model's own tensors, in the order in which they are taken.
OWN = (
    "model",
    "state_dict",
    "model_state_dict",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "student",
    "online",
)
# Words in the names of what follows the model's weights: averages, teachers, momentum encoders.
AVERAGES = frozenset(
    (
        *("ema", "swa", "avg", "average", "averaged", "shadow"),
        *("teacher", "momentum", "target", "k"),
    )
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SHOWN = 8


@dataclass(frozen=True)
class Part:
    """One of the networks in a file.

    Attributes:
        name: The keys that lead to its dict, and its prefix if others share the dict; "" if the
            file is only this network.
        group: The keys that lead to its dict.
        network: The format of its names, and their prefix.
    """

    name: str
    group: GroupPath
    network: Network

    @property
    def full_name(self) -> str:
        """The keys and the prefix."""
        return _joined((*self.group, self.network.prefix))

    def is_called(self, name: str) -> bool:
        """Whether a name means this part, or a dict or module around it."""
        return any(own == name or own.startswith(f"{name}.") for own in (self.name, self.full_name))

    @property
    def rank(self) -> tuple[bool, int]:
        """Sort key: the first part is taken."""
        first = self.full_name.split(".")[0]
        words = {word.lower() for word in _WORD.findall(self.full_name)}
        return bool(words & AVERAGES), OWN.index(first) if first in OWN else len(OWN)


def find_parts(file: TensorFile) -> list[Part]:
    """Returns every BiT network of a file, in its order.

    Raises:
        CheckpointError: There is none.
    """
    parts = []
    for group, specs in file.groups.items():
        networks = networks_in(specs)
        for network in networks:
            shared = network.prefix if len(networks) > 1 or not group else ""
            parts.append(Part(_joined((*group, shared)), group, network))
    if not parts:
        raise CheckpointError(_nothing(file))
    return parts


def choose(parts: Sequence[Part], wanted: str | None, origin: str) -> Part:
    """Returns the requested part, or the model's own.

    Raises:
        CheckpointError: There is no such part, or there are several and none was chosen.
    """
    among = [part for part in parts if wanted is None or part.is_called(wanted)]
    if not among:
        raise CheckpointError(
            f"{origin} has no part {wanted!r} that is a BiT network; it has {_listed(parts)}"
        )
    ranks = [part.rank for part in among]
    best = [part for part, rank in zip(among, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        raise CheckpointError(
            f"{origin} holds several BiT networks, {_listed(best)}"
            + after(": ", passing("part", best[0].name, "for the first"))
        )
    return best[0]


def _joined(names: Iterable[str]) -> str:
    return ".".join(filter(None, (name.strip("./") for name in names)))


def _listed(parts: Sequence[Part]) -> str:
    names = [repr(part.name) for part in parts]
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _nothing(file: TensorFile) -> str:
    groups = [tuple(specs) for specs in file.groups.values() if specs]
    if groups:
        return f"{stranger(max(groups, key=len), file.origin)}; the file is {file.described}"
    return (
        f"{file.origin} must hold tensors by their names, such as a model's state_dict(), in a "
        f"dict or in dicts of dicts; it holds {file.described}"
    )
