"""What the table of the README says about the peers, row by row."""

import numpy as np
import pytest
import torch

import bit_backbone.torchvision  # noqa: F401 (registers the builders)
from bit_backbone import BitBackbone, BitConfig, BitImageProcessor

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

SIZES = {
    "embedding_size": 32, "hidden_sizes": [32, 64, 64, 64], "depths": [1, 1, 2, 2], "num_groups": 8,
}  # fmt: skip
X = torch.randn(1, 3, 64, 64)


def ours(**options):
    return BitBackbone(BitConfig(**SIZES, **options)).eval()


def theirs(**options):
    return transformers.BitBackbone(transformers.BitConfig(**SIZES, **options)).eval()


def dilations(network):
    return {m.dilation[0] for m in network.modules() if isinstance(m, torch.nn.Conv2d)}


def timms(**options):
    return timm.create_model("resnetv2_50x1_bit", features_only=True, **options).eval()


def test_published_widths():
    assert ours(width_factor=2)(X)["stage4"].shape[1] == 128
    with pytest.raises(RuntimeError):
        transformers.BitModel(transformers.BitConfig(**SIZES, width_factor=2))(X)
    assert timm.is_model("resnetv2_152x4_bit")


def test_output_stride_8():
    assert dilations(ours(output_stride=8)) == dilations(timms(output_stride=8)) == {1, 2, 4}
    with torch.no_grad():
        features = theirs(output_stride=8, out_features=["stage4"])(X).feature_maps[0]
    assert features.shape[-1] == 8
    kernels = {
        m.dilation[0]
        for m in theirs(output_stride=8).modules()
        if isinstance(m, torch.nn.Conv2d) and m.kernel_size[0] == 3
    }
    assert kernels == {1}


def test_output_stride_7():
    with pytest.raises(ValueError, match="output_stride"):
        ours(output_stride=7)
    timms(output_stride=7)


def test_asked_only_for_stage1():
    names = {name.split(".")[0] for name, _ in ours(out_features=["stage1"]).named_parameters()}
    assert names == {"stem", "stage1"}
    assert not any("stages.1" in n or "stages_1" in n for n in timms(out_indices=(1,)).state_dict())
    network = theirs(out_features=["stage1"])
    seen = []
    network.bit.encoder.stages[3].register_forward_hook(lambda *_: seen.append(3))
    with torch.no_grad():
        network(X)
    assert seen == [3]


def test_images_that_are_already_in_0_1():
    image = np.random.default_rng(0).random((3, 32, 32), dtype=np.float32)
    with pytest.raises(ValueError, match="do_rescale=False"):
        BitImageProcessor(do_resize=False, do_center_crop=False)(image)
    processor = transformers.BitImageProcessor(
        do_resize=False, do_center_crop=False, do_normalize=False, do_convert_rgb=False
    )
    found = processor(torch.from_numpy(image), return_tensors="np")["pixel_values"]
    assert found.max() < 1 / 200


def test_registries():
    from torchvision.models import list_models

    assert {"fasterrcnn_bit_fpn", "deeplabv3_bit"} <= set(list_models())
