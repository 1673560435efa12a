"""Images of 16 bits and of floating point, in every kind of file that has them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from deep_images import write_pgm, write_png
from PIL import Image

from bit_backbone import BitImageProcessor
from bit_backbone.datasets.coco.headers import size_of
from bit_backbone.datasets.semantic import SemanticFolder
from bit_backbone.preprocessing import deep
from bit_backbone.preprocessing.deep import check_depth
from bit_backbone.preprocessing.images import decode, header_size, read

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
SEPARATE = {"photometric": "rgb", "planarconfig": "separate"}
PLANES = np.moveaxis(FULL, -1, 0)


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
        (tiff(PLANES, **SEPARATE), "auto", scaled(FULL, 65535)),
        (tiff(np.moveaxis(COLOUR, -1, 0), **SEPARATE), 12, scaled(COLOUR, 4095)),
        (tiff((COLOUR / 4095).astype(np.float32), **RGB), "auto", scaled(COLOUR, 4095)),
        (tiff((PLANES / 65535).astype(np.float32), **SEPARATE), "auto", scaled(FULL, 65535)),
        (tiff((COLOUR / 4095).astype(np.float64), **RGB), "auto", scaled(COLOUR, 4095)),
        (tiff((COLOUR / 4095).astype(">f4"), byteorder=">", **RGB), "auto", scaled(COLOUR, 4095)),
        (tiff((COLOUR / 4095).astype("f4"), bigtiff=True, **RGB), "auto", scaled(COLOUR, 4095)),
        (tiff(COLOUR.astype(np.float32), compression="zlib", **RGB), 12, scaled(COLOUR, 4095)),
        (tiff(COLOUR.astype(np.uint32), **RGB), 12, scaled(COLOUR, 4095)),
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
        (tiff(PLANES, **SEPARATE), 12, r"12 bits are at most 4095, got \[.*\] in .*a.tif; pass"),
        (tiff(COLOUR.astype(np.float32), **RGB), "auto", r"floats lie in \[0, 1\], got"),
        (tiff(np.full((4, 4, 3), np.nan, np.float32), **RGB), "auto", r"got \[nan, nan\]"),
        (tiff(COLOUR.astype(np.uint32), **RGB), "auto", "got uint32, of which some will not"),
        (tiff(np.zeros((4, 4, 6), np.float32), planarconfig="contig"), "auto", "1 to 4 channels"),
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


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_an_orientation_is_followed(kind, upright: bool, orientation: int, tmp_path: Path) -> None:
    pixels = (COLOUR >> 4 if kind == np.uint8 else COLOUR).astype(kind)
    tag = (274, 3, 1, orientation, True)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[tag])
    image = decode(tmp_path / "a.tif", "a.tif", 12, upright)
    expected = pixels if kind == np.uint8 else scaled(COLOUR, 4095)
    turns = {1: 0, 3: 2, 6: -1}[orientation] if upright else 0
    assert np.array_equal(np.asarray(image), np.rot90(expected, turns))
    width, height = size_of(tmp_path / "a.tif", upright)
    assert (height, width) == image.size[::-1]


def test_without_tifffile_a_message_says_how_to_get_it(tmp_path: Path, monkeypatch) -> None:
    path = tiff((COLOUR / 4095).astype(np.float32), **RGB)(tmp_path)
    assert header_size(path) == (30, 20)
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    assert header_size(path) is None
    with pytest.raises(ValueError, match=r"a.tif, a TIFF that Pillow cannot read, needs tifffile"):
        read(path, True, None, 255.0)


def test_a_tiff_that_is_cut_off_or_huge_is_no_image(tmp_path: Path, monkeypatch) -> None:
    path = tiff((COLOUR / 4095).astype(np.float32), **RGB)(tmp_path)
    whole = path.read_bytes()
    for length in (4, 8, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises((ValueError, OSError), match=r"a\.tif|failed to read"):
            decode(path, str(path))
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(ValueError, match="600 pixels, more than the limit of 598"):
        decode(path, str(path))


@pytest.mark.parametrize(
    ("pixels", "bit_depth", "expected"),
    [
        (FULL, "auto", scaled(FULL, 65535)),
        (COLOUR, 12, scaled(COLOUR, 4095)),
        (np.moveaxis(COLOUR, -1, 0), 12, scaled(COLOUR, 4095)),
        (torch.from_numpy(COLOUR), 12, scaled(COLOUR, 4095)),
        (COLOUR.astype(np.int64), 12, scaled(COLOUR, 4095)),
        ((COLOUR // 16).astype(np.int32), 8, COLOUR // 16),
        (np.repeat(GREY[..., None], 3, axis=-1), 14, scaled(GREY, 16383)[..., None]),
        (GREY, 14, scaled(GREY, 16383)[..., None]),
    ],
)
def test_arrays_of_16_bits_are_read_as_files_are(pixels, bit_depth, expected) -> None:
    processor = BitImageProcessor(do_resize=False, do_center_crop=False, do_normalize=False)
    values = processor(pixels, bit_depth=bit_depth, return_tensors="np")["pixel_values"][0]
    assert np.allclose(np.moveaxis(values, 0, -1) * 255, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (FULL, r"12 bits are at most 4095, got \[.*\] in the image; pass bit_depth=16"),
        (COLOUR.astype(np.int16) - 5000, r"12 bits are at most 4095, got \[-"),
    ],
)
def test_arrays_beyond_their_depth(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitImageProcessor(bit_depth=12)(pixels)


def test_the_processor_keeps_its_bit_depth(tmp_path: Path) -> None:
    BitImageProcessor(bit_depth=12).save_pretrained(tmp_path)
    assert BitImageProcessor.from_pretrained(tmp_path).bit_depth == 12
    assert "bit_depth" not in BitImageProcessor().to_dict()


@pytest.mark.parametrize("value", [0, 33, "12", True, 1.5, None])
def test_a_depth_that_is_none(value) -> None:
    with pytest.raises(ValueError, match="from 1 to 32, got"):
        check_depth(value)


def test_it_is_said_once(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(deep, "_REPORTED", bytearray(1))
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
