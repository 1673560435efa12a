"""Finds the file that an annotation's file_name refers to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote


class FileNames:
    """Finds the files of a folder by the names that tools on other machines wrote.

    Args:
        folder: The folder of the images.
        said: Every ``file_name``. A file that one of them names exactly is used only for it.
    """

    def __init__(self, folder: Path, said: list[Any]) -> None:
        self._folder = folder
        self._own = {name for name in said if isinstance(name, str) and self._is_file(name)}
        self._given: dict[str, str] = {}

    def find(self, said: Any) -> str | None:
        """Returns the file's path relative to the folder, or None if no file matches.

        Understands Windows' backslashes and Label Studio's percent-encoding. Leading folders are
        removed from absolute names and from names that begin with the images' folder.
        """
        if not isinstance(said, str) or not said:
            return None
        if said in self._own:
            return said
        for name in self._candidates(said):
            # Two names match one file, and nothing says which of them is right.
            if self._is_file(name) and name not in self._own:
                return name if self._given.setdefault(name, said) == said else None
        return None

    def _candidates(self, said: str) -> Iterator[str]:
        decoded = unquote(said)
        local = decoded.partition("?d=")[2] or decoded  # Label Studio's /data/local-files/?d=a.jpg
        for text in dict.fromkeys((said, decoded, local)):
            path = PureWindowsPath(text)  # accepts both kinds of slash
            parts = [part for part in path.parts if part != path.anchor]
            yield "/".join(parts)
            for count in range(1, len(parts)):
                if path.anchor or self._ends_with(parts[:count]):
                    yield "/".join(parts[count:])
            # Label Studio's uploads: data/upload/1/a.jpg
            if parts[:2] == ["data", "upload"]:
                yield parts[-1]

    def _ends_with(self, parts: list[str]) -> bool:
        """Whether the folder's path ends with these first parts of a relative path."""
        own = self._folder.absolute().parts
        return [part for part in parts if part != "."] == list(own[len(own) - len(parts) :])

    def _is_file(self, name: str) -> bool:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
            return False
        return os.path.isfile(self._folder / name)
