"""tools/front_page.py draws both pictures from a run and the data set's photographs."""

import importlib
import sys
from pathlib import Path

import pytest
from PIL import Image
from rectangles import write_coco

from bit_backbone import cli

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.slow
def test_both_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    tool = importlib.import_module("front_page")
    write_coco(tmp_path / "data", 2)
    data, run = str(tmp_path / "data"), str(tmp_path / "run")
    trained = ["train", "--train", data, "--test", data, "--output", run, "--device", "cpu"]
    assert cli.main([*trained, "--model", "fasterrcnn_bit_tiny_fpn", "--steps", "1"]) == 0
    (tmp_path / "JPEGImages").mkdir()
    for name in {*tool.DETECTED, tool.MAPPED}:
        photograph = Image.effect_noise((64, 48), 60).convert("RGB")
        photograph.save(tmp_path / "JPEGImages" / f"{name}.jpg")
    output = str(tmp_path / "images")
    monkeypatch.setattr(sys, "argv", ["front_page.py", str(tmp_path), run, "--output", output])
    tool.main()
    width, height = tool.PANEL
    with Image.open(tmp_path / "images" / "cells_features.jpg") as picture:
        assert picture.size == (width * (1 + len(tool.STAGES)), height)
        maps = picture.crop((width, 0, *picture.size))
        assert len(maps.convert("L").getcolors()) > 1
    with Image.open(tmp_path / "images" / "cells_found.jpg") as picture:
        assert picture.width / picture.height == len(tool.DETECTED) * 64 / 48
