"""BitImageProcessor against transformers' PIL backend, timm's transforms and the official ones."""

import json

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image
from torchvision import transforms

from bit_backbone.preprocessing import BitImageProcessor, settings

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil  # noqa: E402

HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
SIZES = (
    "china", "flower", "chelsea", "color", "retina", "page", "coins", "horse", "logo", "gif",
    "palette", "palette_alpha", "bilevel", "cmyk", "la",
    "china@97x131", "chelsea@61x47", "horse@399x101", "page@131x7", "color@1x1",
)  # fmt: skip
SETTINGS = (
    {"size": {"height": 240, "width": 300}},
    {"size": {"height": 97, "width": 131}, "do_center_crop": False, "resample": 2},
    {"size": {"shortest_edge": 150}, "do_center_crop": False},
    {"size": {"height": 224, "width": 224}, "do_normalize": False},
    {"size": {"height": 60, "width": 60}, "crop_size": {"height": 64, "width": 64}},
    {"do_resize": False, "do_center_crop": False, "do_rescale": False},
    {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False},
    {"do_resize": False, "do_center_crop": False, "rescale_factor": 1 / 127.5, "image_mean": 1.0},
)


def ours_and_theirs(image, **settings):
    settings = HALF | settings
    mine = BitImageProcessor(**settings)(image, return_tensors="np")["pixel_values"]
    peer = BitImageProcessorPil(**settings)(image, return_tensors="np")["pixel_values"]
    return mine, peer


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_equals_transformers_to_the_bit(name, settings):
    mine, peer = ours_and_theirs(photograph(name), **settings)
    assert mine.dtype == peer.dtype
    np.testing.assert_array_equal(mine, peer)


@pytest.mark.parametrize("resample", range(6))
def test_equals_transformers_with_every_filter(resample):
    sizes = {"size": {"height": 75, "width": 201}, "crop_size": {"height": 71, "width": 201}}
    np.testing.assert_array_equal(*ours_and_theirs(photograph("china"), resample=resample, **sizes))


@pytest.mark.parametrize(
    ("kind", "convert"), [("L", True), ("RGB", True), ("RGBA", True), ("RGBA", False)]
)
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_arrays_equal_transformers(kind, convert, layout):
    array = np.asarray(photograph("logo").convert(kind)).reshape(500, 500, -1)
    if layout == "channels_first":
        array = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    statistics = {"image_mean": 0.5, "image_std": 0.25}
    settings = {"size": {"height": 240, "width": 300}, "do_convert_rgb": convert, **statistics}
    for image in (array, torch.from_numpy(array.copy()), np.stack([array, array])):
        np.testing.assert_array_equal(*ours_and_theirs(image, **settings))


@pytest.mark.parametrize("margin", range(-7, 8))
def test_crop_offset(margin):
    """Theirs to the bit by default, and torchvision's where timm's presets ask for it."""
    side = 40
    image = photograph("chelsea").crop((0, 0, side + margin, side + margin))
    np.testing.assert_array_equal(*ours_and_theirs(image, do_resize=False, crop_size=side))
    even = BitImageProcessor(do_resize=False, crop_size=side, crop_rounding="even")
    expected = even(transforms.CenterCrop(side)(image), return_tensors="np").pixel_values
    np.testing.assert_array_equal(even(image, return_tensors="np").pixel_values, expected)


@pytest.mark.parametrize("name", SIZES)
def test_a_folder_gives_equal_pixels_on_both_sides(name, tmp_path):
    """Of every margin modulo 4, from a shorter side and its crop that are not even."""
    for margin in range(4):
        settings = {
            "size": {"shortest_edge": 61 + margin},
            "crop_size": {"height": 61, "width": 58},
        }
        BitImageProcessorPil(**settings).save_pretrained(tmp_path)
        mine = BitImageProcessor.from_pretrained(tmp_path)
        peer = BitImageProcessorPil.from_pretrained(tmp_path)
        np.testing.assert_array_equal(
            mine(photograph(name), return_tensors="np").pixel_values,
            peer(photograph(name), return_tensors="np").pixel_values,
        )


TIMM_PRESETS = {
    "timm_in21k": ["50x1_bit.goog_in21k", "152x4_bit.goog_in21k"],
    "timm_448": ["50x1_bit.goog_in21k_ft_in1k", "152x2_bit.goog_in21k_ft_in1k"],
    "timm_480": ["152x4_bit.goog_in21k_ft_in1k"],
    "timm_distilled": [
        "50x1_bit.goog_distilled_in1k", "152x2_bit.goog_teacher_in21k_ft_in1k",
    ],
    "timm_teacher_384": ["152x2_bit.goog_teacher_in21k_ft_in1k_384"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "model"), [(p, f"resnetv2_{m}") for p, ms in TIMM_PRESETS.items() for m in ms]
)
def test_presets_equal_timm(preset, model):
    settings = timm.data.resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(model).to_dict()
    )
    transform = timm.data.create_transform(**settings)
    processor = BitImageProcessor.from_preset(preset)
    for name in ("china", "chelsea", "page", "palette", "cmyk", "china@97x131", "page@131x7"):
        theirs = transform(photograph(name).convert("RGB"))
        mine = processor(photograph(name), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(("preset", "side"), [("official", 480), ("official_small", 128)])
@pytest.mark.parametrize("name", ["china", "chelsea", "page", "palette", "china@31x33"])
def test_presets_equal_the_official_evaluation(preset, side, name):
    """big_transfer, bit_pytorch/train.py: resize to a square, to [0, 1], normalise with 0.5."""
    image = photograph(name).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
    expected = (transforms.functional.to_tensor(image) - 0.5) / 0.5
    mine = BitImageProcessor.from_preset(preset)(photograph(name), return_tensors="pt")
    torch.testing.assert_close(mine.pixel_values[0], expected, rtol=0, atol=0)


RESIZED = (
    {"size": {"shortest_edge": 120, "longest_edge": 150}},
    {"size": {"shortest_edge": 120, "longest_edge": 400}},
    {"size": {"shortest_edge": 120, "longest_edge": 90}},
    {"size": {"max_height": 150, "max_width": 110}},
    {"size": {"max_height": 800, "max_width": 900}},
    {"size": 140, "default_to_square": True},
    {"size": 140, "default_to_square": False},
    {"size": 140, "do_resize": True, "do_pad": True, "pad_size": {"height": 240, "width": 200},
     "do_center_crop": True, "crop_size": 100},
    {"size": 140, "do_pad": True, "pad_size": 1300},
    {"size": 140, "do_pad": True, "pad_size": (1300, 1400), "do_normalize": False},
    {"size": 140, "do_pad": True, "do_rescale": False, "do_normalize": False},
)  # fmt: skip


@pytest.mark.parametrize("settings", RESIZED, ids=str)
@pytest.mark.parametrize("name", ["china", "chelsea", "page", "horse", "chelsea@61x47"])
def test_sizes_and_padding_equal_transformers(name, settings):
    mine, peer = ours_and_theirs(photograph(name), **{"do_center_crop": False} | settings)
    assert mine.dtype == peer.dtype
    np.testing.assert_array_equal(mine, peer)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_pad": True},
        {"do_pad": True, "pad_size": 700},
        {"do_pad": True, "pad_size": {"height": 500, "width": 640}, "do_normalize": False},
        {"do_pad": True, "disable_grouping": True, "device": "cpu", "image_seq_length": 49},
        {"do_pad": True, "pad_size": 64, "do_center_crop": True, "crop_size": (31, 60)},
        {"pad_size": 4, "do_center_crop": True, "crop_size": (31, 60)},
    ],
    ids=str,
)
@pytest.mark.parametrize("peer_class", [BitImageProcessorPil, transformers.BitImageProcessor])
def test_batches_are_padded_as_both_of_transformers_do(settings, peer_class):
    """Not resized: its torchvision backend interpolates otherwise than Pillow does."""
    batch = [photograph("china"), photograph("chelsea@61x47"), photograph("page").convert("RGB")]
    settings = (
        HALF | {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"} | settings
    )
    mine, peer = BitImageProcessor()(batch, **settings), peer_class()(batch, **settings)
    torch.testing.assert_close(mine.pixel_values, peer.pixel_values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("peer_class", [BitImageProcessorPil, transformers.BitImageProcessor])
def test_every_setting_of_transformers_is_taken(peer_class):
    theirs = set(transformers.processing_utils.ImagesKwargs.__annotations__)
    assert theirs | {"crop_rounding", "bit_depth"} == set(settings.NAMES)
    options = {"return_tensors": "pt", "do_pad": True, "pad_size": 300, "default_to_square": True,
               "size": 250, "device": "cpu", "disable_grouping": False}  # fmt: skip
    image = photograph("china")
    for mine, peer in (
        (BitImageProcessor(**options)(image), peer_class(**options)(image)),
        (BitImageProcessor()(image, **options), peer_class()(image, **options)),
    ):
        assert mine.pixel_values.shape == peer.pixel_values.shape == (1, 3, 300, 300)


def test_transformers_reads_what_we_save(tmp_path):
    mine = BitImageProcessor.from_preset("timm_448", image_std=[0.5, 0.25, 0.125])
    mine.save_pretrained(tmp_path)
    peer = BitImageProcessorPil.from_pretrained(tmp_path)
    assert json.loads(peer.to_json_string()) == mine.to_dict()
    assert isinstance(
        transformers.AutoImageProcessor.from_pretrained(tmp_path), transformers.BitImageProcessor
    )


OPTIONS = {"do_pad": True, "pad_size": 300, "default_to_square": True, "return_tensors": "pt",
           "input_data_format": "channels_last", "disable_grouping": True}  # fmt: skip


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
@pytest.mark.parametrize("peer_class", [BitImageProcessorPil, transformers.BitImageProcessor])
def test_we_read_what_transformers_saves(tmp_path, peer_class, options):
    peer = peer_class(
        size={"height": 99, "width": 77}, resample=2, image_mean=[0.1, 0.2, 0.3], **options
    )
    peer.save_pretrained(tmp_path)
    mine = BitImageProcessor.from_pretrained(tmp_path)
    assert mine.to_dict() == json.loads(peer.to_json_string())
    assert mine.image_std != (0.5, 0.5, 0.5)  # CLIP's, as saved


def test_enumerations_of_transformers_are_understood():
    from transformers.image_utils import ChannelDimension, PILImageResampling
    from transformers.utils import TensorType

    options = {
        "return_tensors": TensorType.PYTORCH,
        "data_format": ChannelDimension.LAST,
        "input_data_format": ChannelDimension.LAST,
        "resample": PILImageResampling.BILINEAR,
    }
    out = BitImageProcessor()(np.asarray(photograph("china")), **options).pixel_values
    assert out.shape == (1, 224, 224, 3)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"crop_pct": 0.9, "interpolation": "bilinear"},
        {"crop_pct": 1.0, "crop_mode": "squash", "mean": (0.1, 0.2, 0.3)},
        {"crop_mode": "squash", "crop_pct": 0.8, "input_size": (3, 96, 72)},
    ],
    ids=str,
)
def test_a_folder_of_timms_prepares_images_as_timm_does(changed, tmp_path):
    configuration = timm.get_pretrained_cfg("resnetv2_50x1_bit.goog_in21k").to_dict() | {
        "input_size": (3, 99, 99),
        **changed,
    }
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": configuration}))
    processor = BitImageProcessor.from_pretrained(tmp_path)
    settings = timm.data.resolve_data_config(pretrained_cfg=configuration)
    transform = timm.data.create_transform(**settings)
    for name in ("china", "chelsea", "page", "china@97x131"):
        theirs = transform(photograph(name).convert("RGB"))
        mine = processor(photograph(name), return_tensors="pt").pixel_values[0]
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop_mode": "border"}, "the crop_mode of .* is one of squash, center .* got 'border'"),
        ({"input_size": [3, 96, 72]}, "is one of squash for an image of 96 x 72, got 'center'"),
        ({"input_size": None}, "needs an input_size .* got None"),
        ({"crop_pct": -1, "input_size": "a"}, "needs an input_size"),
    ],
)
def test_what_timms_folder_cannot_ask_for(changed, message, tmp_path):
    configuration = {"input_size": [3, 99, 99]} | changed
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": configuration}))
    with pytest.raises(ValueError, match=message):
        BitImageProcessor.from_pretrained(tmp_path)
