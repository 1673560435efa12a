"""Images of 16 bits and of floating point, in every kind of file that has them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from deep_images import write_pgm, write_png
from PIL import Image

from bit_backbone import BitImageProcessor
from bit_backbone.datasets.semantic import SemanticFolder
from bit_backbone.preprocessing import deep
from bit_backbone.preprocessing.deep import check_depth
from bit_backbone.preprocessing.images import decode, read

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4096, (20, 30), np.uint16)
COLOUR = RNG.integers(0, 4096, (20, 30, 3), np.uint16)
FULL = RNG.integers(0, 65536, (20, 30, 3), np.uint16)
ALPHA = np.concatenate([FULL, np.full((20, 30, 1), 65535, np.uint16)], axis=-1)


def tiff(pixels: np.ndarray, **options) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        tifffile.imwrite(folder / "a.tif", pixels, **options)
        return folder / "a.tif"

    return write


def png(pixels: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: write_png(folder / "a.png", pixels)


def scaled(pixels: np.ndarray, largest: float) -> np.ndarray:
    return np.rint(pixels.astype(float) * 255 / largest)


RGB = {"photometric": "rgb"}


@pytest.mark.parametrize(
    ("write", "bit_depth", "expected"),
    [
        (png(GREY), "auto", scaled(GREY, 65535)),
        (png(GREY), 12, scaled(GREY, 4095)),
        (png(GREY), 14, scaled(GREY, 16383)),
        (png(COLOUR), 12, scaled(COLOUR, 4095)),
        (png(FULL), "auto", scaled(FULL, 65535)),
        (png(ALPHA), "auto", scaled(FULL, 65535)),
        (tiff(GREY), 12, scaled(GREY, 4095)),
        (tiff(GREY.astype(">u2"), byteorder=">"), 12, scaled(GREY, 4095)),
        (tiff(COLOUR, **RGB), 12, scaled(COLOUR, 4095)),
        (tiff(FULL, **RGB), "auto", scaled(FULL, 65535)),
        (tiff(FULL.astype(">u2"), byteorder=">", **RGB), "auto", scaled(FULL, 65535)),
        (tiff(FULL, compression="zlib", **RGB), "auto", scaled(FULL, 65535)),
        (tiff(GREY.astype(np.int32)), 12, scaled(GREY, 4095)),
        (tiff((GREY / 4095).astype(np.float32)), "auto", scaled(GREY, 4095)),
        (tiff(GREY.astype(np.float32)), 12, scaled(GREY, 4095)),
        (lambda f: write_pgm(f / "a.pgm", GREY, 4095), "auto", scaled(GREY, 4095)),
        (lambda f: write_pgm(f / "a.pgm", GREY, 4095), 12, scaled(GREY, 4095)),
    ],
)
def test_a_deep_file(write, bit_depth, expected: np.ndarray, tmp_path: Path) -> None:
    image = read(write(tmp_path), True, None, 255.0, bit_depth)
    assert image.mode == "RGB"
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=-1)
    difference = np.abs(np.asarray(image, float) - expected)
    assert difference.max() <= (1 if str(write(tmp_path)).endswith("pgm") else 0)


@pytest.mark.parametrize(
    ("write", "bit_depth", "message"),
    [
        (png(GREY), 10, r"10 bits are at most 1023, got \[.*\] in .*a.png; pass bit_depth=12"),
        (tiff(GREY.astype(np.int32)), "auto", "got 32 bits.*: pass bit_depth=16 if 16 are"),
        (tiff(GREY.astype(np.float32)), "auto", r"floats lie in \[0, 1\], got \[0, 40"),
        (tiff(np.full((4, 4), np.nan, np.float32)), "auto", r"floats lie in \[0, 1\], got \[nan"),
        (tiff(np.full((4, 4), -0.5, np.float32)), "auto", r"got \[-0.5, 0\]"),
        (tiff(np.moveaxis(FULL, -1, 0), planarconfig="separate", **RGB), "auto", "in an order"),
        (png(ALPHA[..., 2:]), 12, "16 bits in an order that cannot be read"),
    ],
)
def test_what_cannot_be_scaled(write, bit_depth, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path), True, None, 255.0, bit_depth)


def test_grey_with_transparency_is_read_by_its_upper_bytes(tmp_path: Path) -> None:
    image = decode(write_png(tmp_path / "a.png", ALPHA[..., 2:]), "a.png")
    grey = np.asarray(image.convert("RGBA"))[..., 0]
    assert np.abs(grey - scaled(ALPHA[..., 2], 65535)).max() <= 1


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_images_in_memory(mode: str) -> None:
    image = Image.new(mode, (5, 5), 3000)
    pixels = BitImageProcessor(do_normalize=False, bit_depth=12)(image)["pixel_values"][0]
    assert np.allclose(pixels, round(3000 * 255 / 4095) / 255)
    if mode != "I":
        assert np.asarray(read(image, True, None, 255.0)).max() == round(3000 * 255 / 65535)


def test_an_orientation_is_followed(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOUR, photometric="rgb", extratags=[
        (274, 3, 1, 6, True)])  # fmt: skip
    image = decode(tmp_path / "a.tif", "a.tif", 12)
    assert np.array_equal(np.asarray(image), np.rot90(scaled(COLOUR, 4095), -1))


def test_the_processor_keeps_its_bit_depth(tmp_path: Path) -> None:
    BitImageProcessor(bit_depth=12).save_pretrained(tmp_path)
    assert BitImageProcessor.from_pretrained(tmp_path).bit_depth == 12
    assert "bit_depth" not in BitImageProcessor().to_dict()


@pytest.mark.parametrize("value", [0, 33, "12", True, 1.5, None])
def test_a_depth_that_is_none(value) -> None:
    with pytest.raises(ValueError, match="from 1 to 32, got"):
        check_depth(value)


def test_it_is_said_once(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(deep, "_TOLD", bytearray(1))
    path = write_png(tmp_path / "a.png", GREY)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            decode(path, str(path))
    (record,) = caplog.records
    told = record.getMessage()
    assert "scaled to 8 bits, 65535 being white: the largest value of the first" in told
    assert f"{path}, is {GREY.max()}; pass bit_depth=12" in told


def test_maps_of_ids_are_not_scaled(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.uint16)
    ids[5:] = 700
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
        write_png(tmp_path / name / "a.png", ids)
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 30, "height": 20}],
        "annotations": [],
        "categories": [{"id": 3, "name": "cat"}, {"id": 700, "name": "dog"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    labels = SemanticFolder(tmp_path, maps="maps")[0][1]["semantic"]
    assert labels.unique().tolist() == [0, 2]
