"""Images that cannot be read: replaced by the plan's next, counted, bounded and listed."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from test_loop import SETTINGS, STEPS, Line, Noise

from bit_backbone.detection.batches import AspectRatioBatches
from bit_backbone.training.drawing import MOST_ATTEMPTS, draw
from bit_backbone.training.evaluation import evaluated
from bit_backbone.training.loop import run_task
from bit_backbone.training.problems import ProblemLog, check_share, read_problems
from bit_backbone.training.runlog import read_log
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import BatchPlan, ExampleStream, Plan
from bit_backbone.utils.processes import ONE_PROCESS, ProcessGroup
from bit_backbone.utils.unreadable import Unreadable, UnreadableImageError, reading


class Damaged(Noise):
    """Noise of which some examples cannot be read; keeps those that were asked for."""

    def __init__(self, lost: set[int]) -> None:
        self.lost, self.asked = lost, []

    def __getitem__(self, index: int):
        self.asked.append(index)
        if index in self.lost:
            raise UnreadableImageError(f"{index} is damaged", f"{index}.png")
        return super().__getitem__(index)


class DamagedLine(Line):
    """Fits a line to what can be read."""

    def __init__(self, settings, group, lost=frozenset({2}), known=(), **options) -> None:
        super().__init__(settings, group, evaluates=False, **options)
        self.train_set, self.known = Damaged(lost), known

    def problems(self):
        return list(self.known)


def train(folder: Path, **options):
    return run_task(partial(DamagedLine, SETTINGS, **options), folder, SETTINGS, "cpu", False)


@pytest.mark.parametrize("stop", range(0, STEPS - 1, 2))
def test_a_stopped_run_with_a_damaged_image_resumes_bit_for_bit(stop: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    stopped = train(tmp_path / "parts", stop=stop)
    assert stopped.step == stop + 1
    resumed = train(tmp_path / "parts")
    states = [RunState.load(tmp_path / name) for name in ("whole", "parts")]
    assert torch.equal(states[0].model["weight"], states[1].model["weight"])
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert whole.unreadable == resumed.unreadable == 1
    for name in ("whole", "parts"):  # once, however often it was met
        (record,) = read_problems(tmp_path / name)
        assert (record["set"], record["kind"], record["file"]) == (
            "train",
            "unreadable image",
            "2.png",
        )


def test_what_was_known_before_is_written_anew_and_what_was_met_is_kept(tmp_path: Path) -> None:
    known = {"set": "train", "kind": "empty box", "file": "a.png"}
    train(tmp_path, stop=3, known=[known])
    train(tmp_path, known=[known | {"file": "b.png"}])
    told = [(r["kind"], r["file"]) for r in read_problems(tmp_path)]
    assert told == [("empty box", "b.png"), ("unreadable image", "2.png")]


def test_a_run_without_problems_has_no_file(tmp_path: Path) -> None:
    assert train(tmp_path, lost=frozenset()).unreadable == 0
    assert not (tmp_path / "problems.jsonl").exists()


def test_too_many_end_the_run(tmp_path: Path, caplog) -> None:
    with pytest.raises(
        ValueError, match=r"at most 1% .*; 2 of the 5 images of the train set are: .*prob"
    ):
        train(tmp_path, lost=frozenset({1, 2}))
    assert "unreadable image, left out: 2 is damaged" in caplog.text
    assert {r["file"] for r in read_problems(tmp_path)} == {"1.png", "2.png"}
    with pytest.raises(ValueError, match=r"pass max_unreadable=0.1"):  # a second start remembers
        train(tmp_path, lost=frozenset({3}))


@pytest.mark.parametrize(
    ("count", "total", "share", "passes"),
    [
        (0, 5, 0, True),
        (1, 5, 0, False),
        (1, 5, 0.01, True),
        (2, 5, 0.01, False),
        (2, 5, 0.4, True),
        (3, 5, 0.4, False),
        (5, 5, 1, True),
        (10, 1000, 0.01, True),
        (11, 1000, 0.01, False),
    ],
)
def test_the_bound(count: int, total: int, share: float, passes: bool) -> None:
    if passes:
        check_share(count, total, share, "train", "here")
    else:
        with pytest.raises(
            ValueError, match=f"; {count} of the {total} images of the train set are: here"
        ):
            check_share(count, total, share, "train", "here")


@pytest.mark.parametrize(
    "plan",
    [
        BatchPlan(ExampleStream(7, 3), 3, range(4)),
        BatchPlan(ExampleStream(7, 3), 4, range(4), 1, 2),
        AspectRatioBatches([0.5, 2.0, 1.0, 0.7, 3.0], 2, 3, range(7)),
    ],
)
def test_a_plan_says_what_follows(plan: Plan) -> None:
    listed = {position: index for batch in plan for position, index in batch}
    assert all(plan.index_at(position) == index for position, index in listed.items())
    first = min(listed)
    following = plan.following((first, listed[first]))
    assert [next(following) for _ in range(4)] == [plan.index_at(first + i) for i in range(4)]
    assert len(list(plan.following((0, 1)))) == MOST_ATTEMPTS


def test_an_example_is_replaced_by_the_next_that_can_be_read() -> None:
    drawn = draw(Damaged({1, 2}), iter([2, 1, 2, 4]))
    assert drawn.index == 4
    assert [failure.file for failure in drawn.failures] == ["2.png", "1.png", "2.png"]
    with pytest.raises(UnreadableImageError, match="3 images in a row cannot be read: 2 is dam"):
        draw(Damaged({1, 2}), iter([2, 1, 2]))
    with pytest.raises(UnreadableImageError, match=r"^2 is damaged"):
        draw(Damaged({1, 2}), iter([2]))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_counts_what_can_be_read(workers: int) -> None:
    data, failed = Damaged({1, 4}), []
    model, seen = torch.nn.Identity(), []
    options = {"batch_size": 2, "workers": workers, "advance": seen.append}
    batches = []
    for batch in evaluated(model, data, ONE_PROCESS, failed=failed, **options):
        assert not model.training
        batches.append(batch)
    assert model.training
    assert seen == [2, 2, 1]
    assert [c for counts, _, _ in batches for c in counts] == [True, False, True, True, False]
    assert all(x.shape == y.shape for _, x, y in batches)
    assert [failure.index for failure in failed] == [1, 4]
    with pytest.raises(UnreadableImageError, match="1 is damaged"):
        list(evaluated(model, data, ONE_PROCESS, **options))


class Together(ProcessGroup):
    """The second of two processes, of which the first could not read another image each time."""

    told: ClassVar[list[Unreadable]] = []

    def max(self, value: int) -> int:
        return 1

    def gather(self, value):
        other = Unreadable(len(self.told), f"{len(self.told)}.png", "gone")
        self.told.append(other)
        return [[] if len(self.told) == 1 else [other], value]


def test_processes_hear_of_each_others_images(tmp_path: Path) -> None:
    log = ProblemLog(tmp_path, Together(1, 2, torch.device("cpu")), 0.01, print)
    log.note("train", [Unreadable(3, "3.png", "cut")], 500)
    assert log.unreadable == 2
    with pytest.raises(ValueError, match="3 of the 100 images of the train set are"):
        log.note("train", [], 100)
    assert not (tmp_path / "problems.jsonl").exists()  # the first process writes


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    line = json.dumps({"set": "train", "kind": "unreadable image", "file": "a"})
    (tmp_path / "problems.jsonl").write_text(f'{line}\n{{"set": "tr')
    assert [record["file"] for record in read_problems(tmp_path)] == ["a"]


def errors() -> Iterator[Exception]:
    yield from (ValueError("a"), OSError("b"), MemoryError(), FileNotFoundError(2, "c"))
    yield RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("error", list(errors()), ids=repr)
def test_whatever_a_file_raises_is_its_failure(error: Exception) -> None:
    with pytest.raises(UnreadableImageError, match=r"^pic: .") as caught, reading("p", "pic: "):
        raise error
    assert caught.value.path == "p"


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), KeyError("a")], ids=repr)
def test_other_troubles_are_no_images(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, reading("p"):
        raise error
    assert not isinstance(caught.value, UnreadableImageError)


@pytest.mark.parametrize(("count", "processes"), [(21, 2), (7, 4), (3, 4), (8, 2)])
def test_no_example_is_counted_twice_on_several_processes(count: int, processes: int) -> None:
    data = Noise()
    data.__class__ = type("Many", (Noise,), {"__len__": lambda self: count})
    counted, lengths = [], set()
    for rank in range(processes):
        group = ProcessGroup(rank, processes, torch.device("cpu"))
        batches = list(evaluated(torch.nn.Identity(), data, group, batch_size=2))
        drawn = [(c, int(x)) for counts, xs, _ in batches for c, x in zip(counts, xs, strict=True)]
        lengths.add(len(drawn))
        counted += [index for is_counted, index in drawn if is_counted]
    assert sorted(counted) == list(range(count))
    assert len(lengths) == 1  # forward passes of sharded models have to be equally many
