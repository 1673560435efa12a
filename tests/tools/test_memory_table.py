"""docs/memory.md holds what the estimate says now."""

import importlib
import re
from pathlib import Path

import pytest

from bit_backbone.config import VARIANTS

TOOLS = Path(__file__).parents[2] / "tools"
PAGE = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "variant",
    [pytest.param(v, marks=[] if v == "R50x1" else pytest.mark.slow) for v in VARIANTS],
)
def test_the_page_has_the_figures_of_today(variant, monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    table = importlib.import_module("memory_table")
    peaks = {(variant, column): table.estimate(variant, column) for column in table.COLUMNS}
    row = table.markdown(peaks, [variant]).splitlines()[-1]
    assert re.search(rf"^{re.escape(row)}$", PAGE, re.MULTILINE), row
