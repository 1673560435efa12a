"""Writers of image files that cannot be read, or not without guessing."""

import struct
import zlib

import numpy as np
from photographs import photograph
from PIL import Image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def corrupt_chunk(path):
    photograph("china@300x200").save(path)
    data = path.read_bytes()
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    path.write_bytes(data[:second] + b"\xff\x00\xff\x00" + data[second + 4 :])


def sixteen_bits(path):
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(path)


def truncated(path):
    photograph("china@161x97").save(path)
    path.write_bytes(path.read_bytes()[:-900])


def empty(path):
    path.touch()


def web_page(path):
    path.write_text("<html>not a photograph</html>")
