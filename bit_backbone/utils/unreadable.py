"""Images that cannot be read: one kind of exception, whatever a decoder raises."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bit_backbone.utils.out_of_memory import fitting

# The machine's troubles and not the image's: the next image would fail the same way.
MACHINE_TROUBLES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN)


class UnreadableImageError(OSError, ValueError):
    """An image file that is missing, damaged, no image, or too large for the memory.

    Attributes:
        path: Of the file.
    """

    def __init__(self, message: str, path: str | os.PathLike[str] = "") -> None:
        super().__init__(message)
        self.path = os.fspath(path)


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be read, as a loader passes it on.

    Attributes:
        index: In the data set.
        file: Its path.
        reason: What is wrong with it.
    """

    index: int
    file: str
    reason: str

    @classmethod
    def of(cls, index: int, error: UnreadableImageError) -> Unreadable:
        """Returns what an exception says."""
        return cls(index, error.path, str(error))


@contextmanager
def reading(
    path: str | os.PathLike[str], prefix: str = "", *, once: bool = False
) -> Iterator[None]:
    """Makes every failure to read an image an UnreadableImageError.

    Args:
        path: Of the image.
        prefix: Begins the message.
        once: Leave the prefix out where the message itself names the file, as some of Pillow's do.

    Raises:
        UnreadableImageError: In place of an OSError or ValueError, or for a lack of memory.
        OSError: The machine is in trouble, which is no fault of the image.
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
