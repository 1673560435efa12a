"""BitImageProcessor: inputs, settings, files and every error, without any other library."""

import inspect
import json
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image

from bit_backbone.checkpoints import catalog
from bit_backbone.preprocessing import (
    PRESETS,
    BatchFeature,
    BitImageProcessor,
    images,
    settings,
)
from bit_backbone.preprocessing.images import decode

RGB = np.asarray(photograph("chelsea@61x47"))  # [47, 61, 3] uint8
KEEP = {"do_resize": False, "do_center_crop": False}
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
RAW = {**KEEP, "do_rescale": False, "do_normalize": False}


def pixels(image, **settings):
    return BitImageProcessor(**settings)(image, return_tensors="np")["pixel_values"]


def test_defaults():
    out = BitImageProcessor()(photograph("china"), return_tensors="pt")
    assert out.pixel_values.shape == (1, 3, 224, 224)
    assert out.pixel_values.dtype == torch.float32
    assert -1 <= out.pixel_values.min() < 0 < out.pixel_values.max() <= 1


def test_equal_whatever_holds_the_pixels(tmp_path):
    expected = pixels(Image.fromarray(RGB))
    Image.fromarray(RGB).save(tmp_path / "cat.png")
    first = np.moveaxis(RGB, -1, 0)
    for image in (
        RGB,
        first,
        torch.from_numpy(RGB.copy()),
        torch.from_numpy(first.copy()).requires_grad_(False),
        [RGB],
        [[RGB]],
        RGB[None],
        RGB[:, ::-1][:, ::-1],
        tmp_path / "cat.png",
        str(tmp_path / "cat.png"),
    ):
        np.testing.assert_array_equal(pixels(image), expected)


def test_files_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to view
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(pixels(tmp_path / "turned.png"), pixels(np.rot90(RGB, -1)))


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken PNG file"),
        EOFError("no more images"),
        TypeError("'float' object cannot be interpreted as an integer"),
        struct.error("unpack requires 4 bytes"),
        Image.DecompressionBombError("exceeds limit"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_pillow_raises_for_a_bad_file_becomes_a_value_error(error, tmp_path, monkeypatch):
    path = tmp_path / "cat.png"
    Image.fromarray(RGB).save(path)

    def fail(*_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ValueError, match=rf"cat\.png is damaged or too large: {error}"):
        BitImageProcessor()(path)


def test_a_length_in_a_damaged_file_is_not_allocated(tmp_path):
    """Behind the pixels, Pillow reads what is left of their chunk by the length it tells."""
    path = tmp_path / "cat.png"
    Image.fromarray(RGB).save(path)
    content = path.read_bytes()
    at = content.index(b"IDAT")
    path.write_bytes(content[: at - 4] + struct.pack(">I", 2**30) + content[at:])
    tracemalloc.start()
    try:
        decode(path, "cat.png")
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_batches_and_layouts():
    batch = [photograph("china"), photograph("page"), RGB]
    first = BitImageProcessor()(batch, return_tensors="pt").pixel_values
    last = BitImageProcessor()(batch, return_tensors="np", data_format="channels_last")
    assert first.shape == (3, 3, 224, 224)
    assert last.pixel_values.shape == (3, 224, 224, 3)
    assert last.pixel_values.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(first.numpy(), np.moveaxis(last.pixel_values, -1, 1))
    ragged = BitImageProcessor(**KEEP)(batch)["pixel_values"]
    assert [image.shape for image in ragged] == [(3, 427, 640), (3, 191, 384), (3, 47, 61)]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ({"shortest_edge": 30}, (30, 38)),
        ({"shortest_edge": 30, "longest_edge": 39}, (30, 38)),
        ({"shortest_edge": 30, "longest_edge": 38}, (29, 38)),  # 38.9 would be too long
        ({"shortest_edge": 30, "longest_edge": 37}, (29, 37)),
        ({"shortest_edge": 47, "longest_edge": 60}, (46, 60)),
        ({"shortest_edge": 900, "longest_edge": 1}, (1, 1)),
        ({"max_height": 94, "max_width": 70}, (53, 70)),
        ({"max_height": 94, "max_width": 900}, (94, 122)),
        ({"max_height": 1, "max_width": 1}, (1, 1)),
        ({"height": 9, "width": 50}, (9, 50)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_sizes(size, shape, turned):
    image, other = (RGB.transpose(1, 0, 2), shape[::-1]) if turned else (RGB, shape)
    if turned and "max_height" in size:
        size = {"max_height": size["max_width"], "max_width": size["max_height"]}
    if turned and "height" in size:
        size = {"height": size["width"], "width": size["height"]}
    for given in (image, image / np.float32(1), Image.fromarray(image)):
        assert pixels(given, size=size, do_center_crop=False).shape == (1, 3, *other)


def test_an_integer_is_a_square_where_asked():
    settings = {"do_center_crop": False, "return_tensors": "np"}
    for image in (
        BitImageProcessor(default_to_square=True)(RGB, size=50, **settings),
        BitImageProcessor(size=50, default_to_square=True)(RGB, **settings),
        BitImageProcessor()(RGB, size=50, default_to_square=True, **settings),
        BitImageProcessor.from_dict({"size": 50, "default_to_square": True})(RGB, **settings),
    ):
        assert image.pixel_values.shape == (1, 3, 50, 50)
    # what is no integer stays what it is
    assert BitImageProcessor(default_to_square=True).size == {"shortest_edge": 224}
    assert BitImageProcessor(size=9).replace(default_to_square=True).size == {"shortest_edge": 9}


@pytest.mark.parametrize("raw", [{}, RAW], ids=["normalised", "bytes"])
def test_padding_appends_zeros_last(raw):
    batch, shape = [RGB, RGB[:40, :9]], {**KEEP, **raw}
    alone = BitImageProcessor(**shape)(batch)["pixel_values"]
    padded = pixels(batch, do_pad=True, **shape)
    assert padded.shape == (2, 3, 47, 61)
    np.testing.assert_array_equal(padded[0], alone[0])
    np.testing.assert_array_equal(padded[1, :, :40, :9], alone[1])
    assert not padded[1, :, 40:].any()
    assert not padded[1, :, :, 9:].any()
    wide = pixels(batch, do_pad=True, pad_size=(50, 70), **shape)
    np.testing.assert_array_equal(wide[:, :, :47, :61], padded)
    assert wide.shape == (2, 3, 50, 70)
    assert not wide[:, :, 47:].any()
    # the size alone does not pad, as crop_size alone does not crop
    assert pixels(RGB, pad_size=99, **shape).shape == (1, 3, 47, 61)


def test_results_are_where_the_device_says():
    processor = BitImageProcessor(return_tensors="pt", device="meta")
    assert processor(RGB).pixel_values.device.type == "meta"
    values = processor(RGB, device="cpu").pixel_values
    np.testing.assert_array_equal(values.numpy(), pixels(RGB))
    listed = BitImageProcessor(**KEEP)([RGB, RGB[1:]], device=torch.device("meta")).pixel_values
    assert [(image.device.type, *image.shape) for image in listed] == [
        ("meta", 3, 47, 61), ("meta", 3, 46, 61),
    ]  # fmt: skip
    assert isinstance(pixels(RGB, device="cpu"), np.ndarray)


def test_tensors_of_another_device_go_back_to_it():
    cpu, elsewhere = torch.empty(5, 5), torch.empty(5, 5, device="meta")
    assert images.common_device([elsewhere, elsewhere]).type == "meta"
    for mixed in ([cpu], [cpu, elsewhere], [elsewhere, RGB], [RGB], ["cat.png"]):
        assert images.common_device(mixed).type == "cpu"


def test_what_a_call_may_say_a_processor_may_say_for_all():
    options = {"return_tensors": "np", "data_format": "channels_last",
               "input_data_format": "channels_first", "disable_grouping": True,
               "image_seq_length": 49}  # fmt: skip
    image = np.ascontiguousarray(np.moveaxis(RGB, -1, 0))
    expected = BitImageProcessor()(image, **options).pixel_values
    processor = BitImageProcessor(**options)
    np.testing.assert_array_equal(processor(image).pixel_values, expected)
    assert {name: getattr(processor, name) for name in options} == options
    np.testing.assert_array_equal(np.moveaxis(expected, -1, 1), pixels(RGB))


def test_overrides_hold_for_one_call_only():
    processor = BitImageProcessor()
    small = processor.preprocess(RGB, crop_size=32, size=(40, 50), return_tensors="np")
    assert small.pixel_values.shape == (1, 3, 32, 32)
    raw = processor(RGB, do_resize=False, do_center_crop=False, do_rescale=False,
                    do_normalize=False, return_tensors="np")  # fmt: skip
    np.testing.assert_array_equal(raw.pixel_values[0], np.moveaxis(RGB, -1, 0))
    assert raw.pixel_values.dtype == np.uint8
    assert processor == BitImageProcessor()


def test_attributes_may_be_set():
    processor = BitImageProcessor()
    processor.size, processor.crop_size = 64, 48
    assert processor(RGB, return_tensors="pt").pixel_values.shape == (1, 3, 48, 48)
    processor.resample = "sharp"
    with pytest.raises(ValueError, match="resample must be one of nearest"):
        processor(RGB)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, torch.bfloat16])
def test_floats_equal_bytes_where_nothing_is_interpolated(dtype):
    if isinstance(dtype, torch.dtype):
        image = torch.from_numpy(RGB.copy()).to(dtype)
    else:
        image = RGB.astype(dtype)
    np.testing.assert_array_equal(pixels(image, **KEEP), pixels(RGB, **KEEP))
    scaled = RGB.astype(np.float32) / 255
    np.testing.assert_allclose(
        pixels(scaled, do_rescale=False, **KEEP), pixels(RGB, **KEEP), atol=1e-6
    )


@pytest.mark.parametrize("resample", FILTERS)
def test_interpolated_floats_are_near_the_bytes(resample):
    settings = {"size": 67, "crop_size": 61, "resample": resample, "do_normalize": False}
    floats = pixels(RGB.astype(np.float32), **settings)
    # Pillow rounds and clips bytes after each of its two passes, floats not at all
    assert np.abs(floats - pixels(RGB, **settings)).max() <= 2 / 255


@pytest.mark.parametrize("resample", FILTERS)
def test_interpolated_floats_stay_legal(resample):
    checks = (np.indices((45, 37)).sum(0) // 3 % 2).astype(np.float32)  # bicubic overshoots here
    floats = pixels(checks, do_rescale=False, resample=resample, do_normalize=False)
    assert (floats.min(), floats.max()) == (0, 1)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_channel_counts_pass_unconverted(channels):
    image = np.random.default_rng(0).integers(0, 256, (40, 30, channels), np.uint8)
    settings = {"do_convert_rgb": False, "input_data_format": "channels_last", "size": 20,
                "crop_size": 16, "image_mean": [0.5] * channels, "image_std": 0.5}  # fmt: skip
    out = BitImageProcessor()(image, return_tensors="np", **settings).pixel_values
    assert out.shape == (1, channels, 16, 16)
    for c in range(channels):
        alone = BitImageProcessor()(image[..., c], return_tensors="np",
                                    **{**settings, "image_mean": 0.5})  # fmt: skip
        np.testing.assert_array_equal(out[:, c], alone.pixel_values[:, 0])


def test_transparency_is_composited_on_white():
    clear = np.zeros((5, 5, 4), np.uint8)
    half = np.full((5, 5, 4), 128, np.uint8)
    assert (pixels(clear, **RAW) == 255).all()
    assert (pixels(half, **RAW) == round(128 * 128 / 255 + 127)).all()
    np.testing.assert_allclose(
        pixels(half.astype(np.float32) / 255, **RAW), pixels(half, **RAW) / 255, atol=0.5 / 255
    )
    palette = pixels(photograph("palette_alpha"), **RAW)
    opaque = pixels(photograph("palette"), **RAW)
    see_through = np.asarray(photograph("palette_alpha")) == 3
    assert see_through.any()
    assert (palette[0][:, see_through] == 255).all()
    np.testing.assert_array_equal(palette[0][:, ~see_through], opaque[0][:, ~see_through])


def test_a_bilevel_image_has_two_levels():
    assert set(np.unique(pixels(photograph("bilevel"), **RAW))) == {0, 255}
    assert set(np.unique(pixels(photograph("bilevel"), do_convert_rgb=False, **RAW))) == {0, 255}


@pytest.mark.parametrize(
    ("length", "crop", "even", "down"),
    [(9, 9, 0, 0), (10, 9, 0, 0), (11, 9, 1, 1), (12, 9, 2, 1), (13, 9, 2, 2), (7, 9, -1, -1),
     (6, 9, -1, -2)],
)  # fmt: skip
@pytest.mark.parametrize("rounding", ["even", "down"])
def test_crop_offset(length, crop, even, down, rounding):
    offset = {"even": even, "down": down}[rounding]
    ramp = np.tile(np.arange(1, length + 1, dtype=np.uint8), (crop, 1))
    row = pixels(ramp, crop_size=crop, do_center_crop=True, crop_rounding=rounding,
                 **{k: False for k in RAW if k != "do_center_crop"})[0, 0, 0]  # fmt: skip
    expected = [i + offset + 1 if 0 <= i + offset < length else 0 for i in range(crop)]
    assert row.tolist() == expected


def test_the_callers_array_is_left_alone():
    image = RGB.astype(np.float32)
    image.flags.writeable = False
    out = pixels(image, **RAW | {"do_rescale": True, "rescale_factor": 1.0})
    out += 1
    np.testing.assert_array_equal(image, RGB)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "at least one image is needed"),
        (3, "a PIL image, a numpy array, a torch tensor or a path, got int"),
        ([RGB, None], "a PIL image, a numpy array, a torch tensor or a path, got NoneType"),
        ("https://example.com/cat.jpg", "local files: download https://example.com/cat.jpg and"),
        (np.zeros(5, np.uint8), r"2 or 3 dimensions, and a batch 4, got shape \(5,\)"),
        (np.zeros((2, 3, 4, 5, 6), np.uint8), "got shape"),
        (np.zeros((0, 5, 3), np.uint8), r"at least one pixel, got shape \(0, 5, 3\)"),
        (Image.new("RGB", (0, 5)), r"at least one pixel, got \(width, height\) = \(0, 5\)"),
        (RGB.astype(np.int64), "got int64, of which some will not be used: pass bit_depth=16"),
        (RGB > 9, "integers or floating point, got bool"),
        (torch.zeros(5, 5, dtype=torch.int32), "got int32, of which some will not be used"),
        (RGB.astype(np.complex64), "integers or floating point, got complex64"),
        (Image.new("I", (5, 5)), "got 32 bits, of which some will not be used"),
        (np.zeros((9, 9, 5), np.uint8), r"found by its length.*shape \(9, 9, 5\) has none"),
        (np.zeros((3, 9, 4), np.uint8), r"shape \(3, 9, 4\) has two such axes"),
        (RGB / 255, r"mean \[0, 255\], but all of these lie in \[0.*do_rescale=False"),
        (Image.fromarray(RGB[..., 0] / np.float32(255)), r"mean \[0, 255\], but all of these lie"),
        (RGB - 128.0, r"lie in \[0, 255\], got \[-\d+, "),
        (RGB * 2.0, r"lie in \[0, 255\], got .*; do_rescale=True means"),
        (np.full((5, 5), np.nan), r"got \[nan, nan\]"),
    ],
)
def test_images_that_are_rejected(image, message):
    with pytest.raises(ValueError, match=message):
        BitImageProcessor()(image)


@pytest.mark.parametrize(
    ("image", "overrides", "message"),
    [
        (RGB * 1.0, {"do_rescale": False}, r"lie in \[0, 1\], got \[.*do_rescale=False \[0, 1\]$"),
        (photograph("palette"), {"do_convert_rgb": False}, "palette image are indices"),
        (RGB[..., :2], {"input_data_format": "channels_last"}, "1 .grey., 3 .RGB. or 4 .RGBA. .*2"),
        (
            RGB[..., :1],
            {"do_convert_rgb": False},
            "image_mean must be one number.* 1 channels, got 3",
        ),
        (RGB, {"image_std": (1.0, 2.0)}, "image_std must be one number.* 3 channels, got 2"),
        ([RGB, RGB[1:]], {"return_tensors": "pt", **KEEP}, "images of one shape, got"),
        (RGB, {"return_tensors": "tf"}, "return_tensors must be one of 'pt', 'np', None, got 'tf'"),
        (
            RGB,
            {"data_format": "NCHW"},
            "data_format must be one of 'channels_first', .* got 'NCHW'",
        ),
        (RGB, {"input_data_format": 3}, "input_data_format must be one of"),
        (
            RGB,
            {"size": {"longest_edge": 3}},
            r"size must be an int, \(h, w\) or .*shortest_edge.*, got",
        ),
        (RGB, {"size": 0}, "size must be in whole pixels, at least 1, got shortest_edge = 0"),
        (RGB, {"size": 22.5}, r"size must be an int, .* got 22\.5"),
        (RGB, {"size": True}, "at least 1, got shortest_edge = True"),
        (RGB, {"size": (3, 4, 5)}, "size must be an int"),
        (
            RGB,
            {"size": {"shortest_edge": 3, "max_height": 3}},
            "size must be an int.* 'longest_edge': m",
        ),
        (RGB, {"pad_size": {"shortest_edge": 3}}, "pad_size must be an int, .*'height'.*, got"),
        (
            RGB,
            {"do_pad": True, "pad_size": (300, 223)},
            r"every image, got \{'height': 300, 'width': 223\} for an image of 224 x 224: pad more",
        ),
        (RGB, {"device": "gpu"}, "device must be a torch.device, the name of one.* got 'gpu'"),
        (RGB, {"device": 1.5}, r"device must be a torch.device, .* got 1\.5"),
        (
            RGB,
            {"device": "meta", "return_tensors": "np"},
            "in the memory of the CPU, got device 'm",
        ),
        (RGB, {"default_to_square": 1}, "default_to_square must be True or False, got 1"),
        (RGB, {"disable_grouping": "no"}, "disable_grouping must be True or False, got 'no'"),
        (RGB, {"image_seq_length": "9"}, "image_seq_length must be a whole number .* got '9'"),
        (RGB, {"crop_size": {"shortest_edge": 3}}, "crop_size must be an int, .*'height'.*, got"),
        (RGB, {"resample": 9}, r"resample must be one of nearest \(0\), .* got 9"),
        (RGB, {"resample": "cubic"}, "resample must be one of .* got 'cubic'"),
        (RGB, {"do_resize": "no"}, "do_resize must be True or False, got 'no'"),
        (RGB, {"rescale_factor": -1}, "rescale_factor must be a positive number, .* got -1"),
        (RGB, {"rescale_factor": float("inf")}, "rescale_factor must be a positive number"),
        (RGB, {"image_mean": []}, r"image_mean must be a number, or one per channel, got \[\]"),
        (RGB, {"image_mean": "clip"}, "image_mean must be a number"),
        (
            RGB,
            {"image_std": (1, 0, 1)},
            r"image_std must be positive in every channel, got \(1, 0, 1\)",
        ),
    ],
)
def test_calls_that_are_rejected(image, overrides, message):
    with pytest.raises(ValueError, match=message):
        BitImageProcessor()(image, **overrides)


def test_an_unknown_setting_is_a_type_error():
    with pytest.raises(TypeError, match="do_flip"):
        BitImageProcessor()(RGB, do_flip=True)


@pytest.mark.parametrize(
    ("form", "settings"),
    [
        ({"size": 50}, {"size": {"shortest_edge": 50}}),
        ({"size": [50, 60]}, {"size": {"height": 50, "width": 60}}),
        ({"crop_size": 50}, {"crop_size": {"height": 50, "width": 50}}),
        ({"resample": "bilinear"}, {"resample": Image.Resampling.BILINEAR}),
        ({"resample": 0}, {"resample": Image.Resampling.NEAREST}),
        ({"image_mean": 0.25}, {"image_mean": 0.25}),
        ({"image_std": [1, 2, 3]}, {"image_std": (1.0, 2.0, 3.0)}),
    ],
)
def test_settings_have_one_form(form, settings):
    processor = BitImageProcessor(**form)
    assert {name: getattr(processor, name) for name in settings} == settings
    assert BitImageProcessor(**settings) == processor


def test_interpolation_mode_of_torchvision_is_a_filter():
    from torchvision.transforms import InterpolationMode

    assert BitImageProcessor(resample=InterpolationMode.LANCZOS).resample == Image.LANCZOS


def test_batch_feature():
    batch = BatchFeature(pixel_values=torch.ones(2), name="cat")
    assert batch.to(torch.float64) is batch
    assert batch.pixel_values.dtype == torch.float64
    assert dict(batch)["name"] == "cat"
    with pytest.raises(AttributeError, match="no entry 'labels', only"):
        _ = batch.labels


@pytest.mark.parametrize("name", PRESETS)
def test_presets_give_squares_of_their_size(name):
    processor = BitImageProcessor.from_preset(name)
    side = processor.crop_size["height"]
    out = processor([photograph("china"), photograph("page")], return_tensors="pt").pixel_values
    assert out.shape == (2, 3, side, side)
    assert (processor.image_mean, processor.image_std) == ((0.5,) * 3, (0.5,) * 3)


def test_presets_take_overrides_and_refuse_unknown_names():
    assert BitImageProcessor.from_preset("official", resample="bicubic").resample == Image.BICUBIC
    with pytest.raises(ValueError, match=r"'imagenet' is neither a preset \(official, official_sm"):
        BitImageProcessor.from_preset("imagenet")
    with pytest.raises(ValueError, match=r"did you mean the checkpoint .*'BiT-M-R50x1'"):
        BitImageProcessor.from_preset("BiT-M-R50x")


@pytest.mark.parametrize(
    ("checkpoint", "preset"),
    [
        ("BiT-M-R50x1", "official"),
        ("BiT-S-R152x4.npz", "official"),
        ("BiT-M-R101x3-ILSVRC2012", "official"),
        ("vtab/BiT-M-R50x1-run0-dtd", "official"),
        ("distill/R50x1_224", "timm_distilled"),
        ("distill/R50x1_160", "distilled_160"),
        ("timm/resnetv2_50x1_bit.goog_in21k", "timm_in21k"),
        ("resnetv2_50x1_bitm", "timm_448"),
        ("resnetv2_152x4_bit.goog_in21k_ft_in1k", "timm_480"),
        ("resnetv2_152x2_bit_teacher_384", "timm_teacher_384"),
    ],
)
def test_a_checkpoint_has_its_preset(checkpoint, preset):
    expected = BitImageProcessor.from_preset(preset)
    assert BitImageProcessor.from_preset(checkpoint) == expected
    assert BitImageProcessor.from_pretrained(checkpoint) == expected
    small = BitImageProcessor.from_pretrained(checkpoint, crop_size=64)
    assert small == expected.replace(crop_size=64)


def test_every_published_checkpoint_has_a_preset():
    assert {entry.preset for entry in catalog().values()} <= set(PRESETS)


def test_weights_are_not_taken_for_settings(tmp_path):
    weights = tmp_path / "bit.npz"
    weights.write_bytes(b"PK")
    with pytest.raises(
        ValueError,
        match=r"the saved settings .* cannot be read: .*bit\.npz should hold JSON.*; from_preset",
    ):
        BitImageProcessor.from_pretrained(weights)


def test_saved_settings_load_again(tmp_path):
    processor = BitImageProcessor.from_preset("timm_teacher_384", image_mean=0.25, do_rescale=False)
    path = processor.save_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "preprocessor_config.json"
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left
    assert BitImageProcessor.from_pretrained(path.parent) == processor
    assert BitImageProcessor.from_pretrained(path) == processor
    assert BitImageProcessor.from_pretrained(path, size=64).size == {"shortest_edge": 64}
    assert eval(repr(processor).replace("<Resampling.BICUBIC: 3>", "3")) == processor


def test_options_are_saved_where_they_differ(tmp_path):
    processor = BitImageProcessor(
        do_pad=True, pad_size=300, default_to_square=True, return_tensors="np", device="cpu",
        data_format="channels_last", disable_grouping=False, image_seq_length=0,
    )  # fmt: skip
    processor.save_pretrained(tmp_path)
    assert BitImageProcessor.from_pretrained(tmp_path) == processor
    assert BitImageProcessor.from_pretrained(tmp_path).device == torch.device("cpu")
    assert set(processor.to_dict()) - set(BitImageProcessor().to_dict()) == {
        "do_pad", "pad_size", "default_to_square", "return_tensors", "device", "data_format",
        "disable_grouping", "image_seq_length",
    }  # fmt: skip
    assert set(BitImageProcessor().to_dict()).isdisjoint(settings.DEFAULTS)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = BitImageProcessor(size=99).save_pretrained(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        BitImageProcessor().save_pretrained(tmp_path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "should hold JSON"),
        ("[]", "should hold a JSON object, got list"),
        (json.dumps({"do_flip": True}), r"got also \{'do_flip': True\}"),
        (json.dumps({"do_pad": 1}), "do_pad must be True or False, got 1"),
        (json.dumps({"size": {"longest_edge": 5}}), "size must be an int"),
    ],
)
def test_files_that_are_rejected(tmp_path, content, message):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        BitImageProcessor.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"found none at {tmp_path}"):
        BitImageProcessor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"neither a folder nor .*not on this.*from_preset"):
        BitImageProcessor.from_pretrained("no/thing", cache_dir=tmp_path, local_files_only=True)


def test_hub_files_are_read_from_the_cache(tmp_path):
    """A cache laid out as huggingface_hub's, so that nothing is downloaded."""
    commit = "0" * 40
    repository = tmp_path / "models--google--bit-50"
    snapshot = repository / "snapshots" / commit
    BitImageProcessor(size=99).save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    processor = BitImageProcessor.from_pretrained(
        "google/bit-50", cache_dir=tmp_path, local_files_only=True
    )
    assert processor.size == {"shortest_edge": 99}


def test_null_keeps_the_default_and_bookkeeping_is_ignored():
    values = {"size": None, "do_pad": None, "pad_size": None, "processor_class": "X", "resample": 2}
    assert BitImageProcessor.from_dict(values) == BitImageProcessor(resample=2)


def test_documentation_names_every_setting():
    text = inspect.getdoc(BitImageProcessor) or ""
    assert all(f"    {name}: " in text for name in settings.NAMES)
