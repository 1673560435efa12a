"""A small network, and real image files."""

import pytest
from extraction_outputs import write_images
from networks import tiny


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def backbone():
    return tiny(out_indices=[1, 3]).eval()
