"""Names of samples: unique, and safe in a tar file that WebDataset reads."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from urllib.parse import unquote_to_bytes

# WebDataset ends a key at the first dot of its last part and skips folders named __like_this__.
# Control characters and what is not UTF-8 (lone surrogates, to Python) have no place in a tar name.
_UNSAFE = re.compile(r"[%.\x00-\x1f\x7f\udc80-\udcff]|\A_(?=_)")


def key_of(path: str) -> str:
    """Returns the key of an image file: its path, with what WebDataset would misread escaped.

    Different paths have different keys, so ``a/b.jpg`` and ``a/b.png`` both have a place. The
    escapes are those of URLs: ``urllib.parse.unquote`` gives the path back.

    Args:
        path: Relative, with forward slashes: "a/b.jpg" becomes "a/b%2Ejpg".
    """
    return _UNSAFE.sub(lambda match: _percent(match[0]), path)


def path_of(key: str) -> str:
    """Returns the path that a key stands for."""
    return os.fsdecode(unquote_to_bytes(key))


def split_member(name: str) -> tuple[str, str]:
    """Splits a member of a WebDataset shard into its sample's key and its extensions."""
    folder, slash, file = name.rpartition("/")
    stem, _, extensions = file.partition(".")
    return f"{folder}{slash}{stem}", extensions.lower()


def free_key(key: str, taken: Container[str]) -> str:
    """Returns the key itself, or, where it is taken, the first free of key~2, key~3, ..."""
    number, free = 1, key
    while free in taken:
        number += 1
        free = f"{key}~{number}"
    return free


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))
