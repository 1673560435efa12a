"""Progress of long work, on a terminal and in a log."""

import pytest

from bit_backbone.training.progress import Progress
from bit_backbone.utils import progress
from bit_backbone.utils.progress import Bars, track


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with Bars() as bars:
        task = bars.add_task("working", total=40)
        for _ in range(40):
            bars.advance(task)
    told = capfd.readouterr()
    assert told.out == ""
    lines = [line for line in told.err.splitlines() if "working" in line]
    assert 2 <= len(lines) <= 4
    assert "100%" not in lines[0]
    assert "100%" in lines[-1]


def test_short_work_shows_its_end_alone(capfd: pytest.CaptureFixture[str]) -> None:
    assert list(track(range(30), "counting")) == list(range(30))
    (line,) = capfd.readouterr().err.splitlines()
    assert "counting" in line
    assert "100%" in line


def test_nothing_is_shown_where_nothing_shall_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    assert list(track("abc", "counting", enabled=False)) == ["a", "b", "c"]
    assert capfd.readouterr().err == ""


def test_a_terminal_gets_no_lines(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its bar is drawn over and over in one place."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    with Bars(auto_refresh=False) as bars:
        task = bars.add_task("working", total=200)
        for _ in range(200):
            bars.advance(task)
        drawn = capfd.readouterr().err
    assert drawn.count("working") <= 2


@pytest.mark.parametrize(("done", "told"), [(0, ""), (4, "tuning goes on after step 4\n"), (9, "")])
def test_a_run_says_where_it_goes_on(
    done: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(enabled=True) as bars:
        bars.training("tuning", 9, done).remove()
        assert capfd.readouterr().err == told
