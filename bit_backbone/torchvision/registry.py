"""Entry into torchvision's registry: ``get_model``, ``list_models``, ``get_model_weights``."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torchvision.models._api import BUILTIN_MODELS, register_model

__all__ = ["register"]

Builder = TypeVar("Builder", bound=Callable[..., nn.Module])


def register(builder: Builder) -> Builder:
    """Registers a builder under its own name, which ``get_model`` finds if it is lower-case.

    Registering again from the same module, as a reload does, replaces the entry; torchvision
    itself would reject.

    Raises:
        ValueError: Another package holds the name.
    """
    name = builder.__name__
    assert name == name.lower(), name
    present = BUILTIN_MODELS.get(name)
    if present is not None:
        if present.__module__ != builder.__module__:
            raise ValueError(
                f"torchvision's registry takes each name only once, and {present.__module__} has "
                f"registered {name!r} already; import only one of it and {builder.__module__}"
            )
        del BUILTIN_MODELS[name]
    return register_model()(builder)
