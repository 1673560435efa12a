"""What the tests of exporting share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with three small images of different sizes, of noise: no two places are equal.

    In the even sky of a photograph an untrained detector has many equal scores.
    """
    folder = tmp_path_factory.mktemp("images")
    for name, (height, width) in {"a": (97, 131), "b": (200, 150), "c": (113, 113)}.items():
        noise = np.random.default_rng(ord(name)).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder
