"""``bit-backbone features`` on photographs, good and bad."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_images import bomb, corrupt_chunk, sixteen_bits
from photographs import photograph
from PIL import Image
from safetensors.torch import load_file

from bit_backbone.backbone import BitBackbone
from bit_backbone.cli import main
from bit_backbone.preprocessing import BitImageProcessor
from bit_backbone.visualization import channel_mosaic


@pytest.fixture
def photos(tmp_path):
    paths = []
    for name in ("china@161x97", "page@97x65", "horse@64x64"):
        paths.append(tmp_path / f"{name.split('@')[0]}.png")
        photograph(name).save(paths[-1])
    return paths


def run(*arguments):
    return main(["features", *map(str, arguments)])


def test_maps_and_pictures_are_written_and_equal_the_backbones(photos, tmp_path, capsys):
    out = tmp_path / "made" / "here"
    assert run(*photos, "--out-indices", 1, 3, "--output", out, "--seed", 5) == 0
    told = capsys.readouterr().out
    assert "[1, 256, 25, 41]" in told
    assert f"3 of 3 photographs, 0 failed -> {out}\n" in told
    assert "random weights (seed 5); --weights BiT-M-R50x1 takes published ones\n" in told
    torch.manual_seed(5)
    backbone = BitBackbone(out_indices=[1, 3]).eval()
    pixels = BitImageProcessor(do_resize=False, do_center_crop=False)(
        Image.open(photos[0]), return_tensors="pt"
    )
    with torch.no_grad():
        expected = backbone(pixels["pixel_values"])
    maps = load_file(out / "china.safetensors")
    assert set(maps) == {"stage1", "stage3"}
    for name, feature in maps.items():
        whole = expected[name][0]
        torch.testing.assert_close(feature, whole, atol=4e-5 * float(whole.abs().max()), rtol=0)
    assert Image.open(out / "china_stage3.png").size == (2 * 161, 97)
    assert len(list(out.iterdir())) == 3 * 3


def test_pictures_of_an_earlier_run_are_removed_and_nothing_else(photos, tmp_path):
    out = tmp_path / "out"
    kinds = ("--pictures", "components", "mosaic", "norms")
    assert run(photos[0], "--output", out, "--out-indices", 1, 2, *kinds) == 0
    others = {out / name for name in ("china_notes.png", "china.png", "chinaware_stage2.png")}
    for path in others:
        path.touch()
    assert run(photos[0], "--output", out, "--out-indices", 1) == 0
    assert set(out.iterdir()) == others | {out / "china_stage1.png", out / "china.safetensors"}


def test_the_short_side_is_resized_and_phone_photographs_are_turned(photos, tmp_path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph("china@160x80").save(turned, exif=exif)
    out = tmp_path / "out"
    assert run(turned, "--out-features", "stage1", "--short-side", 32, "--output", out) == 0
    assert load_file(out / "turned.safetensors")["stage1"].shape == (256, 16, 8)


def test_every_picture(photos, tmp_path):
    out = tmp_path / "out"
    tool = [sys.executable, Path(__file__).parents[2] / "tools" / "visualize_features.py"]
    arguments = (photos[2], "--out-indices", "1", "2", "--short-side", "32", "--output", out)
    subprocess.run([*tool, *arguments], check=True, capture_output=True)
    pictures = {f"horse_{name}.png" for name in ("stage1", "stage2", "norms")}
    mosaics = {f"horse_{name}_mosaic.png" for name in ("stage1", "stage2")}
    assert {path.name for path in out.iterdir()} == pictures | mosaics | {"horse.safetensors"}
    feature = load_file(out / "horse.safetensors")["stage2"]
    drawn = np.asarray(Image.open(out / "horse_stage2_mosaic.png"))
    np.testing.assert_array_equal(drawn, np.asarray(channel_mosaic(feature, (32, 32))))
    assert run(photos[2], "--pictures", "norms", "--short-side", 32, "--output", tmp_path) == 0
    assert (tmp_path / "horse_norms.png").exists()
    assert not (tmp_path / "horse_stage1.png").exists()


def test_transparency_is_composited_on_white(tmp_path):
    pixels = np.zeros((48, 64, 4), np.uint8)  # black, seen through but for one square
    pixels[8:24, 8:24] = (200, 30, 60, 255)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    on_white = np.where(pixels[..., 3:] == 255, pixels[..., :3], 255).astype(np.uint8)
    Image.fromarray(on_white).save(tmp_path / "white.png")
    out = tmp_path / "out"
    arguments = ("--out-features", "stage1", "--output", out)
    assert run(tmp_path / "clear.png", tmp_path / "white.png", *arguments) == 0
    maps = [load_file(out / f"{name}.safetensors")["stage1"] for name in ("clear", "white")]
    torch.testing.assert_close(*maps, rtol=0, atol=0)
    seen = np.asarray(Image.open(out / "clear_stage1.png"))[:, :64]
    np.testing.assert_array_equal(seen, on_white)


def test_a_page_is_written_by_itself_or_beside_the_maps(photos, tmp_path, capsys):
    page, out = tmp_path / "new" / "page.html", tmp_path / "out"
    options = ("--short-side", 32, "--out-indices", 1, 2)
    assert run(photos[2], *options, "--html", page) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"new", *(path.name for path in photos)}
    text = page.read_text(encoding="utf-8")
    assert "<title>horse.png</title>" in text
    assert "R50x1 with random weights (seed 0)." in text
    assert f"0 failed -> {page}\n" in capsys.readouterr().out
    assert run(photos[2], *options, "--html", page, "--output", out) == 0
    assert f"0 failed -> {out}, {page}\n" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8") == text
    assert (out / "horse.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "features writes into --output DIR or --html FILE, got neither"),
        (("--html", "page.html"), "--html writes a page of one photograph, got 3; run it for each"),
    ],
)
def test_what_cannot_be_written(options, message, photos, capsys):
    assert run(*photos, *options) == 2
    assert message in capsys.readouterr().err


def test_a_page_that_would_be_too_large_skips_the_photograph(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("bit_backbone.visualization.explorer.MOST_BYTES", 20_000)
    page = tmp_path / "page.html"
    assert run(photos[0], "--html", page, "--out-indices", 1) == 3
    assert "a page takes at most 0.02 MB" in capsys.readouterr().err
    assert not page.exists()


def tiny(path):
    photograph("china@5x5").save(path)


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (corrupt_chunk, (), "bad.png is damaged or too large: broken PNG file"),
        (bomb, (), "bad.png is damaged or too large: Image size (900000000 pixels) exceeds"),
        (sixteen_bits, ("--bit-depth", "12"), "12 bits are at most 4095, got [0, 40000]"),
        (tiny, ("--global-padding", "valid"), "pixels high and wide, got [1, 3, 5, 5]"),
    ],
)
def test_one_bad_photograph_does_not_end_the_batch(
    write, options, message, photos, tmp_path, capsys
):
    bad, out = tmp_path / "bad.png", tmp_path / "out"
    write(bad)
    assert run(bad, photos[0], "--out-features", "stage1", *options, "--output", out) == 3
    told = capsys.readouterr()
    assert f"skipped {bad}: " in told.err
    assert message in told.err
    assert told.out.splitlines()[-1] == f"1 of 2 photographs, 1 failed -> {out}"
    assert {path.stem.split("_")[0] for path in out.iterdir()} == {"china"}


def test_bad_photographs_are_reported_and_the_others_still_done(photos, tmp_path, capsys):
    empty, text, truncated = (tmp_path / f"{n}.jpg" for n in ("empty", "text", "truncated"))
    empty.touch()
    text.write_text("<html>not a photograph</html>")
    photograph("china@161x97").save(truncated)
    truncated.write_bytes(truncated.read_bytes()[:900])
    missing = tmp_path / "missing.jpg"
    out = tmp_path / "out"
    assert run(empty, text, photos[0], truncated, missing, "--output", out) == 3
    told = capsys.readouterr()
    for path in (empty, text, truncated, missing):
        assert f"skipped {path}" in told.err
    assert told.out.splitlines()[-1] == f"1 of 5 photographs, 4 failed -> {out}"
    assert f"No such file or directory: '{missing}'" in told.err
    assert {path.stem.split("_")[0] for path in out.iterdir()} == {"china"}


def test_outputs_that_would_overwrite_each_other_are_rejected(photos, tmp_path, capsys):
    assert run(photos[0], tmp_path / "other" / "china.jpg", "--output", tmp_path / "out") == 2
    assert "would both be 'china'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_a_folder_is_an_error(photos, capsys):
    assert run(photos[0], "--output", photos[1]) == 2
    assert "bit-backbone: error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--out-indices", 7), r"must be in [-5, 4]"),
        (("--variant", "R18"), "a BiT variant must be one of"),
    ],
)
def test_bad_options_exit_with_2(option, message, photos, tmp_path, capsys):
    assert run(photos[0], *option, "--output", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
