"""Layers that some formats get: equal to those that they replace."""

import pytest
import torch
from models import MODELS
from networks import TINY, randomise
from torch.export import Dim

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.export.compiled import prepare, without_transposed
from bit_backbone.export.layers import PlainStem, portable, with_convolved_norms
from bit_backbone.export.resizing import DetectorPixels
from bit_backbone.torchvision import bit_fpn_backbone

IMAGES = ((65, 96), (79, 81), (96, 98), (129, 163))  # the stem's map odd and even, high and wide


@pytest.mark.parametrize("kind", ["backbone", "same", "preact", "pyramid"])
def test_norms_as_convolutions_compute_the_same(kind):
    plain = portable(MODELS[kind]())
    changed = with_convolved_norms(plain)
    for size in IMAGES:
        images = torch.rand(2, 3, *size)
        for found, wanted in zip(changed(images).values(), plain(images).values(), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("padding", [None, "same", "valid"])
def test_the_stem_knows_the_size_of_its_map_from_the_images(padding):
    config = BitConfig(**TINY, global_padding=padding)
    model = randomise(BitBackbone(config, out_indices=(0,))).eval()
    plain = portable(model)
    assert any(isinstance(module, PlainStem) for module in plain.modules())
    for size in IMAGES:
        images = torch.randn(1, 3, *size) - 3  # negative at the border, where the ring decides
        with torch.no_grad():
            found, wanted = plain(images)["stem"], model(images)["stem"]
        torch.testing.assert_close(found, wanted, atol=1e-5 * float(wanted.abs().max()), rtol=0)


@pytest.fixture
def captured():
    """A pyramid of an image of any size, as torch.export has it."""
    pixels = DetectorPixels(MODELS["fasterrcnn"]().transform)
    module = _Levels(pixels, portable(randomise(bit_fpn_backbone(BitConfig(**TINY)))))
    sizes = ({1: Dim.DYNAMIC, 2: Dim.DYNAMIC},)
    return torch.export.export(
        module, (torch.rand(3, 97, 131),), dynamic_shapes=sizes, strict=False
    )


def test_sizes_of_a_captured_pyramid_are_multiples_of_one_symbol(captured):
    """As expressions of the image's size they grow with each layer, and compile for hours."""
    (output,) = [node for node in captured.graph.nodes if node.op == "output"]
    shapes = [level.meta["val"].shape[2:] for level in output.args[0]]
    assert len(shapes) == 5
    for side in (side for shape in shapes for side in shape):
        assert len(side.node.expr.free_symbols) == 1
        assert side.node.expr.count_ops() <= 4


def test_what_is_prepared_for_the_compiler_computes_the_same(captured):
    images = [torch.rand(3, *size) for size in ((97, 131), (200, 150), (128, 128))]
    wanted = [captured.module()(image) for image in images]
    prepare(captured)
    targets = {node.target for node in captured.graph.nodes}
    assert torch.ops.mkldnn._convolution_pointwise.default in targets
    assert torch.ops.aten.conv2d.default not in targets
    for image, levels in zip(images, wanted, strict=True):
        for found, level in zip(captured.module()(image), levels, strict=True):
            torch.testing.assert_close(found, level, atol=1e-5 * float(level.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("side", "step", "padding"),
    [(2, 2, 0), (4, 2, 1), (3, 3, 0), (3, 2, 1), (3, 1, 1), (1, 1, 0), (5, 2, 4)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions_as_convolutions(side, step, padding, bias):
    layer = torch.nn.ConvTranspose2d(5, 7, side, step, padding, bias=bias)
    module = torch.nn.Sequential(layer)
    x = torch.rand(3, 5, 6, 9)
    changed = without_transposed(module)
    assert type(changed[0]) is not type(layer)
    torch.testing.assert_close(changed(x), module(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 2},
        {"dilation": 2},
        {"output_padding": 1},
        {"stride": (2, 3)},
        {"stride": 3, "padding": 1},
        {"padding": 3},
    ],
)
def test_other_transposed_convolutions_stay(options):
    given = {"kernel_size": 3, "stride": 2} | options
    module = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 6, **given))
    x = torch.rand(2, 4, 6, 9)
    changed = without_transposed(module)
    assert type(changed[0]) is torch.nn.ConvTranspose2d
    torch.testing.assert_close(changed(x), module(x))


class _Levels(torch.nn.Module):
    def __init__(self, pixels, pyramid):
        super().__init__()
        self.pixels, self.pyramid = pixels, pyramid

    def forward(self, image):
        return tuple(self.pyramid(self.pixels(image)[0]).values())
