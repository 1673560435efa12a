"""The arguments of torchvision's detectors, which drop those that they do not know in silence."""

import dataclasses
from collections.abc import Iterable
from inspect import Parameter, signature

from torch import nn

from bit_backbone.config import BitConfig

# Read by GeneralizedRCNNTransform, to which the detectors hand on what they do not know.
_OF_TRANSFORM = frozenset(("size_divisible", "fixed_size", "_skip_resize"))
_OF_NETWORK = frozenset(field.name for field in dataclasses.fields(BitConfig))


def arguments_of(detector: type[nn.Module]) -> set[str]:
    """Returns the names that a detector of torchvision reads, beside its backbone."""
    named = signature(detector).parameters.values()
    own = {parameter.name for parameter in named if parameter.kind is not Parameter.VAR_KEYWORD}
    return own - {"backbone"} | _OF_TRANSFORM


def check_arguments(detector: type[nn.Module], given: Iterable[str]) -> None:
    """Refuses arguments that nobody would read.

    Raises:
        TypeError: There are such; the message says where those of the network belong.
    """
    legal = arguments_of(detector)
    unknown = sorted(set(given) - legal)
    if not unknown:
        return
    network = [name for name in unknown if name in _OF_NETWORK]
    hint = f"; variant takes a BitConfig with {', '.join(network)}" if network else ""
    raise TypeError(
        f"{detector.__name__} does not take {', '.join(unknown)}{hint}; it takes "
        f"{', '.join(sorted(legal))}"
    )
