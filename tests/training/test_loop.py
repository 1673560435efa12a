"""The loop with a task of its own, and what a run leaves on the disk."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from bit_backbone.training.loop import Task, run_task
from bit_backbone.training.runlog import read_log
from bit_backbone.training.saving import RunStore
from bit_backbone.training.settings import RunSettings
from bit_backbone.training.state import RunState
from bit_backbone.training.stream import BatchPlan, ExampleStream
from bit_backbone.utils.processes import ONE_PROCESS

SETTINGS = RunSettings(batch_size=2, base_lr=0.1, save_every=3, eval_every=4)
STEPS = 8


class Noise:
    """Points of y = 2 x, with noise drawn at every look."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tensor([float(index)])
        return x, 2 * x + torch.randn(1)


class Line(Task[RunSettings, dict[str, float]]):
    """Fits a line, remembers how many steps it made, and can be stopped at one."""

    title = "fitting"

    def __init__(self, settings, group, stop=None, evaluates=True) -> None:
        rates = STEPS, lambda step: settings.base_lr / (step + 1)
        super().__init__(Noise(), Noise() if evaluates else None, settings, group, *rates)
        self.made, self.stop = 0, stop

    def run_settings(self, saved, folder):
        return self.settings.to_record()

    def build(self, saved, folder):
        torch.manual_seed(self.settings.seed)
        return nn.Linear(1, 1)

    def make_optimizer(self, trained):
        return torch.optim.SGD(trained, 0.1, self.settings.momentum)

    def plan(self, steps):
        return BatchPlan(ExampleStream(len(self.train_set), 0), self.settings.batch_size, steps)

    def step(self, batch, step):
        x, y = batch
        loss = (self.network(x) - y).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.made += 1
        if step == self.stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": loss.item()}

    def evaluate(self, advance, failed):
        advance(len(self.eval_set))
        return {"slope": self.model.weight.item()}

    def remember(self):
        return {"made": self.made}

    def recall(self, remembered):
        self.made = remembered["made"]


def train(folder: Path, **options):
    return run_task(partial(Line, SETTINGS, **options), folder, SETTINGS, "cpu", False)


@pytest.mark.parametrize("stop", range(STEPS - 1))
def test_a_stopped_task_resumes_bit_for_bit(stop: int, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    stopped = train(tmp_path / "parts", stop=stop)
    assert (stopped.step, stopped.signal, stopped.metrics) == (stop + 1, signal.SIGTERM, None)
    resumed = train(tmp_path / "parts")
    assert (resumed.step, resumed.signal) == (STEPS, 0)
    assert resumed.metrics == whole.metrics
    states = [RunState.load(tmp_path / name) for name in ("whole", "parts")]
    assert torch.equal(states[0].model["weight"], states[1].model["weight"])
    assert [state.extra for state in states] == [{"made": STEPS}] * 2
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert [e["step"] for e in logs[0] if "eval_slope" in e] == [4, 8]
    assert [e["learning_rate"] for e in logs[0] if "loss" in e][1] == 0.05


def test_every_evaluation_is_a_line_where_there_is_no_terminal(tmp_path: Path, capfd) -> None:
    result = run_task(partial(Line, SETTINGS), tmp_path, SETTINGS, "cpu", True)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]
    slopes = [e["eval_slope"] for e in read_log(tmp_path / "log.jsonl") if "eval_slope" in e]
    assert lines == [
        f"step {step} of {STEPS}  slope {slope:.4g}"
        for step, slope in zip((4, 8), slopes, strict=True)
    ]
    assert slopes[-1] == result.metrics["slope"]


def test_a_task_without_an_evaluation_set_is_not_evaluated(tmp_path: Path) -> None:
    assert train(tmp_path, evaluates=False).metrics is None
    assert all("eval_slope" not in event for event in read_log(tmp_path / "log.jsonl"))


def test_a_state_is_saved_at_the_steps_told(tmp_path, monkeypatch) -> None:
    steps = []
    monkeypatch.setattr(RunState, "save", lambda state, folder: steps.append(state.step))
    train(tmp_path)
    assert steps == [3, 4, 6, 8]  # every third, and before each evaluation


def test_the_file_of_a_state_has_the_keys_that_earlier_versions_wrote(tmp_path: Path) -> None:
    train(tmp_path)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert list(saved) == ["step", "settings", "model", "optimizer", "extra"]
    assert saved["settings"] == {
        "batch_size": 2, "base_lr": 0.1, "momentum": 0.9, "seed": 0, "precision": "float32"
    }  # fmt: skip
    torch.save(saved, tmp_path / "last.pt")
    assert train(tmp_path).step == STEPS


def test_a_record_of_shards_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    shards = tmp_path / "step-0000004.dcp"
    shards.mkdir()
    (shards / "run.json").write_text(json.dumps({"step": 4, "recipe": {"seed": 1}, "extra": {}}))
    with RunStore(tmp_path, ONE_PROCESS, sharded=True) as store:
        assert store.open() == RunState(4, {"seed": 1})
    message = "holds a run with FSDP; resume with it"
    whole = RunStore(tmp_path, ONE_PROCESS, sharded=False)
    with whole, pytest.raises(ValueError, match=message):
        whole.open()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"save_every": 0}, "save_every must be at least 1, got 0"),
        ({"eval_every": 0}, "eval_every must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, float16, got 'int8'"),
    ],
)
def test_a_setting_out_of_its_range_is_rejected(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunSettings(**{"batch_size": 2, "base_lr": 0.1} | values)
