"""A format of images whose decoder raises what a file tells it to."""

import builtins
import struct
from pathlib import Path

from PIL import Image, ImageFile

MARK = b"RAISES:"
# Seen of Pillow on damaged AVIF, TIFF and EXIF, beside OSError and ValueError.
RAISED = ("OverflowError", "IndexError", "ZeroDivisionError", "RuntimeError", "SyntaxError",
          "TypeError", "KeyError", "EOFError", "AssertionError", "struct.error",
          "DecompressionBombError")  # fmt: skip


class RaisingImage(ImageFile.ImageFile):
    """Opens, and raises when its pixels are wanted."""

    format, format_description = "RAISES", "raises"

    def _open(self) -> None:
        self._size, self._mode = (40, 30), "RGB"
        self.name = self.fp.read().removeprefix(MARK).decode()

    def load(self):
        bomb = Image.DecompressionBombError
        found = {"struct.error": struct.error, "DecompressionBombError": bomb}
        raise (found.get(self.name) or getattr(builtins, self.name))(f"from {self.name}")


Image.register_open("RAISES", RaisingImage, lambda prefix: prefix.startswith(MARK))


def write_raising(path: Path, name: str) -> Path:
    """Write an image at which Pillow raises this."""
    path.write_bytes(MARK + name.encode())
    return path
