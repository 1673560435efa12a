"""Every Python block of the site runs, and prints what the site says."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pages import DOCS, ROOT, blocks, page_names
from standins import fill_caches, fill_workspace

# Python is run; text is compared where it stands behind Python, or is a message of Troubleshooting;
# commands are parsed by test_commands.py; YAML is read here, and detectron2's by its own tests.
CHECKED = ("python", "text", "console", "sh", "bash", "yaml")
RUNNER = Path(__file__).with_name("run_page.py")
PAGES = [page for page in page_names() if any(b.language == "python" for b in blocks(page))]


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return fill_caches(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("page", page_names())
def test_nothing_on_a_page_escapes_the_tests(page: str) -> None:
    for block in blocks(page):
        assert block.language in CHECKED, f"{page}, line {block.line}"
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict)
    # a fence that the cutter does not see would not be run either
    text = (DOCS / page).read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page))


def needs_detectron2(page: str) -> bool:
    imports = re.compile(r"^\s*(?:from|import) (?:bit_backbone\.)?detectron2\b", re.MULTILINE)
    return any(imports.search(b.code) for b in blocks(page) if b.language == "python")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page: str, caches: dict[str, str], tmp_path: Path) -> None:
    if needs_detectron2(page) and importlib.util.find_spec("detectron2") is None:
        pytest.skip("detectron2 is not installed")
    fill_workspace(tmp_path)
    path = os.pathsep.join(str(folder) for folder in (RUNNER.parent, ROOT))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", RUNNER, page],
        cwd=tmp_path,
        env={**os.environ, **caches, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
