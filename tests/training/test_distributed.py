"""Training over processes, replicated and sharded, against one process with the same batches."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from finetune_run import SETTINGS, Examples, make_model
from rectangles import VARIANT, write_coco

from bit_backbone.detection import load_detector
from bit_backbone.finetune import FineTuneSettings
from bit_backbone.finetune import finetune as run_finetuning
from bit_backbone.training.runlog import read_log
from bit_backbone.training.state import RunState

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(TESTS))), "OMP_NUM_THREADS": "1"}


def start(script: str, *arguments: str, processes: int = 1) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), script, *arguments],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, status: int = 0) -> str:
    out, err = process.communicate(timeout=400)
    assert process.returncode == status, err
    return out + err


def kill(process: subprocess.Popen) -> None:
    """Kill the launcher and its workers at once, as a power cut does."""
    # torchrun gives every worker a session of its own
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in (process.pid, *map(int, workers)):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def finetune(folder: Path, processes: int = 1, pause: float = 0.0, **settings) -> subprocess.Popen:
    given = json.dumps(settings)
    script = str(TESTS / "finetune_run.py")
    return start(script, str(folder), given, str(pause), processes=processes)


def losses(folder: Path) -> list[float]:
    events = [event for event in read_log(folder / "log.jsonl") if "loss" in event]
    assert [event["step"] for event in events] == list(range(len(events)))
    return [event["loss"] for event in events]


def assert_same_run(folder: Path, expected: Path, **tolerance: float) -> None:
    assert losses(folder) == pytest.approx(losses(expected), rel=1e-5)
    ours, theirs = RunState.load(folder), RunState.load(expected)
    assert ours.step == theirs.step
    torch.testing.assert_close(ours.model, theirs.model, **tolerance)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    finish(finetune(folder))
    return folder


@pytest.mark.parametrize(
    ("processes", "fsdp"),
    [
        (2, True),
        pytest.param(4, True, marks=pytest.mark.slow),
        pytest.param(4, False, marks=pytest.mark.slow),
    ],
)
def test_a_classifier_learns_over_processes_as_in_one(
    processes: int, fsdp: bool, one_process: Path, tmp_path: Path
) -> None:
    finish(finetune(tmp_path, processes, fsdp=fsdp))
    assert_same_run(tmp_path, one_process)
    make_model().load_state_dict(RunState.load(tmp_path).model)  # whole tensors, plain names


def test_a_sharded_classifier_that_recomputes_learns_as_in_one_process(
    one_process: Path, tmp_path: Path
) -> None:
    finish(finetune(tmp_path, 2, fsdp=True, activation_recompute=True))
    assert_same_run(tmp_path, one_process)


@pytest.mark.slow
def test_parts_of_a_batch_add_up_when_sharded(one_process: Path, tmp_path: Path) -> None:
    finish(finetune(tmp_path, 2, fsdp=True, batch_split=2))
    assert_same_run(tmp_path, one_process)


def test_a_killed_run_resumes_over_more_processes_with_the_same_batches(
    one_process: Path, tmp_path: Path
) -> None:
    killed = finetune(tmp_path, 1, pause=0.1)
    wait_for(killed, lambda: (tmp_path / "last.pt").exists())
    killed.kill()
    killed.communicate()
    assert 0 < RunState.load(tmp_path).step < SETTINGS["steps"]
    finish(finetune(tmp_path, 2))
    assert_same_run(tmp_path, one_process)


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_killed_sharded_run_resumes_over_as_many_processes_or_more(
    processes: int, one_process: Path, tmp_path: Path
) -> None:
    killed = finetune(tmp_path, 2, pause=0.1, fsdp=True)
    wait_for(killed, lambda: list(tmp_path.glob("step-*.dcp/run.json")))
    kill(killed)
    assert not (tmp_path / "last.pt").exists()
    half = tmp_path / "step-0000099.dcp"  # a save that the kill cut off has no run.json
    half.mkdir()
    (half / "__0_0.distcp").write_text("half")
    with pytest.raises(ValueError, match="holds a run with FSDP; resume with it"):
        run_finetuning(make_model(), Examples(), tmp_path, FineTuneSettings(**SETTINGS))
    finish(finetune(tmp_path, processes, fsdp=True))
    assert_same_run(tmp_path, one_process)
    assert [path.name for path in tmp_path.glob("*.dcp")] == ["step-0000012.dcp"]


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_without_fsdp_is_not_taken_up_with_it(one_process: Path) -> None:
    told = finish(finetune(one_process, 2, fsdp=True), 1)
    assert "holds a run without FSDP; resume without it" in told


def test_fsdp_needs_processes(tmp_path: Path) -> None:
    told = finish(finetune(tmp_path, fsdp=True), 1)
    assert "start them with: torchrun --nproc-per-node N" in told


def test_standardized_weights_are_never_those_of_gathered_ones_before() -> None:
    assert finish(start(str(TESTS / "stale_fsdp.py"), processes=2)).count("never stale") == 2


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, of one size and an odd number of them to be tested on."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "bit.json").write_text(json.dumps(VARIANT))
    write_coco(folder / "train", 2)
    write_coco(folder / "test", 5, seed=1)
    return folder


def detector(
    coco: Path, run: Path, processes: int = 1, *extra: str, model: str = "retinanet_bit_fpn"
) -> subprocess.Popen:
    """Train RetinaNet, whose loss is a mean over images: others' depends on who has which."""
    data = ["--train", str(coco / "train"), "--test", str(coco / "test"), "--output", str(run)]
    schedule = ["--steps", "4", "--batch-size", "4", "--warmup-steps", "1", "--base-lr", "1e-3",
              "--augment", "--pictures", "1", "--save-every", "2"]  # fmt: skip
    sizes = ["--argument", "min_size=48", "--argument", "max_size=64"]
    sizes = [] if model == "fcn_bit" else sizes
    options = ["--model", model, "--variant", str(coco / "bit.json"), *sizes, "--device", "cpu"]
    script = str(ROOT / "tools" / "train_torchvision.py")
    return start(script, *data, *schedule, *options, *extra, processes=processes)


@pytest.fixture(scope="module")
def one_detector(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("detector") / "run"
    return folder, finish(detector(coco, folder))


@pytest.mark.parametrize(
    ("processes", "extra"),
    [
        (2, ()),
        (2, ("--fsdp",)),
        pytest.param(4, (), marks=pytest.mark.slow),
        pytest.param(4, ("--fsdp", "--grad-checkpointing"), marks=pytest.mark.slow),
    ],
)
def test_a_detector_learns_over_processes_as_in_one(
    processes: int, extra: tuple, coco: Path, one_detector: tuple, tmp_path: Path
) -> None:
    expected, _ = one_detector
    told = finish(detector(coco, tmp_path / "run", processes, *extra))
    assert told.count("4 steps of 4 images, 2 training and 5 test images") == 1
    assert_same_run(tmp_path / "run", expected, rtol=1e-4, atol=1e-5)
    ours, theirs = (read_log(folder / "log.jsonl")[-1] for folder in (tmp_path / "run", expected))
    assert ours == pytest.approx(theirs, abs=0.02)
    assert (tmp_path / "run" / "predictions.jpg").exists()
    load_detector(tmp_path / "run")


@pytest.mark.slow
def test_a_test_over_processes_counts_every_image_once(coco: Path, one_detector: tuple) -> None:
    run, told = one_detector
    again = finish(detector(coco, run, 2, "--test-only"))
    rows = [[line for line in text.splitlines() if "│ box" in line] for text in (told, again)]
    assert rows[0] == rows[1] != []


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--fsdp", "--precision", "bfloat16")])
def test_segmenters_train_over_processes(extra: tuple, coco: Path, tmp_path: Path) -> None:
    finish(detector(coco, tmp_path / "run", 2, *extra, model="fcn_bit"))
    assert 0 <= read_log(tmp_path / "run" / "log.jsonl")[-1]["eval_mIoU"] <= 1


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_batch_norms_of_processes_keep_one_mean(processes: int, coco: Path, tmp_path: Path) -> None:
    script = str(TESTS / "batch_norm_processes.py")
    told = finish(start(script, str(coco / "test"), str(tmp_path), processes=processes))
    assert told.count("one mean") == processes


@pytest.mark.slow
def test_a_batch_that_processes_cannot_share_is_rejected(coco: Path, tmp_path: Path) -> None:
    told = finish(detector(coco, tmp_path / "run", 2, "--batch-size", "3"), 1)
    assert "a multiple of their number, 2; got 3" in told
