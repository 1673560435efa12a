"""One exception for unreadable images, whatever a decoder raises."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bit_backbone.utils.out_of_memory import fitting

# Errors of the machine, not of the image: the next image would fail in the same way.
MACHINE_TROUBLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN)


class UnreadableImageError(OSError, ValueError):
    """An image file is missing, damaged, not an image, or too large for the memory.

    Attributes:
        path: Path of the file.
    """

    def __init__(self, message: str, path: str | os.PathLike[str] = "") -> None:
        super().__init__(message)
        self.path = os.fspath(path)


@dataclass(frozen=True)
class Unreadable:
    """A loader's record of an image that could not be read.

    Attributes:
        index: Index in the data set.
        file: Path of the image.
        reason: What is wrong with it.
    """

    index: int
    file: str
    reason: str

    @classmethod
    def of(cls, index: int, error: UnreadableImageError) -> Unreadable:
        """Makes the record of an exception."""
        return cls(index, error.path, str(error))


@contextmanager
def reading(
    path: str | os.PathLike[str], prefix: str = "", *, once: bool = False
) -> Iterator[None]:
    """Turns every failure to read an image into an UnreadableImageError.

    Args:
        path: Path of the image.
        prefix: Beginning of the message.
        once: Omit the prefix if the message itself names the file, as some of Pillow's do.

    Raises:
        UnreadableImageError: Replaces an OSError, a ValueError or an error for a lack of memory.
        OSError: The machine fails, not the image.
    """
    try:
        with fitting("the image"):
            yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in MACHINE_TROUBLES:
            raise
        said = str(error) or type(error).__name__
        if not (once and os.fspath(path) in said):
            said = prefix + said
        raise UnreadableImageError(said, path) from error
