"""Progress of long work, on a terminal and in a log."""

import pytest

from bit_backbone.training.progress import Progress
from bit_backbone.utils import progress
from bit_backbone.utils.progress import Bars, Pace, track


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


@pytest.mark.parametrize(("done", "told"), [(0, ""), (4, "tuning resumes after step 4\n"), (9, "")])
def test_a_run_says_where_it_resumes(
    done: int, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Progress(enabled=True) as bars:
        bars.training("tuning", 9, done).remove()
        assert capfd.readouterr().err == told


@pytest.mark.parametrize(
    ("seconds", "unit", "rate", "left"),
    [
        (0.25, "image", "4.0 images/s", "0:00:20 left"),
        (2.0, "step", "2.0 s/step", "0:02:40 left"),
        (1.0, None, "1.0 items/s", "0:01:20 left"),
    ],
)
def test_the_rate_and_the_time_left_agree(
    seconds: float, unit: str | None, rate: str, left: str, capfd: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    with Bars(enabled=True, get_time=lambda: clock[0]) as bars:
        task = bars.add_task("working", total=100, **({"unit": unit} if unit else {}))
        for _ in range(20):
            clock[0] += seconds
            bars.advance(task)
        shown = Pace().render(bars.tasks[0]).plain
    assert shown == f"{rate}, {left}"
    assert rate in capfd.readouterr().err


def pace(*events: tuple[float, int], now: float | None = None, **task: object) -> str:
    """What stands beside the bar after some items were done at some times, and at a time."""
    clock = [0.0]
    bars = Bars(enabled=False, get_time=lambda: clock[0])
    number = bars.add_task("working", unit="image", **{"total": 1000, **task})
    for clock[0], items in events:
        for _ in range(items):
            bars.advance(number)
    clock[0] = clock[0] if now is None else now
    return Pace().render(bars.tasks[0]).plain


@pytest.mark.parametrize(
    ("events", "rate"),
    [
        ([(4.0, 32)], "8.0 images/s"),  # all at once: since the start, not among themselves
        ([(4.0, 32), (8.0, 32)], "8.0 images/s"),
        ([(0.5 * i, 2) for i in range(1, 200)], "4.0 images/s"),
        ([(20.0, 20), (40.0, 200), (70.0, 300)], "10.0 images/s"),  # the last half minute
        ([(40.0, 4), (140.0, 1)], "100.0 s/image"),
        ([(0.01, 3)], "300.0 images/s"),
    ],
)
def test_the_rate_of_batches_counts_the_time_they_took(events, rate: str) -> None:
    assert pace(*events).split(", ")[0] == rate


def test_the_rate_of_a_resumed_run_is_that_of_its_own_items() -> None:
    assert pace((10.0, 50), completed=900) == "5.0 images/s, 0:00:10 left"


def test_the_rate_falls_in_a_long_pause_and_stays_after_the_end() -> None:
    assert pace((10.0, 100), now=30.0) == "10.0 images/s, 0:01:30 left"
    assert pace((10.0, 100), now=100.0) == "1.0 images/s, 0:15:00 left"
    assert pace((10.0, 100), now=100.0, total=100) == "10.0 images/s"


def test_there_is_no_pace_before_the_first_step() -> None:
    bars = Bars(enabled=False)
    bars.add_task("working", total=3)
    assert Pace().render(bars.tasks[0]).plain == ""


def test_a_run_reports_in_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with Progress(enabled=True) as bars:
        bars.report("step 4 of 8", box_AP=0.123456, loss=2.0)
    with Progress(enabled=False) as bars:
        bars.report("never seen")
    assert capfd.readouterr().err.strip() == "step 4 of 8  box_AP 0.1235  loss 2"
