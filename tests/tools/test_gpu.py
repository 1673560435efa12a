"""tools/gpu.py: its status says whether every part passed, and its report what each printed."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import gpu


def part(title: str, code: str, limit: int = 60) -> gpu.Part:
    return gpu.Part(title, ("-c", code), limit)


@pytest.mark.parametrize(
    ("parts", "status", "texts"),
    [
        ([part("one", "print('fine')")], 0, ["## one", "passed in", "fine"]),
        (
            [part("bad", "import sys; print('no'); sys.exit(5)"), part("good", "print('yes')")],
            1,
            ["## bad", "failed with exit status 5", "no", "## good", "yes"],
        ),
        ([part("slow", "import time; time.sleep(60)", 1)], 1, ["exit status 124", "after 1 s"]),
    ],
)
def test_the_report_and_the_status(parts, status, texts, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(gpu, "dry_parts", lambda _: parts)
    assert gpu.main(["--dry-run", "--output", str(tmp_path / "made")]) == status
    report = (tmp_path / "made" / "report.md").read_text()
    assert all(text in report for text in texts)
    passed = sum("passed in" in line for line in report.splitlines())
    assert f"{passed} of {len(parts)} parts passed" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_only_the_dry_run(tmp_path, capsys) -> None:
    assert gpu.main(["--output", str(tmp_path / "none")]) == 2
    assert "use --dry-run" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_parts_take_less_than_eight_minutes_and_know_their_options(tmp_path) -> None:
    parts = gpu.gpu_parts(tmp_path)
    assert sum(p.limit for p in parts) <= 8 * 60
    for p in parts[1:]:
        done = gpu.run(gpu.Part(p.title, (*p.command, "--help"), 60))
        assert done[0] == 0
    for p in (*parts, *gpu.dry_parts(tmp_path)):
        assert (gpu.ROOT / next(a for a in p.command if a.endswith(".py"))).is_file()


@pytest.mark.slow
def test_the_dry_run(tmp_path) -> None:
    assert gpu.main(["--dry-run", "--output", str(tmp_path)]) == 0
    assert {"report.md", "eager.json", "training.json"} <= {f.name for f in tmp_path.iterdir()}
