"""Tiny networks of random weights, and photographs, for the page."""

from pathlib import Path

import pytest
import torch
from browser import launched
from networks import TINY, randomise
from photographs import photograph

from bit_backbone import BitConfig, BitForImageClassification


@pytest.fixture(scope="module")
def browser():
    """A browser without pages."""
    with launched() as running:
        yield running


@pytest.fixture(scope="session")
def classifier(tmp_path_factory) -> Path:
    """A tiny classifier of three classes, in a folder."""
    torch.manual_seed(1)
    names = {0: "cat", 1: "dog", 2: "<bird>"}
    config = BitConfig(**TINY, num_labels=3, id2label=names)
    folder = tmp_path_factory.mktemp("classifier") / "animals"
    randomise(BitForImageClassification(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory) -> Path:
    """Another, with other weights."""
    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("other") / "plants"
    config = BitConfig(**TINY, num_labels=2)
    randomise(BitForImageClassification(config)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of photographs: two that can be read, and what is no image."""
    folder = tmp_path_factory.mktemp("images")
    photograph("china@200x150").save(folder / "a.png")
    photograph("flower@180x160").save(folder / "b.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder
