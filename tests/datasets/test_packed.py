"""Records in one array of bytes: the same values, and little memory in loaders' processes."""

import os
import pickle

import pytest

from bit_backbone.datasets.packed import Packed

RECORDS = [
    {"id": 1, "bbox": [0.5, 1.0, 2.0, 3.0]},
    {},
    {"name": "b\u00e9", "objects": [{"a": 1}] * 3},
]


def test_a_sequence_of_equal_values():
    packed = Packed(RECORDS)
    assert list(packed) == RECORDS
    assert packed[-1] == RECORDS[-1]
    assert packed[0:2] == RECORDS[0:2]
    assert packed[0] is not packed[0]  # what a caller writes into it stays there
    with pytest.raises(IndexError):
        packed[3]
    assert list(pickle.loads(pickle.dumps(packed))) == RECORDS
    assert list(Packed([])) == []


def test_some_left_out():
    packed = Packed(RECORDS).without({1})
    assert list(packed) == [RECORDS[0], RECORDS[2]]
    assert list(packed.without({0})) == [RECORDS[2]]
    assert list(packed.without(set())) == list(packed)


def private_bytes() -> int:
    with open("/proc/self/smaps_rollup") as file:
        fields = dict(line.split(":") for line in file if ":" in line)
    return int(fields["Private_Dirty"].split()[0]) * 1024


def growth_in_a_fork(records) -> int:
    """How much memory of its own a child has come to hold after it has read every record."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        before = private_bytes()
        for record in records:
            len(record)
            for object_ in record:
                object_["bbox"]
        os.write(writer, str(private_bytes() - before).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return int(file.read())


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux's smaps")
def test_a_loaders_process_shares_the_memory():
    objects = [[{"id": i, "bbox": [1.0, 2.0, i, j]} for j in range(7)] for i in range(10_000)]
    packed = Packed(objects)
    listed = growth_in_a_fork(objects)
    assert listed > 5 * 2**20  # so that the test means something
    assert growth_in_a_fork(packed) < listed / 5
