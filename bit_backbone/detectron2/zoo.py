"""The configurations that come with the package."""

from __future__ import annotations

import difflib
from pathlib import Path

import bit_backbone

__all__ = ["get_config_file", "list_config_files"]

_SUFFIXES = (".yaml", ".py")


def get_config_file(name: str) -> str:
    """Returns the path of a configuration that comes with the package.

    Args:
        name: Its path under configs/, such as
            "COCO-Detection/faster_rcnn_BiT_R50x1_FPN_1x.yaml".

    Raises:
        ValueError: There is no such configuration.
    """
    path = _folder() / name
    if path.suffix in _SUFFIXES and path.is_file():
        return str(path)
    names = list_config_files()
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.3)
    raise ValueError(f"no configuration {name!r}; of {len(names)} the closest: {', '.join(close)}")


def list_config_files() -> list[str]:
    """Returns what ``get_config_file`` takes: every model, without the files they are based on."""
    folder = _folder()
    files = (path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted(name for name in names if "/" in name and not name.startswith("common/"))


def _folder() -> Path:
    """configs/ in the package, where a wheel has it, or beside it in a checkout."""
    package = Path(bit_backbone.__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"
