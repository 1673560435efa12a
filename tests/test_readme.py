"""The README's example prints what it says, and its versions are those of setup.py."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_block(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[1]


def test_the_example_prints_what_it_says(capsys) -> None:
    exec(compile(code_block("python"), "README.md", "exec"), {})
    assert capsys.readouterr().out == code_block("text")


def test_the_oldest_torch_and_torchvision_are_those_of_setup_py() -> None:
    bounds = re.findall(r'"(torch|torchvision)>=([\d.]+)"', (ROOT / "setup.py").read_text())
    assert len(bounds) == 2
    for name, version in bounds:
        assert f"{name} {version}" in README
