"""Packages that only some features need: the extras of ``pip install "bit-backbone[...]"``."""

import importlib
from types import ModuleType


class MissingExtraError(ImportError):
    """The packages of a requested feature are not installed."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of an extra.

    Args:
        module: Full name of the module.
        extra: The extra that installs it.
        purpose: The feature that needs it; the error message begins with it.

    Raises:
        MissingExtraError: The module cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which cannot be imported ({error}); "
            f'install it with: pip install "bit-backbone[{extra}]"'
        ) from error
