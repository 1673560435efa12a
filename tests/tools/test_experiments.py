"""The experiments of tools/, at a size of seconds: compare_norms.py and transfer_digits.py."""

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from rectangles import write_coco
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from bit_backbone import BitBackbone, BitForImageClassification
from bit_backbone.network.layers import GroupNormAct
from bit_backbone.network.std_conv import StdConv2d
from bit_backbone.torchvision.tiny import TINY

TOOLS = Path(__file__).parents[2] / "tools"
TINIEST_NORMS = [
    *("--scenes", "3", "2", "--digits", "4", "--pretraining-steps", "1"),
    *("--steps", "2", "--warmup-steps", "1", "--seeds", "0"),
]
TINIEST_TRANSFER = [
    *("--images", "500", "--upstream-steps", "1", "--steps", "2", "--batch-size", "2"),
    *("--draws", "2", "--rates", "0.003", "0.1", "--lengths", "1"),
]


@pytest.fixture
def tool(monkeypatch):
    """Imports a script of tools/ as Python does when it runs it."""
    monkeypatch.syspath_prepend(str(TOOLS))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        module = __import__(name)
        if arguments:
            module.main()
        return module

    yield run
    for name in ("compare_norms", "norm_arms", "transfer_digits", "experiments", "demo"):
        sys.modules.pop(name, None)


def test_compare_norms_runs_each_arm_once(tool, tmp_path, capsys):
    arms = ["preact", "groupnorm", "none+gn", "bn"]
    command = ["compare_norms", "--output", tmp_path, *TINIEST_NORMS, "--arms"]
    tool(*command, *arms[:3])
    results = tmp_path / "results.jsonl"
    done = results.read_text()
    results.write_text(done + '{"arm": "bn", "se')  # the run that was interrupted
    capsys.readouterr()
    tool(*command, *arms)
    printed = capsys.readouterr().out
    assert "run 2 of 2: bn, pretrained=False, seed=0" in printed
    lines = results.read_text()[len(done) :].splitlines()
    runs = [json.loads(line) for line in lines if line.endswith("}")]
    table = printed[printed.index("| ") :].splitlines()
    assert len(table) == 2 + len(arms)
    assert "BatchNorm, plain convolutions" in table[-1]
    assert len(runs) == 2
    assert {run["pretrained"] for run in runs} == {True, False}


@pytest.mark.parametrize("standardize", [True, False])
def test_the_batch_norm_twin_is_the_same_net_but_for_the_norms(standardize, tool):
    twin = tool("norm_arms").use_batch_norm
    backbone = BitBackbone(TINY, feature_norm="none", out_indices=(1, 2, 3, 4))
    names = [name for name, _ in backbone.named_parameters()]
    images = torch.randn(2, 3, 64, 96)
    shapes = [f.shape for f in backbone(images).values()]
    convolutions = [(m.kernel_size, m.stride) for m in backbone.modules() if is_conv(m)]
    twin(backbone, standardize)
    kinds = {type(module) for module in backbone.modules()}
    assert GroupNormAct not in kinds
    assert (StdConv2d in kinds) == standardize
    assert [name for name, _ in backbone.named_parameters()] == names
    assert [(m.kernel_size, m.stride) for m in backbone.modules() if is_conv(m)] == convolutions
    assert [f.shape for f in backbone(images).values()] == shapes


def test_compare_norms_on_a_data_set_with_its_own_parts(tool, tmp_path, capsys):
    for part in ("train", "test"):
        write_coco(tmp_path / "blocks" / part, 3)
    command = ["compare_norms", "--output", tmp_path / "out", "--data", tmp_path / "blocks"]
    tool(*command, *TINIEST_NORMS, "--arms", "preact", "frozen-bn")
    printed = capsys.readouterr().out
    assert "592,656 weights in the backbone, 592,656 of them train" in printed
    assert "594,576 weights in the backbone, 588,592 of them train" in printed  # frozen
    assert "594,576 weights in the backbone, 594,576 of them train" in printed
    runs = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().split("\n\n")]
    assert {run["recipe"]["data"] for run in runs} == {"blocks"}
    assert [(run["arm"], run["pretrained"]) for run in runs] == [
        (arm, pretrained) for pretrained in (True, False) for arm in ("preact", "frozen-bn")
    ]


def test_the_resnet_twin_has_torchvisions_units_in_the_same_widths(tool):
    arms = tool("norm_arms")
    torch.manual_seed(0)
    classifier = BitForImageClassification(TINY.replace(feature_norm="none", num_labels=3))
    arms.use_resnet(classifier)
    images = torch.randn(4, 3, 64, 96)
    assert classifier(images).logits.shape == (4, 3)  # and its norms have learned statistics
    weights = classifier.state_dict()
    detector = arms.build(arms.ARMS["frozen-bn"], weights, 3, {"min_size": 64})
    body = detector.backbone.body
    bit = BitBackbone(TINY, feature_norm="none", out_indices=(1, 2, 3, 4))
    assert [f.shape for f in body(images).values()] == [f.shape for f in bit(images).values()]
    frozen = [m for m in body.modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == 1 + 4 + 3 * 6  # the stem's, the projections', and three in a unit
    assert not [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert torch.equal(body.stem[1].running_mean, weights["stem.1.running_mean"])
    classifier.eval()
    raw = classifier.raw_taps(images, ["stage4"])
    torch.testing.assert_close(body(images)["stage4"], raw["stage4"])


def is_conv(module):
    return isinstance(module, nn.Conv2d)


def test_transfer_digits_ends_in_a_table_and_a_plot(tool, tmp_path, capsys):
    command = ["transfer_digits", "--output", tmp_path, *TINIEST_TRANSFER]
    tool(*command)
    first = capsys.readouterr().out
    # 2 rates to choose from and 2 draws of 2 kinds, at 3 numbers of examples
    assert (tmp_path / "results.jsonl").read_text().count('"accuracy"') == 18
    table = first[first.index("| accuracy") :].splitlines()
    assert table[2].startswith("| BiT-HyperRule, pre-trained |")
    assert table[2].count("±") == 3
    root = ElementTree.parse(tmp_path / "transfer.svg").getroot()
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 6
    tool(*command)
    again = capsys.readouterr().out
    assert again == "\n".join(table) + "\n"


def test_spread(tool):
    spread = tool("experiments").spread
    assert spread([]) == "-"
    assert spread([0.5]) == "50.0"
    assert spread([0.25, 0.75]) == "50.0 ± 35.4"


def test_results_that_an_interruption_cut_off_are_passed_over(tool, tmp_path):
    results = tool("experiments").Results(tmp_path / "results.jsonl", {"steps": 1})
    results.add(arm="bn", seed=0)
    whole = results.path.read_text().rstrip("\n")
    results.path.write_text(whole + "\n" + whole[:-1])  # which ends in a brace too
    results.add(arm="bn", seed=1)
    assert [run["seed"] for run in results.find(arm="bn")] == [0, 1]
