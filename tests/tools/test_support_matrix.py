"""The support matrix: rows on their own, honest outcomes, one table of all of them."""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "support.md"
GREEN = "def test_it():\n    pass\n"
RED = "def test_it():\n    assert 0\n"
SKIPPED = "import pytest\ndef test_it():\n    pytest.skip('not here')\n"


@pytest.fixture
def matrix(tmp_path, monkeypatch):
    """The tool, with records and logs of its own and a working folder that holds tests."""
    spec = importlib.util.spec_from_file_location("matrix", ROOT / "tools" / "support_matrix.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "matrix", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RECORDS", tmp_path / "build" / "matrix")
    monkeypatch.delenv("DETECTRON2", raising=False)
    for name in ("setup.py", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    return module


@pytest.fixture
def uses_this_environment(matrix, monkeypatch):
    """Tests run in the environment of this process: nothing is installed."""

    def make(interpreter, place, packages, row, log):
        (place / "bin").mkdir(parents=True)
        return Path(sys.executable)

    monkeypatch.setattr(matrix, "make_environment", make)
    monkeypatch.setattr(matrix, "find_python", lambda version: sys.executable)


def run(matrix, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["support_matrix.py", *arguments])
    return matrix.main()


def outcome(matrix, name: str) -> dict:
    return json.loads(matrix.record(name).read_text())


def test_the_rows_are_the_ends_of_what_setup_py_allows(matrix) -> None:
    rows = matrix.rows()
    assert matrix.wanted(rows["py3.11-newest"])[0] == ".[test]"
    oldest = matrix.wanted(rows["py3.13-oldest"])
    assert {"torch==2.8", "torchvision==0.23"} <= set(oldest)
    assert not any(package.startswith("numpy") for package in oldest)
    plain = matrix.wanted(rows["plain-oldest"])
    assert plain[0] == "."
    assert {"torch==2.8", "numpy==1.26", "rich==13.7", "pyyaml==6.0"} <= set(plain)
    assert len(plain) == 1 + len(matrix.requirements()) + len(matrix.RUNNER)


def test_every_test_that_a_row_names_exists(matrix) -> None:
    assert all((ROOT / path).exists() for paths in matrix.TESTS.values() for path in paths)


def test_a_python_that_is_missing_or_does_not_run_is_untested(
    matrix, monkeypatch, tmp_path, capsys
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert run(matrix, monkeypatch, "--rows", "py3.12-oldest") == 0
    assert outcome(matrix, "py3.12-oldest")["detail"] == "there is no python3.12 here"
    shim = tmp_path / "bin" / "python3.12"
    shim.parent.mkdir()
    shim.write_text("#!/bin/sh\necho 'no such version' >&2\nexit 127\n")
    shim.chmod(0o755)
    assert run(matrix, monkeypatch, "--rows", "py3.12-oldest") == 0
    assert outcome(matrix, "py3.12-oldest")["outcome"] == "untested"
    assert f"{shim} is no Python 3.12 that runs" in capsys.readouterr().out


def test_detectron2_is_untested_unless_its_source_is_named(matrix, monkeypatch) -> None:
    monkeypatch.setattr(matrix, "find_python", lambda version: sys.executable)
    assert run(matrix, monkeypatch, "--rows", "detectron2") == 0
    assert outcome(matrix, "detectron2")["outcome"] == "untested"
    assert "DETECTRON2" in outcome(matrix, "detectron2")["detail"]


def test_a_row_that_cannot_be_installed_fails_and_the_next_one_runs(
    matrix, monkeypatch, tmp_path
) -> None:
    """With a real environment, into which pip cannot install what setup.py asks for."""
    monkeypatch.setattr(matrix, "find_python", lambda version: sys.executable)
    monkeypatch.setattr(matrix, "wanted", lambda row: ["--no-index", "no-such-package-of-ours"])
    assert run(matrix, monkeypatch, "--rows", "py3.11-oldest", "detectron2") == 1
    seen = outcome(matrix, "py3.11-oldest")
    assert seen["outcome"] == "failed"
    assert re.fullmatch(r"installing .*: exit status 1: ERROR: No matching .*", seen["detail"])
    assert outcome(matrix, "detectron2")["outcome"] == "untested"
    assert not list(matrix.RECORDS.glob("*-env"))


@pytest.mark.usefixtures("uses_this_environment")
@pytest.mark.parametrize(
    ("sources", "status", "seen"),
    [
        ([GREEN, SKIPPED], 0, ("passed", "1 passed, 0 failed, 1 skipped")),
        ([GREEN, RED], 1, ("failed", "1 passed, 1 failed, 0 skipped")),
        ([SKIPPED], 1, ("failed", "0 passed, 0 failed, 1 skipped")),  # it has shown nothing
        (["import no_such_module\n"], 1, ("failed", None)),
    ],
    ids=["one skipped", "one red", "all skipped", "not collected"],
)
def test_what_the_tests_say_is_told(
    matrix, monkeypatch, tmp_path, sources, status, seen, capsys
) -> None:
    for number, source in enumerate(sources):
        (tmp_path / f"test_{number}.py").write_text(source)
    monkeypatch.setattr(matrix, "TESTS", {"core": [f"test_{n}.py" for n in range(len(sources))]})
    assert run(matrix, monkeypatch, "--rows", "py3.11-newest") == status
    found = outcome(matrix, "py3.11-newest")
    assert found["outcome"] == seen[0]
    assert seen[1] in (None, found["detail"])
    assert found["versions"].keys() == {"python", "torch", "torchvision"}
    assert found["detail"] in capsys.readouterr().out
    assert not list(matrix.RECORDS.glob("*-env"))


def test_the_table_keeps_rows_of_other_days_and_names_those_never_run(
    matrix, monkeypatch, tmp_path
) -> None:
    matrix.RECORDS.mkdir(parents=True)
    versions = {"python": "3.11.9", "torch": "2.8.0", "torchvision": "0.23.0"}
    before = matrix.Seen("passed", "5 passed", "core", versions, "2026-01-31")
    matrix.record("py3.11-oldest").write_text(json.dumps(vars(before)))
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{matrix.BEGIN}\nold\n{matrix.END}\n\nAfter\n")
    assert run(matrix, monkeypatch, "--rows", "detectron2", "--output", str(page)) == 0
    text = page.read_text()
    assert text.startswith(f"# Before\n\n{matrix.BEGIN}\n| row |")
    assert text.endswith(f" |\n{matrix.END}\n\nAfter\n")
    assert "| 3.11.9 | 2.8.0 | 0.23.0 |" in text
    assert "passed: 5 passed | 2026-01-31 |" in text
    assert "| plain-oldest | 3.11 |  |  | none | plain | untested: this row was not run |" in text
    assert text.count("\n| ") == 1 + len(matrix.rows())


def test_a_document_without_markers_is_left_alone(matrix, monkeypatch, tmp_path) -> None:
    page = tmp_path / "page.md"
    page.write_text("A page.\n")
    with pytest.raises(SystemExit, match="has no line <!-- begin of the table -->"):
        run(matrix, monkeypatch, "--rows", "detectron2", "--output", str(page))
    assert page.read_text() == "A page.\n"


def test_a_step_sees_nothing_of_this_checkouts_python_path(matrix, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.fspath(ROOT))
    log = tmp_path / "log"
    matrix.step("look", [sys.executable, "-c", "import os; print(os.environ['PATH'])"], log)
    assert log.read_text() == os.environ["PATH"] + "\n"
    code = "import os; os.environ['PYTHONPATH']"
    with pytest.raises(matrix.RowError, match="look: exit status 1: KeyError: 'PYTHONPATH'"):
        matrix.step("look", [sys.executable, "-c", code], log)
    monkeypatch.setattr(matrix, "STEP_LIMIT", 0.2)
    with pytest.raises(matrix.RowError, match=r"wait: not done after 0\.2 s"):
        matrix.step("wait", [sys.executable, "-c", "import time; time.sleep(60)"], log)


def test_the_classifiers_are_the_pythons_that_passed() -> None:
    table = PAGE.read_text(encoding="utf-8")
    passed = re.findall(r"^\| [\w.-]+ \| (3\.\d+)\.\d+ \|.*\| passed: ", table, re.MULTILINE)
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    told = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', setup)
    assert told == sorted(set(passed), key=lambda version: int(version.partition(".")[2]))


def test_the_page_shows_every_row(matrix) -> None:
    shown = re.findall(r"^\| (py[\w.-]+|plain-\w+|detectron2) \|", PAGE.read_text(), re.MULTILINE)
    assert shown == list(matrix.rows())
