"""Packages that only some features need: the extras of ``pip install "bit-backbone[...]"``."""

import importlib
from types import ModuleType


class MissingExtraError(ImportError):
    """A feature was asked for whose packages are not installed."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Imports a module of an extra.

    Args:
        module: Its full name.
        extra: The extra that installs it.
        purpose: What needs it, as the subject of the error's sentence.

    Raises:
        MissingExtraError: It cannot be imported; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which cannot be imported ({error}); "
            f'install it with: pip install "bit-backbone[{extra}]"'
        ) from error
