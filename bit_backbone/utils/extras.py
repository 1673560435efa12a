"""Packages that only some features need: the extras of ``pip install "bit-backbone[...]"``."""

import importlib
from importlib.util import find_spec
from pathlib import Path
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
            + _installation(extra)
        ) from error


def require_file(package: str, path: str, extra: str, purpose: str) -> Path:
    """Returns a file of an extra's package, without importing the package.

    Scientific packages take a second or two to import, their data no time to read.

    Args:
        package: Name of the package, without a dot.
        path: Of the file, below the package's folder.
        extra: The extra that installs the package.
        purpose: The feature that needs the file; the error message begins with it.

    Raises:
        MissingExtraError: The package is not installed, or is a release without the file.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            f"{purpose} needs {package}, which is not installed; {_installation(extra)}"
        )
    file = Path(spec.origin).parent / path
    if not file.is_file():
        raise MissingExtraError(
            f"{purpose} needs the file {path} of {package}, and the installed release does not "
            f"contain it; {_installation(extra)}"
        )
    return file


def _installation(extra: str) -> str:
    return f'install it with: pip install "bit-backbone[{extra}]"'
