"""A short run of the fuzzer: damaged files are rejected, or hold what was loaded."""

from collections import Counter
from random import Random

import pytest
from fuzz.mutations import mutate
from fuzz.targets import TARGETS

INPUTS = 40


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_rejected_or_read_right(name, tmp_path):
    target, random = TARGETS[name], Random(name)
    good, damaged = tmp_path / "good.file", tmp_path / "damaged.file"
    good.write_bytes(target.good(tmp_path))
    assert target.attempt(good, good) == "loaded"
    outcomes = Counter()
    for _ in range(INPUTS):
        damaged.write_bytes(mutate(good.read_bytes(), random))
        outcomes[target.attempt(damaged, good)] += 1
    assert outcomes["rejected"], "the damage does nothing"
