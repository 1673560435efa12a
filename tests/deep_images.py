"""Writers of images of more than 8 bits per channel, which Pillow cannot save all of."""

import struct
import zlib
from pathlib import Path

import numpy as np

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by the number of channels


def write_png(path: Path, pixels: np.ndarray) -> Path:
    """Write uint16 [H, W] or [H, W, C] as PNG."""
    height, width = pixels.shape[:2]
    kind = _COLOUR_TYPES[1 if pixels.ndim == 2 else pixels.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))
    return path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_pgm(path: Path, pixels: np.ndarray, largest: int) -> Path:
    """Write uint16 [H, W] as PGM, which tells what white is."""
    height, width = pixels.shape
    path.write_bytes(f"P5 {width} {height} {largest}\n".encode() + pixels.astype(">u2").tobytes())
    return path
