"""Fuzzes the reader of pickles with atheris: no input may run code, crash or fill the memory.

atheris is in none of our extras; ``pip install atheris``, then, with the checkout on PYTHONPATH:

    python tests/fuzz/unpickling.py -runs=1000000 -rss_limit_mb=4096 -timeout=30 CORPUS

CORPUS is an empty folder, which seeds are written into. Whatever Python reports to
auditors, such as an import, a call of the system, a file, a compilation, ends the campaign, but for
a few harmless events; and so does every exception but PickleError.
"""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import sys
from collections import Counter
from random import Random

import atheris
import numpy as np
import torch

with atheris.instrument_imports(include=["bit_backbone.checkpoints.files", "pickletools"]):
    import pickletools

    from bit_backbone.checkpoints.errors import CheckpointError
    from bit_backbone.checkpoints.files.known_globals import MAKERS, stored_type
    from bit_backbone.checkpoints.files.trees import find_groups
    from bit_backbone.checkpoints.files.unpickling import unpickle
    from bit_backbone.checkpoints.files.values import PickleError, Placeholder, Storage, Storages

HARMLESS = (
    "builtins.id",
    "object.__",
    "sys.",
    "code.__new__",
    "marshal",
    "gc.",
    "cpython.",
    "array.__new__",
)
BLOCK_BYTES = 64
MOST_READ = 2**20  # bytes of one tensor; the blocks of this harness are far smaller
SEEDS = [
    {"model": {"stem.conv.weight": np.ones((2, 3), np.float32)}, "epoch": 3},
    collections.OrderedDict(a=np.float64(1.5), b=np.arange(3).astype(">i4")),
    argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a"), when=datetime.date.min),
    [collections.defaultdict(list, a=[1]), {1, 2}, frozenset("ab"), 2**70, -1.5, b"ab", (1, 2, 3)],
    {torch.Size((2, 3)): torch.float32, "device": torch.device("cuda:0")},
]
# Calls and names that a pickle of tensors makes, and single instructions.
KNOWN = [
    *(f"c{module}\n{name}\n".encode() for module, name in (*MAKERS, ("posix", "system"))),
    *(bytes((code,)) for code in b"NRbots2)(}]le0u\x81\x85\x86\x87\x89\x88\x8f\x90\x91\x92\x94Qa"),
]
REPORTED = 100_000
outcomes: Counter[str] = Counter()
reading = False


class Blocks(Storages):
    """Blocks of a few bytes under any key."""

    origin = "a file"

    def nbytes(self, key: str) -> int:
        return BLOCK_BYTES

    def read(self, key: str) -> torch.Tensor:
        return torch.zeros(BLOCK_BYTES, dtype=torch.uint8)


def persistent_load(saved: object) -> object:
    """Does what the reader of torch.save's archives does."""
    if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] != "storage":
        raise PickleError("no storage")
    known, dtype = stored_type(saved[1])
    width = 1 if dtype is None else dtype.itemsize
    if not known or type(saved[4]) is not int or not 0 <= saved[4] * width <= BLOCK_BYTES:
        return Placeholder("storage")
    return Storage(Blocks(), str(saved[2]), dtype, saved[4])


def audit(event: str, arguments: tuple[object, ...]) -> None:
    """Ends the campaign where reading does more than reading."""
    global reading
    if reading and not event.startswith(HARMLESS):
        reading = False
        raise SystemError(f"the pickle made the reader do {event} {arguments}")


def read_one(data: bytes) -> None:
    """Reads one input, and every tensor that it comes to."""
    global reading
    reading = True
    try:
        content = unpickle(io.BytesIO(data), persistent_load)
        groups, _ = find_groups(content)
        for leaf in (leaf for leaves in groups.values() for leaf in leaves.values()):
            tensor = leaf.read()
            assert tuple(tensor.shape) == leaf.spec.shape
            assert tensor.nbytes <= max(MOST_READ, len(data))
        outcomes["read, with tensors" if groups else "read"] += 1
    except (PickleError, CheckpointError):
        outcomes["rejected"] += 1
    finally:
        reading = False
    if not sum(outcomes.values()) % REPORTED:
        print(dict(outcomes), file=sys.stderr, flush=True)


def mutate(data: bytes, limit: int, seed: int) -> bytes:
    """Damages bytes, or keeps instructions whole and puts them elsewhere, which gets further."""
    random = Random(seed)
    whole = _instructions(data)
    if random.random() < 0.4 or len(whole) < 2:
        return atheris.Mutate(data, limit)
    for _ in range(random.randint(1, 6)):
        at, other = random.randrange(len(whole)), random.randrange(len(whole))
        length = random.randint(1, 8)
        run = whole[other : other + length]
        change = random.choice(("insert", "insert", "replace", "delete", "known"))
        if change == "known":
            whole.insert(at, random.choice(KNOWN))
        else:
            whole[at : at + (change != "insert") * length] = [] if change == "delete" else run
        whole = whole or [b"N"]
    return (b"".join(whole) + b".")[:limit]


def _instructions(data: bytes) -> list[bytes]:
    """Returns the instructions of a pickle up to its end or its first damage."""
    places = []
    try:
        for _, _, place in pickletools.genops(data):
            places.append(place)
    except Exception:
        pass
    ends = [*places[1:], len(data)]
    return [data[start:end] for start, end in zip(places, ends, strict=False)]


class Stored:
    """Pickled as a tensor over a block, the way torch.save does it."""

    def __init__(self, key: str) -> None:
        self.key = key


class TensorPickler(pickle.Pickler):
    """Writes tensors as torch.save does."""

    def persistent_id(self, value: object) -> object:
        if isinstance(value, Stored):
            return "storage", torch.FloatStorage, value.key, "cpu", 4
        return None

    def reducer_override(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            place = (Stored("0"), 0, (2, 2), (2, 1), False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, place
        return NotImplemented


def write_seeds(folder: pathlib.Path) -> None:
    """Writes pickles of every protocol, for mutations to start from."""
    for index, value in enumerate([*SEEDS, {"model": {"a": torch.ones(2, 2)}}]):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            buffer = io.BytesIO()
            TensorPickler(buffer, protocol).dump(value)
            (folder / f"seed-{index}-{protocol}").write_bytes(buffer.getvalue())
    for instruction in pickletools.opcodes:
        code = instruction.code.encode("latin1")
        (folder / f"seed-{instruction.name}").write_bytes(
            b"(NN" + code + b"a\nb\n" + b"\0" * 8 + b"."
        )


if __name__ == "__main__":
    folders = [pathlib.Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if folders and not any(folders[0].iterdir()):
        write_seeds(folders[0])
    for seed in folders[0].iterdir() if folders else ():
        read_one(seed.read_bytes())  # what is imported once only is imported now
    outcomes.clear()
    sys.addaudithook(audit)
    atheris.Setup(sys.argv, read_one, custom_mutator=mutate)
    atheris.Fuzz()
