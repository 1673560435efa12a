"""Training: every detector learns, runs resume exactly, and say what is wrong."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from held_locks import held
from rectangles import SMALL

from bit_backbone.datasets import CocoFolder
from bit_backbone.detection import DetectionSettings, DetectorSpec, load_detector, train, training
from bit_backbone.detection.models import detectors, needs_keypoints, needs_masks
from bit_backbone.detection.transforms import train_transforms
from bit_backbone.training import runlog
from bit_backbone.training.runlog import read_log
from bit_backbone.training.state import RunState

SETTINGS = DetectionSettings(steps=4, batch_size=2, warmup_steps=1, base_lr=0.01, save_every=2)
SPEC = DetectorSpec("fasterrcnn_bit_tiny_fpn", ("block", "bar"), {"min_size": 64})


def run(spec: DetectorSpec, data: CocoFolder, folder: Path, settings=SETTINGS, **options):
    return train(spec, data, folder, settings, show_progress=False, **options)


def spec_and_set(name: str, folder: Path) -> tuple[DetectorSpec, CocoFolder]:
    masks, keypoints = needs_masks(name), needs_keypoints(name)
    data = CocoFolder(folder, masks=masks, keypoints=keypoints)
    arguments = {"min_size": 64} if name == SPEC.name else SMALL
    return DetectorSpec(name, data.categories, arguments, data.keypoint_names), data


@pytest.mark.parametrize("name", detectors())
def test_every_detector_trains_and_is_evaluated(name: str, coco_folder: Path) -> None:
    spec, data = spec_and_set(name, coco_folder)
    # two steps of SGD: the first gradients of an untrained RetinaNet are large
    settings = dataclasses.replace(SETTINGS, steps=2, base_lr=1e-4, channels_last=True)
    result = run(spec, data, coco_folder.parent / "run", settings, eval_set=data)
    kinds = {"box"}
    kinds |= {"mask"} if needs_masks(name) else set()
    kinds |= {"keypoint"} if needs_keypoints(name) else set()
    assert {metric.partition("_")[0] for metric in result.metrics} == kinds
    assert all(0 <= result.metrics[f"{kind}_AP50"] <= 1 for kind in kinds)
    model, loaded = load_detector(coco_folder.parent / "run")
    assert loaded == spec
    assert same(model.state_dict(), result.model.state_dict())


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(first[k].equal(second[k]) for k in first)


def test_bfloat16_trains_float32_weights(coco_folder: Path, tmp_path: Path) -> None:
    data = CocoFolder(coco_folder)
    settings = dataclasses.replace(SETTINGS, steps=2, precision="bfloat16")
    result = run(SPEC, data, tmp_path / "run", settings, eval_set=data)
    exact = run(SPEC, data, tmp_path / "exact", dataclasses.replace(settings, precision="float32"))
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}
    assert not same(result.model.state_dict(), exact.model.state_dict())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_ends_with_the_same_weights(
    workers: int, coco_folder: Path, tmp_path: Path
) -> None:
    # photometric distortion draws from torch's generator: its seeds have to be the same too
    data = CocoFolder(coco_folder, transforms=train_transforms(["photometric", "hflip"]))
    settings = dataclasses.replace(SETTINGS, optimizer="adamw", base_lr=1e-3, workers=workers)
    whole = run(SPEC, data, tmp_path / "whole", settings)
    states = []
    original = RunState.save

    def stop_after_two(state: RunState, folder: Path) -> None:
        original(state, folder)
        states.append(state.step)
        if state.step == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunState, "save", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            run(SPEC, data, tmp_path / "halves", settings)
    torch.manual_seed(99)  # whatever state the process is in
    halves = run(SPEC, data, tmp_path / "halves", settings)
    assert states == [2]
    assert same(whole.model.state_dict(), halves.model.state_dict())
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "halves")]
    assert logs[0] == logs[1]


def test_what_was_frozen_stays_frozen_after_a_resume(coco_folder: Path, tmp_path: Path) -> None:
    model = SPEC.build()
    body = model.backbone.body
    torch.save(body.state_dict(), tmp_path / "body.pt")
    arguments = SPEC.arguments | {
        "weights_backbone": str(tmp_path / "body.pt"),
        "trainable_backbone_layers": 2,
    }
    spec = dataclasses.replace(SPEC, arguments=arguments)
    data = CocoFolder(coco_folder)
    run(spec, data, tmp_path / "run", dataclasses.replace(SETTINGS, steps=2))
    (tmp_path / "body.pt").unlink()  # a run needs nothing but its folder
    state = RunState.load(tmp_path / "run")
    state = dataclasses.replace(state, settings=state.settings | {"steps": 4})
    state.save(tmp_path / "run")
    result = run(spec, data, tmp_path / "run")
    trained = result.model.backbone.body.state_dict()
    for name, weight in body.state_dict().items():
        is_frozen = name.startswith(("stem", "stage1", "stage2"))
        assert weight.equal(trained[name]) == is_frozen, name


SCRIPT = """
import sys
from pathlib import Path
from bit_backbone.datasets import CocoFolder
from bit_backbone.detection import DetectionSettings, DetectorSpec, train
if __name__ == "__main__":
    settings = DetectionSettings(steps=12, batch_size=2, warmup_steps=1, save_every=1)
    spec = DetectorSpec("fasterrcnn_bit_tiny_fpn", ("block", "bar"), {"min_size": 64})
    result = train(spec, CocoFolder(sys.argv[1]), sys.argv[2], settings, show_progress=False)
    sys.exit(result.signal)
"""


@pytest.mark.usefixtures("importable")
def test_a_killed_run_resumes_to_the_same_weights(coco_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(coco_folder)]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    killed = subprocess.Popen([*command, str(tmp_path / "killed")])
    wait_for_a_state(killed, tmp_path / "killed")
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert RunState.load(tmp_path / "killed").step < 12
    subprocess.run([*command, str(tmp_path / "killed")], check=True)
    states = [RunState.load(tmp_path / name) for name in ("whole", "killed")]
    assert states[0].step == states[1].step == 12
    assert same(states[0].model, states[1].model)


@pytest.mark.usefixtures("importable")
def test_sigterm_saves_and_ends_the_run(coco_folder: Path, tmp_path: Path) -> None:
    stopped = subprocess.Popen([sys.executable, "-c", SCRIPT, str(coco_folder), str(tmp_path)])
    wait_for_a_state(stopped, tmp_path)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait() == signal.SIGTERM
    assert 0 < RunState.load(tmp_path).step < 12


def wait_for_a_state(process: subprocess.Popen, folder: Path) -> None:
    deadline = time.monotonic() + 240
    while not (folder / "last.pt").exists():
        assert process.poll() is None, "ended before it saved"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_other_settings_do_not_resume(coco_folder: Path, tmp_path: Path) -> None:
    data = CocoFolder(coco_folder)
    one = dataclasses.replace(SETTINGS, steps=1, warmup_steps=0)
    run(SPEC, data, tmp_path / "run", one)
    with pytest.raises(
        ValueError, match=r"base_lr 0.01 -> 0.02\); give it the same ones to resume"
    ):
        run(SPEC, data, tmp_path / "run", dataclasses.replace(one, base_lr=0.02))


def test_a_set_of_other_classes_is_rejected(coco_folder: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, categories=("cat", "dog"))
    with pytest.raises(ValueError, match=r"categories .* \['cat', 'dog'\]; got \['block', 'bar'\]"):
        run(spec, CocoFolder(coco_folder), tmp_path / "run")


def test_an_infinite_loss_ends_the_run_with_its_state_kept(
    coco_folder: Path, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, base_lr=1e12, clip_norm=0.0, save_every=1)
    with pytest.raises(ValueError, match=r"the loss of step \d is not finite"):
        run(SPEC, CocoFolder(coco_folder), tmp_path / "run", settings)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fasterrcnn_resnet50_fpn", {}, "the BiT detectors are .*; got 'fasterrcnn_resnet50_fpn'"),
        ("bit_r50x1", {}, "bit_r50x1 classifies whole images, .* by: bit-backbone finetune"),
        ("deeplabv3_bit", {"min_size": 1}, "deeplabv3_bit does not take min_size; it takes .*aux"),
        ("fasterrcnn_bit_tiny_fpn", {"min_sise": 1}, "does not take min_sise; it takes .*min_size"),
        ("fasterrcnn_bit_fpn", {"variant": "R51"}, "R51"),
        ("lraspp_mobilenet_v3_large", {}, "the BiT detectors are .*; got 'lraspp_mob"),
    ],
)
def test_a_wrong_detector_is_rejected(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetectorSpec(name, ("a",), arguments).build()


@pytest.mark.parametrize(
    ("spec", "state", "message"),
    [
        ("{", None, r"detector\.json is damaged \(JSONDecodeError.*train again"),
        ('{"name": 3}', None, r"detector\.json is damaged"),
        (None, None, "holds no last.pt; train first"),
        (None, {"stem.conv.weight": torch.ones(1)}, "the run's weights do not fit its model"),
    ],
    ids=["no JSON", "other keys", "no state", "weights of another model"],
)
def test_a_damaged_run_is_told(spec, state, message: str, tmp_path: Path) -> None:
    known = json.dumps(SPEC.to_dict())
    (tmp_path / "detector.json").write_text(known if spec is None else spec)
    if state is not None:
        RunState(1, settings={}, model=state, optimizer={}, extra={}).save(tmp_path)
    with pytest.raises(ValueError, match=message):
        load_detector(tmp_path)


def test_a_log_cut_off_by_a_kill_is_read_up_to_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_log(tmp_path / "log") == [{"step": 1, "loss": 2.0}]


def test_a_run_killed_before_its_evaluation_is_evaluated_and_logged(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = CocoFolder(coco_folder)
    settings = dataclasses.replace(SETTINGS, eval_every=2)
    whole = run(SPEC, data, tmp_path / "whole", settings, eval_set=data)
    wanted = read_log(tmp_path / "whole" / "log.jsonl")
    killed = tmp_path / "killed"
    evaluate = training.evaluate_on
    for _ in range(2):  # in each of the two evaluations
        with monkeypatch.context() as patch:
            patch.setattr(training, "evaluate_on", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run(SPEC, data, killed, settings, eval_set=data)
        with monkeypatch.context() as patch:
            patch.setattr(training, "evaluate_on", once(evaluate))
            with contextlib.suppress(KeyboardInterrupt):
                run(SPEC, data, killed, settings, eval_set=data)
    again = run(SPEC, data, killed, settings, eval_set=data)
    assert again.metrics == whole.metrics
    assert read_log(killed / "log.jsonl") == wanted


def test_a_signal_during_the_last_evaluation_is_told(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(*args, **options) -> dict:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"box_AP": 0.5}

    monkeypatch.setattr(training, "evaluate_on", signalled)
    data = CocoFolder(coco_folder)
    one = dataclasses.replace(SETTINGS, steps=1, warmup_steps=0)
    result = run(SPEC, data, tmp_path, one, eval_set=data)
    assert (result.step, result.metrics, result.signal) == (1, {"box_AP": 0.5}, signal.SIGTERM)


def interrupted(*args, **options) -> dict:
    raise KeyboardInterrupt


def once(function):
    """Let a function be called once, and be interrupted the second time."""
    calls = iter([function])
    return lambda *args, **options: next(calls, interrupted)(*args, **options)


def test_two_runs_at_once_are_rejected(coco_folder: Path, tmp_path: Path) -> None:
    with (
        held(tmp_path),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        run(SPEC, CocoFolder(coco_folder), tmp_path)
    assert not (tmp_path / "detector.json").exists()


def test_what_killed_processes_left_is_removed(coco_folder: Path, tmp_path: Path) -> None:
    temporary = [tmp_path / f".{name}.a1b2c3_4" for name in ("last.pt", "log.jsonl")]
    others = [tmp_path / name for name in (".last.pt.orig", ".other.pt.a1b2c3_4", "last.pt.bak")]
    for path in (*temporary, *others):
        path.write_text("half a file")
    one = dataclasses.replace(SETTINGS, steps=1, warmup_steps=0)
    run(SPEC, CocoFolder(coco_folder), tmp_path, one)
    assert [path.exists() for path in temporary] == [False, False]
    assert all(path.exists() for path in others)


def test_without_tensorboard_a_run_says_so_only_to_those_who_ask(
    coco_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    monkeypatch.setattr(runlog, "find_spec", lambda name: None)
    one = dataclasses.replace(SETTINGS, steps=1, warmup_steps=0)
    with caplog.at_level("INFO"):
        run(SPEC, CocoFolder(coco_folder), tmp_path, one)
    (told,) = [r for r in caplog.records if "tensorboard is not installed" in r.getMessage()]
    assert told.levelname == "INFO"  # which is not shown unless one sets up logging so
    assert 'pip install "bit-backbone[finetune]"' in told.getMessage()
    assert [event["step"] for event in read_log(tmp_path / "log.jsonl")] == [0]
    assert not list(tmp_path.glob("events.out.tfevents*"))
