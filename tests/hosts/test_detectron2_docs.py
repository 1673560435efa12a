"""What docs/detectron2.md tells people to write works as it stands there."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2 import model_zoo
from detectron2.config import get_cfg, instantiate
from detectron2.modeling import build_model
from tiny_detectron2 import shrink, shrink_heads, shrink_lazy, training_input, training_losses

import bit_backbone.detectron2
from bit_backbone.detectron2 import builders, get_config_file

PAGE = (Path(__file__).parents[2] / "docs" / "detectron2.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_a_configuration_of_detectron2_becomes_ours(tmp_path, caplog) -> None:
    cfg = get_cfg()
    exec(blocks("python")[0].replace("get_cfg()", "cfg"), {"cfg": cfg})
    cfg.merge_from_file(model_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"))
    (tmp_path / "bit.yaml").write_text(blocks("yaml")[0])
    cfg.merge_from_file(tmp_path / "bit.yaml")
    model = build_model(shrink_heads(shrink(cfg)))
    assert "pixels" not in caplog.text
    assert cfg.MODEL.FPN.IN_FEATURES == ["res2", "res3", "res4", "res5"]
    assert all(
        loss.isfinite() for loss in training_losses(model, [training_input(64, 96)]).values()
    )


def test_a_lazy_configuration_of_detectron2_becomes_ours() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[2], names)
    cfg = names["cfg"]
    assert cfg.dataloader.train.mapper.image_format == cfg.model.input_format == "RGB"
    backbone = instantiate(shrink_lazy(cfg.model).backbone)
    assert list(backbone(torch.rand(1, 3, 64, 64))) == ["p2", "p3", "p4", "p5", "p6"]


def test_every_builder_stands_in_the_table_and_every_configuration_exists() -> None:
    assert set(re.findall(r"^\| `(build_\w+)`", PAGE, re.MULTILINE)) == set(builders.__all__)
    for name in re.findall(r"configs/([\w/.-]+/[\w.-]+\.(?:yaml|py))", PAGE):
        assert name == "common/bit.py" or Path(get_config_file(name)).is_file()
    assert set(
        re.findall(r"bit_backbone\.detectron2 import ([\w, ]+)", PAGE)[0].split(", ")
    ) <= set(bit_backbone.detectron2.__all__)


def test_the_errors_are_those_that_come() -> None:
    cfg = get_cfg()
    with pytest.raises(KeyError, match=r"Non-existent config key: MODEL.BIT"):
        cfg.merge_from_file(get_config_file("quick/faster_rcnn_BiT_tiny_digits.yaml"))
    with pytest.raises(AssertionError, match=r"Non-existent key: MODEL.BIT.VARIANT"):
        cfg.merge_from_list(["MODEL.BIT.VARIANT", "R50x1"])
    cfg.MODEL.BACKBONE.NAME = "build_bit_backbones"
    with pytest.raises(KeyError, match=r"found in 'BACKBONE' registry!"):
        build_model(cfg)
