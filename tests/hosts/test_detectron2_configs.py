"""Every shipped configuration: BiT's pixels, a training step, an inference, true shapes."""

from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import build_model
from tiny_detectron2 import read, shrink, shrink_heads, shrink_lazy, training_input, training_losses

from bit_backbone import BitConfig
from bit_backbone.detectron2 import get_config_file, list_config_files

ROOT = Path(__file__).parents[2]
YAML = [name for name in list_config_files() if name.endswith(".yaml")]
LAZY = [name for name in list_config_files() if name.endswith(".py")]


def test_every_file_is_listed_or_a_base() -> None:
    files = {p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.*")}
    unlisted = {f for f in files if f.endswith((".yaml", ".py"))} - {*list_config_files()}
    assert all(name.startswith(("Base-", "common/")) for name in unlisted)
    assert len(YAML) >= 15
    assert len(LAZY) >= 7


@pytest.mark.parametrize("name", ["COCO-Detection/faster_rcnn_BiT_R50_FPN_1x.yaml", "", "../setup"])
def test_an_unknown_configuration_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=r"no configuration '.*'; of \d+ the closest"):
        get_config_file(name)


@pytest.mark.parametrize("name", YAML)
def test_yaml_states_bit_pixels_weights_and_schedule(name: str) -> None:
    cfg = read(name)
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == cfg.MODEL.PIXEL_STD == [127.5] * 3
    if not name.startswith("quick/"):
        assert f"bit://BiT-M-{cfg.MODEL.BIT.VARIANT}" == cfg.MODEL.WEIGHTS
        assert cfg.MODEL.BIT.VARIANT in name
    assert cfg.VERSION == 2
    assert cfg.SOLVER.STEPS[-1] < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", LAZY)
def test_lazy_states_bit_pixels_and_weights(name: str) -> None:
    cfg = LazyConfig.load(get_config_file(name))
    assert cfg.model.get("input_format", "RGB") == "RGB"
    assert cfg.model.pixel_mean == cfg.model.pixel_std == [127.5] * 3
    for mapper in (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper):
        assert mapper.image_format == "RGB"
    bottom_up = cfg.model.backbone.get("bottom_up", cfg.model.backbone)
    assert cfg.train.init_checkpoint.endswith(f"://BiT-M-{bottom_up.config}")
    assert {"lr_multiplier", "optimizer"} <= set(cfg)


def check_model(model: nn.Module, size: tuple[int, int]) -> None:
    """One training step, one inference on an odd size, and the declared shapes."""
    losses = training_losses(model, [training_input(*size), training_input(*size)])
    assert all(loss.isfinite() for loss in losses.values())
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert all(".stem." in f".{n}" or ".stage1." in n for n in frozen)
    with torch.no_grad():
        (output,) = model.eval()([{k: training_input(63, 95)[k] for k in ("image",)}])
        features = model.backbone(torch.rand(1, 3, 64, 96))
    assert "instances" in output or output["sem_seg"].shape[-2:] == (63, 95)
    shapes = model.backbone.output_shape()
    assert {n: tuple(f.shape[1:]) for n, f in features.items()} == {
        n: (s.channels, -(-64 // s.stride), -(-96 // s.stride)) for n, s in shapes.items()
    }


@pytest.mark.parametrize("name", YAML)
def test_yaml_trains_and_infers(name: str) -> None:
    model = build_model(shrink_heads(shrink(read(name))))
    check_model(model, (64, 96))


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("norm", ["none", "preact"])
def test_deeplab_takes_any_size_without_crops(output_stride: int, norm: str) -> None:
    """With crops its pooling has the crop's size, and images must be multiples of that."""
    name = f"Cityscapes-SemanticSegmentation/deeplabv3plus_BiT_R50x1_OS{output_stride}.yaml"
    cfg = shrink_heads(shrink(read(name)))
    cfg.INPUT.CROP.ENABLED = False
    cfg.MODEL.BIT.FEATURE_NORM = norm
    model = build_model(cfg).eval()
    assert model.sem_seg_head.in_features == ["res2", "res5"]
    assert model.backbone.output_shape()["res5"].stride == output_stride
    with torch.no_grad():
        (output,) = model([{"image": training_input(63, 81)["image"]}])
    assert output["sem_seg"].shape == (19, 63, 81)


@pytest.mark.parametrize("name", LAZY)
def test_lazy_trains_and_infers(name: str) -> None:
    cfg = LazyConfig.load(get_config_file(name))
    check_model(instantiate(shrink_lazy(cfg.model)), (64, 96))


@pytest.mark.parametrize("name", [*YAML, *LAZY])
def test_the_full_network_is_the_published_one(name: str) -> None:
    """What the tiny networks above cannot show: widths that fit at full size."""
    with torch.device("meta"):
        if name.endswith(".py"):
            model_cfg = LazyConfig.load(get_config_file(name)).model
            backbone = instantiate(model_cfg.backbone)
            variant = model_cfg.backbone.get("bottom_up", model_cfg.backbone).config
        else:
            cfg = read(name)
            cfg.MODEL.DEVICE = "meta"
            backbone, variant = build_model(cfg).backbone, cfg.MODEL.BIT.VARIANT
    bottom_up = getattr(backbone, "bottom_up", backbone)
    published = BitConfig.from_variant(variant)
    if not name.startswith("quick/"):
        assert bottom_up.config.depths == published.depths
        assert bottom_up.config.channels == published.channels
