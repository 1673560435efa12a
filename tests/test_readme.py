"""The README tells the truth: its example prints what it says, its table lists the networks."""

import re
from pathlib import Path

import torch

from bit_backbone.config import VARIANTS, BitConfig
from bit_backbone.profiling import profile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_block(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]


def test_the_example_prints_what_it_says(capsys) -> None:
    exec(compile(code_block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == code_block("text")


def test_the_table_lists_every_network() -> None:
    rows = re.findall(r"^\| `(R\w+)` \| ([\d, ]+) \| (\d) \|", README, re.MULTILINE)
    told = {name: (tuple(map(int, units.split(","))), int(width)) for name, units, width in rows}
    assert told == VARIANTS


def test_the_table_tells_what_each_network_costs() -> None:
    for name in VARIANTS:
        config = BitConfig.from_variant(name)
        costs, width = profile(config, (224, 224), dtype=torch.float32), config.channels[-1]
        # the final norm and a head of 1000 classes, which a backbone does not have
        parameters = costs.parameters + 2 * width + (width + 1) * 1000
        told = f"| {parameters / 1e6:.2f} | {(costs.macs + width * 1000) / 1e9:.2f} |"
        assert re.search(rf"^\| `{name}` .*{re.escape(told)}$", README, re.MULTILINE)


def test_the_oldest_torch_and_torchvision_are_those_of_setup_py() -> None:
    bounds = re.findall(r'"(torch|torchvision)>=([\d.]+)"', (ROOT / "setup.py").read_text())
    assert len(bounds) == 2
    for name, version in bounds:
        assert f"{name} {version}" in README
