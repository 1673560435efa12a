"""Damage to bytes: what disks, networks and attackers do to a file."""

import struct
from random import Random

INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
MOST_MUTATIONS = 4


def mutate(data: bytes, random: Random) -> bytes:
    """Returns ``data`` after one to a few random mutations."""
    changed = bytearray(data)
    for _ in range(random.randint(1, MOST_MUTATIONS)):
        random.choice(MUTATIONS)(changed, random)
    return bytes(changed)


def _position(data: bytearray, random: Random) -> int:
    """Picks a place: near either end, where formats keep their headers, as often as elsewhere."""
    span = min(len(data), 1024)
    near_start, near_end = random.randrange(span or 1), len(data) - random.randint(1, span or 1)
    return max(random.choice([near_start, near_end, random.randrange(len(data) or 1)]), 0)


def flip_bit(data: bytearray, random: Random) -> None:
    """Flips one bit."""
    if data:
        data[_position(data, random)] ^= 1 << random.randrange(8)


def overwrite_text(data: bytearray, random: Random) -> None:
    """Replaces a digit or letter by another, which headers of text survive."""
    at = _position(data, random)
    if at < len(data) and chr(data[at]).isalnum():
        data[at] = random.choice(b"0123456789abcdefFIU<>|")


def overwrite_integer(data: bytearray, random: Random) -> None:
    """Writes a number at the edge of some type over whatever stands there."""
    size, code = random.choice([(1, "B"), (2, "H"), (4, "I"), (8, "Q")])
    value = random.choice([v for v in INTERESTING if v < 256**size])
    at = _position(data, random)
    data[at : at + size] = struct.pack(random.choice("<>") + code, value)


def delete(data: bytearray, random: Random) -> None:
    """Drops a run of bytes."""
    at = _position(data, random)
    del data[at : at + random.randint(1, 64)]


def duplicate(data: bytearray, random: Random) -> None:
    """Repeats a run of bytes."""
    at = _position(data, random)
    data[at:at] = data[at : at + random.randint(1, 64)]


def insert(data: bytearray, random: Random) -> None:
    """Inserts random bytes."""
    at = _position(data, random)
    data[at:at] = random.randbytes(random.randint(1, 16))


def swap(data: bytearray, random: Random) -> None:
    """Exchanges two runs of bytes."""
    size = random.randint(1, 32)
    first, second = sorted((_position(data, random), _position(data, random)))
    if first + size <= second:
        run, other = data[first : first + size], data[second : second + size]
        data[second : second + size], data[first : first + size] = run, other


def truncate(data: bytearray, random: Random) -> None:
    """Cuts the end off."""
    del data[_position(data, random) :]


MUTATIONS = (
    flip_bit,
    flip_bit,
    overwrite_text,
    overwrite_text,
    overwrite_integer,
    overwrite_integer,
    delete,
    duplicate,
    insert,
    swap,
    truncate,
)
