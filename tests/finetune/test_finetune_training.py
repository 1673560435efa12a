"""Fine-tuning runs: learning, resuming, splitting, distributing and stopping."""

import dataclasses
import io
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from finetune_run import SETTINGS, Examples, make_model
from torch.utils.data import TensorDataset

from bit_backbone.finetune import FineTuneSettings, finetune
from bit_backbone.training.runlog import read_log
from bit_backbone.training.state import RunState

TESTS = Path(__file__).parents[1]


def run(folder, examples=None, model=None, eval_set=None, **settings):
    return finetune(
        model or make_model(),
        examples or Examples(),
        folder,
        FineTuneSettings(**{**SETTINGS, **settings}),
        eval_set=eval_set,
        device="cpu",
        show_progress=False,
    )


def start(folder, pause=0.0, launcher=(), **settings):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS))),
        "OMP_NUM_THREADS": "1",
    }
    script = [str(TESTS / "finetune_run.py"), str(folder), json.dumps(settings), str(pause)]
    return subprocess.Popen(
        [sys.executable, *launcher, *script], env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for_steps(process, folder, steps):
    """Waits until a run has logged so many steps."""
    log = folder / "log.jsonl"
    while not log.exists() or len(read_log(log)) < steps:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def losses(folder):
    events = [event for event in read_log(folder / "log.jsonl") if "loss" in event]
    assert [event["step"] for event in events] == list(range(len(events)))
    return [event["loss"] for event in events]


def final(folder):
    return RunState.load(folder)


def assert_same_state(folder, expected):
    a, b = final(folder), final(expected)
    assert a.step == b.step == SETTINGS["steps"]
    for name, value in b.model.items():
        assert torch.equal(a.model[name], value), name
    for key, value in b.optimizer["state"].items():
        assert torch.equal(a.optimizer["state"][key]["momentum_buffer"], value["momentum_buffer"])


def test_what_a_configuration_makes_a_model_return_does_not_matter(tmp_path):
    for name, given in (
        ("plain", {}),
        ("other", {"output_hidden_states": True, "return_dict": False}),
    ):
        run(tmp_path / name, model=make_model(**given), eval_set=Examples(5), steps=2)
    expected = losses(tmp_path / "plain")
    assert losses(tmp_path / "other") == expected
    assert len(expected) == 2


def test_it_learns(tmp_path):
    model = make_model()
    result = run(
        tmp_path, Examples(64), model, Examples(24), steps=80, batch_size=16, eval_every=40,
        mixup_alpha=0,
    )  # fmt: skip
    assert (result.step, result.signal) == (80, 0)
    assert result.metrics.top1 > 0.9
    assert result.metrics.num_examples == 24
    log = read_log(tmp_path / "log.jsonl")
    evaluations = [event for event in log if "eval_top1" in event]
    assert [event["step"] for event in evaluations] == [40, 80]
    assert evaluations[-1]["eval_loss"] == result.metrics.loss
    assert [e["learning_rate"] for e in log if "loss" in e][:20] == pytest.approx(
        [0.05 * min(step / 16, 1) for step in range(20)]
    )
    assert sum(losses(tmp_path)[-5:]) < 0.5 * sum(losses(tmp_path)[:5])


def test_the_log_is_in_tensorboard_too(tmp_path):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, steps=4, eval_set=Examples(4))
    board = accumulators.EventAccumulator(str(tmp_path)).Reload()
    assert [s.value for s in board.Scalars("loss")] == pytest.approx(losses(tmp_path))
    assert [s.step for s in board.Scalars("eval/top1")] == [4]


class Failing(Examples):
    """Breaks at the given example of the run."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def __getitem__(self, index):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_broken_run_resumes_bit_for_bit(tmp_path, precision):
    eval_set = TensorDataset(torch.randn(4, 3, 20, 20), torch.arange(4))
    options = {"precision": precision, "eval_set": eval_set, "eval_every": 3}
    run(tmp_path / "whole", model=make_model(drop_path_rate=0.2), **options)
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "broken", Failing(8 * 7 + 3), make_model(drop_path_rate=0.2), **options)
    assert final(tmp_path / "broken").step == 6
    torch.manual_seed(77)  # nothing may depend on the caller's generators
    result = run(tmp_path / "broken", model=make_model(drop_path_rate=0.2), **options)
    assert_same_state(tmp_path / "broken", tmp_path / "whole")
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("broken", "whole")]
    assert logs[0] == logs[1]
    model = make_model(drop_path_rate=0.2)
    again = run(tmp_path / "broken", model=model, **options)  # has nothing left to do
    assert again.metrics == result.metrics
    assert all(p.dtype == torch.float32 for p in final(tmp_path / "broken").model.values())


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    whole = start(tmp_path / "whole", drop_path_rate=0.2)
    at = random.Random().randint(1, 11)
    killed = start(tmp_path / "killed", pause=0.02, drop_path_rate=0.2)
    wait_for_steps(killed, tmp_path / "killed", at)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert start(tmp_path / "killed", drop_path_rate=0.2, workers=1).wait() == 0
    assert whole.wait() == 0
    assert_same_state(tmp_path / "killed", tmp_path / "whole")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole"), f"killed after step {at}"


class Signalling(Examples):
    """Sends a signal to its process at the given example of the run."""

    def __init__(self, number, at):
        super().__init__()
        self.number, self.left = number, at

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


def test_a_sharded_run_killed_before_its_last_file_gets_it(tmp_path):
    store = f"file://{tmp_path / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", store, rank=0, world_size=1)
    try:
        run(tmp_path, fsdp=True, steps=2)
        expected = final(tmp_path)
        (tmp_path / "last.pt").unlink()
        assert run(tmp_path, fsdp=True, steps=2).step == 2
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(final(tmp_path).model, expected.model, rtol=0, atol=0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_first(tmp_path, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    result = run(tmp_path / "ended", Signalling(number, 8 * 4 + 1), save_every=1000)
    assert (result.step, result.signal, result.metrics) == (5, number, None)
    assert final(tmp_path / "ended").step == len(losses(tmp_path / "ended")) == 5
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert run(tmp_path / "ended", save_every=1000).signal == 0
    run(tmp_path / "whole")
    assert_same_state(tmp_path / "ended", tmp_path / "whole")


class Broken(Examples):
    """An evaluation set without a readable image."""

    def __getitem__(self, index):
        raise OSError("the image is broken")


@pytest.mark.parametrize(("eval_every", "steps"), [(None, 12), (5, 5)])
def test_a_failed_evaluation_costs_no_step_and_is_made_up_for(tmp_path, eval_every, steps):
    options = {"eval_every": eval_every, "save_every": 100, "steps": 12}
    eval_set = TensorDataset(torch.randn(4, 3, 20, 20), torch.arange(4))
    whole = run(tmp_path / "whole", eval_set=eval_set, **options)
    with pytest.raises(OSError, match="the image is broken"):
        run(tmp_path / "broken", eval_set=Broken(4), **options)
    assert final(tmp_path / "broken").step == steps
    assert run(tmp_path / "broken", eval_set=eval_set, **options).metrics == whole.metrics
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("broken", "whole")]
    assert logs[0] == logs[1]


def test_a_signal_during_the_last_evaluation_is_told(tmp_path):
    result = run(tmp_path, eval_set=Signalling(signal.SIGTERM, 3), steps=2)
    assert (result.step, result.signal, result.metrics.num_examples) == (2, signal.SIGTERM, 21)
    assert run(tmp_path, steps=2).signal == 0


@pytest.fixture
def interruptible():
    """Gives SIGINT Python's handler: a shell ignores it for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    class Impatient(Signalling):
        def __getitem__(self, index):
            if self.left == 0:
                self.left = 1
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Impatient(signal.SIGINT, 3))


@pytest.fixture
def double():
    """Computes in float64, in which rounding does not grow to be seen."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
def test_two_processes_equal_one(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    pair = start(tmp_path / "two", launcher=launcher, batch_split=2)
    run(tmp_path / "one")
    assert pair.wait() == 0, pair.stderr.read()
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-8)
    two = final(tmp_path / "two").model
    for name, value in final(tmp_path / "one").model.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-8)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("batch_split", [2, 3])
def test_a_split_batch_gives_the_same_curve(tmp_path, batch_split):
    run(tmp_path / "whole")
    run(tmp_path / "split", batch_split=batch_split)
    assert losses(tmp_path / "split") == pytest.approx(losses(tmp_path / "whole"), rel=1e-8)


def test_frozen_parameters_stay(tmp_path):
    model = make_model()
    model.stem.requires_grad_(False)
    before = model.stem.conv.weight.clone()
    run(tmp_path, model=model)
    assert torch.equal(model.stem.conv.weight, before)


def test_the_rules_defaults(tmp_path):
    settings = FineTuneSettings()
    assert (settings.batch_size, settings.base_lr, settings.momentum) == (512, 0.003, 0.9)
    assert [settings.schedule(n).total for n in (1, 20_000, 500_000)] == [500, 10_000, 20_000]
    assert [settings.alpha(n) for n in (19_999, 20_000)] == [0.0, 0.1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_lr": 0.1}, r"at step 12 with other settings \(base_lr 0.05 -> 0.1\); give it the"),
        ({"seed": 1, "steps": 9}, r"\(seed 0 -> 1, steps 12 -> 9\)"),
        ({"examples": Examples(22)}, r"\(num_examples 21 -> 22\)"),
        (
            {"model": make_model(global_padding="same")},
            r"\(network.global_padding None -> 'same'\)",
        ),
        ({"model": make_model(seed=6)}, r"\(initial_weights '\w{64}' -> '\w{64}'\)"),
        ({"model": make_model(zero=True)}, r"\(initial_weights .*, zero_head False -> True\)"),
    ],
)
def test_a_run_is_resumed_with_its_own_settings(tmp_path, changes, message):
    run(tmp_path)
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **changes)


def test_a_model_that_a_run_has_trained_resumes_with_it(tmp_path):
    run(tmp_path / "whole")
    model = make_model()
    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path / "broken", Failing(8 * 7 + 3), model)
    run(tmp_path / "broken", model=model)  # its weights are those of step 7, the state's of step 6
    assert_same_state(tmp_path / "broken", tmp_path / "whole")
    loaded = make_model(seed=6)
    loaded.load_state_dict(final(tmp_path / "broken").model)
    assert run(tmp_path / "broken", model=loaded).step == SETTINGS["steps"]
    with pytest.raises(ValueError, match=r"other settings \(initial_weights"):
        run(tmp_path / "broken", model=make_model(seed=6))
    run(tmp_path / "next", model=model)
    with pytest.raises(ValueError, match=r"other settings \(initial_weights"):
        run(tmp_path / "next")  # which began with trained weights


NO_START = {"network": None, "zero_head": None, "initial_weights": None}


@pytest.mark.parametrize("start", [NO_START, {"initial_weights": "0" * 16}])
def test_a_run_of_a_version_that_recorded_its_start_otherwise_resumes_with_a_warning(
    start, tmp_path, caplog
):
    run(tmp_path, steps=1)
    state = final(tmp_path)
    settings = {**state.settings, **start}
    settings = {name: value for name, value in settings.items() if value is not None}
    dataclasses.replace(state, settings=settings).save(tmp_path)
    assert run(tmp_path, steps=1).step == 1
    assert "weights that it started from in the same way: they are not compared" in caplog.text
    with pytest.raises(ValueError, match="seed 0 -> 1"):
        run(tmp_path, steps=1, seed=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"precision": "int8"}, "precision must be one of float32, .* got 'int8'"),
        ({"base_lr": 0.0}, "base learning rate must be positive, got 0.0"),
        ({"batch_size": 7}, "share even, for mixup, that is, of 2; got 7"),
        ({"batch_split": 9}, "batch_split must be at most the batch of one process, 8, got 9"),
        ({"mixup_alpha": math.nan}, "mixup_alpha must be a finite number, got nan"),
        ({"mixup_alpha": math.inf}, "mixup_alpha must be a finite number, got inf"),
        ({"base_lr": math.inf}, "base_lr must be a finite number, got inf"),
        (
            {"base_lr": 1e30, "steps": 40},
            r"the loss of step .* is nan; start again in another folder, with a base_lr smaller "
            r"than 1e\+30: this run resumes only with its own settings",
        ),
        (
            {"base_lr": 1e30, "steps": 40, "precision": "bfloat16"},
            r"smaller than 1e\+30 or with precision float32 instead of bfloat16",
        ),
    ],
)
def test_settings_that_are_rejected(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, **settings)


def test_a_damaged_state_is_rejected(tmp_path):
    run(tmp_path, steps=1)
    path = tmp_path / "last.pt"
    other = io.BytesIO()
    torch.save([1, 2], other)
    for content in (b"", b"not a checkpoint", path.read_bytes()[:5000], other.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="does not contain the state of a training run"):
            run(tmp_path, steps=1)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_last_state(tmp_path):
    run(tmp_path, steps=1)
    before = (tmp_path / "last.pt").read_bytes()
    larger = dataclasses.replace(final(tmp_path), extra={"more": torch.zeros(100_000)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            larger.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob(".last.pt.*"))


def test_a_finished_run_is_extended_by_a_longer_schedule(tmp_path):
    run(tmp_path)
    with pytest.raises(
        ValueError, match=r"\(steps 12 -> 18\).* or pass extend=True to train further"
    ):
        run(tmp_path, steps=18)
    result = run(tmp_path, steps=18, base_lr=0.02, extend=True)
    assert result.step == 18
    events = [event for event in read_log(tmp_path / "log.jsonl") if "loss" in event]
    assert [event["step"] for event in events] == list(range(18))
    longer = FineTuneSettings(**SETTINGS | {"steps": 18, "base_lr": 0.02}).schedule(21)
    for event in events[12:]:
        assert event["learning_rate"] == pytest.approx(longer.learning_rate(event["step"]))
    # from here on this is the run's schedule
    assert run(tmp_path, steps=18, base_lr=0.02).step == 18
    with pytest.raises(ValueError, match=r"more steps than it has already: .* has 18, got 9"):
        run(tmp_path, steps=9, extend=True)
    with pytest.raises(ValueError, match=r"other settings \(seed 0 -> 1\); give it the same"):
        run(tmp_path, steps=20, seed=1, extend=True)
