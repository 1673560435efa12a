"""Which file below a folder an annotation's file_name means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote


class FileNames:
    """Finds the files of a folder by the names that tools on other machines gave them.

    Args:
        folder: Of the images.
        said: Every ``file_name``; what one of them names as it stands belongs only to it.
    """

    def __init__(self, folder: Path, said: list[Any]) -> None:
        self._folder = folder
        self._own = {name for name in said if isinstance(name, str) and self._is_file(name)}
        self._given: dict[str, str] = {}

    def find(self, said: Any) -> str | None:
        """Returns the name of the file below the folder, or None where there is none.

        Back-slashes are those of Windows, percent-encoding is Label Studio's, and absolute names
        and those that begin with the images' folder are shortened from the left.
        """
        if not isinstance(said, str) or not said:
            return None
        if said in self._own:
            return said
        for name in self._candidates(said):
            # two names for one file: which of them is meant cannot be known
            if self._is_file(name) and name not in self._own:
                return name if self._given.setdefault(name, said) == said else None
        return None

    def _candidates(self, said: str) -> Iterator[str]:
        decoded = unquote(said)
        local = decoded.partition("?d=")[2] or decoded  # Label Studio's /data/local-files/?d=a.jpg
        for text in dict.fromkeys((said, decoded, local)):
            path = PureWindowsPath(text)  # which takes both kinds of slash
            parts = [part for part in path.parts if part != path.anchor]
            yield "/".join(parts)
            for count in range(1, len(parts)):
                if path.anchor or self._ends_with(parts[:count]):
                    yield "/".join(parts[count:])
            # Label Studio's uploads: data/upload/1/a.jpg
            if parts[:2] == ["data", "upload"]:
                yield parts[-1]

    def _ends_with(self, parts: list[str]) -> bool:
        """Whether the folder is that of a relative path's first parts."""
        own = self._folder.absolute().parts
        return [part for part in parts if part != "."] == list(own[len(own) - len(parts) :])

    def _is_file(self, name: str) -> bool:
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
            return False
        return os.path.isfile(self._folder / name)
