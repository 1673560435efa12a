"""The tiny network with a head, as official arrays and as a file."""

import pytest
from official import official_arrays, write_official
from tiny_models import LABELS


@pytest.fixture(scope="package")
def arrays():
    return official_arrays(head=LABELS)


@pytest.fixture(scope="package")
def path(arrays, tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("official") / "tiny.npz", arrays)
