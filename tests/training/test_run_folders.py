"""The folder of a fine-tuning run: one run at a time, and one that all processes see."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from finetune_run import SETTINGS, Examples, make_model
from held_locks import held

from bit_backbone.finetune import FineTuneSettings, finetune

TESTS = Path(__file__).parents[1]
SCRIPT = """
import os, sys
import finetune_run
sys.argv[1] += os.environ.get("RANK", "0")
finetune_run.main()
"""


def run(folder: Path, **settings):
    own = FineTuneSettings(**{**SETTINGS, **settings})
    return finetune(make_model(), Examples(), folder, own, device="cpu", show_progress=False)


def launch(script: Path, *arguments: str, processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    paths = {"PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), script, *arguments],
        env=os.environ | paths | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )


def test_two_runs_at_once_are_rejected(tmp_path: Path) -> None:
    with (
        held(tmp_path),
        pytest.raises(ValueError, match="another process is training in"),
    ):
        run(tmp_path, steps=1)
    assert run(tmp_path, steps=1).step == 1  # the lock file stays, without its lock
    with held(tmp_path):  # nor does a run keep the lock when it has ended
        pass


def test_a_folder_in_use_is_told_by_all_processes_of_a_run(tmp_path: Path) -> None:
    with held(tmp_path):
        result = launch(TESTS / "finetune_run.py", str(tmp_path), "{}", processes=2)
    assert result.returncode == 1
    assert "ValueError: a folder takes one run at a time" in result.stderr


def test_a_folder_that_not_all_processes_see_is_rejected(tmp_path: Path) -> None:
    """As it is on machines without a shared disk."""
    script = tmp_path / "apart.py"
    script.write_text(SCRIPT)
    arguments = (str(tmp_path / "run"), '{"steps": 2}')
    assert launch(script, *arguments).returncode == 0
    result = launch(script, *arguments, processes=2)
    assert result.returncode == 1
    assert "must see the same saved state" in result.stderr
    assert "process 0 finds one at step 2, process 1 finds none: copy" in result.stderr
