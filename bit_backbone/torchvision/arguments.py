"""The arguments of torchvision's detectors, which drop those that they do not know in silence."""

import dataclasses
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

from torch import nn

from bit_backbone.config import BitConfig

# Read by GeneralizedRCNNTransform, to which the detectors hand on what they do not know.
_OF_TRANSFORM = frozenset(("size_divisible", "fixed_size", "_skip_resize"))
_OF_NETWORK = frozenset(field.name for field in dataclasses.fields(BitConfig)) - {"num_labels"}


def check_arguments(builder: Callable[..., nn.Module], given: Iterable[str]) -> None:
    """Rejects arguments that nobody would read.

    Args:
        builder: Of a model; it says what it returns, and may take further arguments for that.
        given: Names of arguments.

    Raises:
        ValueError: There are such; the message says where those of the network belong.
    """
    own = signature(builder).parameters
    legal = _named(own.values())
    if len(legal) < len(own):
        legal |= _named(signature(_class_of(builder)).parameters.values()) | _OF_TRANSFORM
    unknown = sorted(set(given) - legal)
    if unknown:
        shown = sorted(name for name in legal - {"backbone"} if not name.startswith("_"))
        raise ValueError(
            f"{builder.__name__} does not take {', '.join(unknown)}"
            f"{_hint(unknown) if 'variant' in own else ''}; it takes {', '.join(shown)}"
        )


def _named(parameters: Iterable[Parameter]) -> set[str]:
    return {parameter.name for parameter in parameters if parameter.kind != Parameter.VAR_KEYWORD}


def _class_of(builder: Callable[..., nn.Module]) -> Any:
    return builder.__annotations__["return"]


def _hint(unknown: Iterable[str]) -> str:
    network = [name for name in unknown if name in _OF_NETWORK]
    return f", but variant takes a BitConfig with {', '.join(network)}" if network else ""
