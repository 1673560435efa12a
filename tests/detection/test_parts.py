"""A detector starts from the part of a checkpoint that its run names."""

import argparse
import json

import torch
from rectangles import SMALL, VARIANT

from bit_backbone import BitBackbone, BitConfig
from bit_backbone.cli.train_options import add_train_options, detector_arguments
from bit_backbone.detection import DetectorSpec


def test_the_part_is_recorded_and_loaded(tmp_path):
    torch.manual_seed(0)
    own, average = (BitBackbone(BitConfig(**VARIANT), feature_norm="preact") for _ in range(2))
    torch.save({"model": own.state_dict(), "ema": average.state_dict()}, tmp_path / "a.pth")
    (tmp_path / "variant.json").write_text(json.dumps(VARIANT | {"feature_norm": "preact"}))
    parser = argparse.ArgumentParser()
    add_train_options(parser)
    arguments = detector_arguments(
        parser.parse_args(
            ["--output", str(tmp_path / "run"), "--variant", str(tmp_path / "variant.json"),
             "--weights", str(tmp_path / "a.pth"), "--part", "ema"]
        )
    )  # fmt: skip
    assert arguments["weights_backbone"] == {"path": str(tmp_path / "a.pth"), "part": "ema"}
    spec = DetectorSpec("fasterrcnn_bit_fpn", ("a",), {**SMALL, **arguments})
    again = DetectorSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    body = again.build().backbone.body
    assert torch.equal(body.stem.conv.weight, average.stem.conv.weight)
