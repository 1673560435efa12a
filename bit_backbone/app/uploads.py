"""Uploaded files: in a private folder, read once and removed."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from bit_backbone.app.photographs import read_photograph
from bit_backbone.preprocessing.deep import AUTO, BitDepth
from bit_backbone.utils.extras import require

_FOLDER = "GRADIO_TEMP_DIR"  # the variable that Gradio reads
KEPT_SECONDS = 600  # files that nobody took, such as the uploads of a page that was closed
CHECKED_SECONDS = 60


@contextmanager
def private_folder() -> Iterator[Path]:
    """Gives Gradio a folder of its own for uploads and downloads, which is removed at the end."""
    before = os.environ.get(_FOLDER)
    with tempfile.TemporaryDirectory(prefix="bit-backbone-app-") as name:
        os.environ[_FOLDER] = name
        try:
            yield Path(name)
        finally:
            if before is None:
                del os.environ[_FOLDER]
            else:
                os.environ[_FOLDER] = before


def take_upload(upload: str, bit_depth: BitDepth = AUTO) -> tuple[str, Image.Image]:
    """Reads an uploaded image and removes its file, whether it can be read or not.

    Args:
        upload: Where Gradio has put it.
        bit_depth: How many bits of more than 8 per channel are used.

    Returns:
        The name that the user knows it by, and the image.

    Raises:
        ValueError: It is damaged, or has too many bytes or pixels.
        OSError: It is truncated or no image.
    """
    path = Path(upload)
    try:
        return path.name, read_photograph(path, path.name, bit_depth)
    finally:
        _remove(path)


def new_file(name: str, content: str) -> Path:
    """Writes a file for a user to download, which Gradio removes in minutes, and returns where."""
    path = Path(tempfile.mkdtemp(dir=os.environ[_FOLDER])) / name
    path.write_text(content, encoding="utf-8")
    return path


def _remove(path: Path) -> None:
    folder = Path(os.environ[_FOLDER]).resolve()
    if folder not in path.resolve().parents:
        raise RuntimeError(f"an upload lies in {folder}, got {path}")
    path.unlink(missing_ok=True)


def shows_messages(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a listener of the page show the user's mistakes, and leave the page as it was."""

    @functools.wraps(function)
    def listener(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (OSError, ValueError, ImportError) as error:
            warn(str(error) or type(error).__name__)
            gradio: Any = require("gradio", "app", "the page")
            return gradio.skip()

    return listener


def warn(text: str) -> None:
    """Shows a message on the page until the user closes it."""
    gradio: Any = require("gradio", "app", "the page")
    gradio.Warning(escape(text), duration=None, title="This did not work")  # it takes HTML
