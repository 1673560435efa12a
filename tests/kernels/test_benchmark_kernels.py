"""The kernels' benchmark says that it needs a GPU, and runs where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOL = Path(__file__).parents[2] / "tools" / "benchmark_kernels.py"


def run(*arguments):
    command = [sys.executable, str(TOOL), *arguments]
    environment = os.environ | {"PYTHONPATH": str(TOOL.parents[1]), "COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_a_cpu_is_rejected_and_nothing_printed():
    found = run("--device", "cpu")
    assert found.returncode == 2
    assert "need a GPU" in found.stderr
    assert "got --device cpu" in found.stderr
    assert not found.stdout


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_prints_ratios():
    found = run("--size", "64", "96", "--batches", "1", "--runs", "3")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("inference, graph") == 5
