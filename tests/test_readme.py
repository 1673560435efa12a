"""The README tells the truth: its example prints what it says, its table lists the networks."""

import re
from pathlib import Path

from bit_backbone.config import VARIANTS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def code_block(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]


def test_the_example_prints_what_it_says(capsys) -> None:
    exec(compile(code_block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == code_block("text")


def test_the_table_lists_every_network() -> None:
    rows = re.findall(r"^\| `(R\w+)` \| ([\d, ]+) \| (\d) \|", README, re.MULTILINE)
    told = {name: (tuple(map(int, units.split(","))), int(width)) for name, units, width in rows}
    assert told == VARIANTS
