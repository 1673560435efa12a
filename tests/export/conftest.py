"""What the tests of exporting share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """A folder with three small photographs of different sizes."""
    from sklearn.datasets import load_sample_image

    folder = tmp_path_factory.mktemp("images")
    for name, (height, width) in {"a": (97, 131), "b": (200, 150), "c": (113, 113)}.items():
        photograph = Image.fromarray(np.asarray(load_sample_image("china.jpg")))
        photograph.resize((width, height)).save(folder / f"{name}.png")
    return folder
