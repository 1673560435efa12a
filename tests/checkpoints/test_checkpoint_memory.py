"""Loading takes the memory of the weights and little more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from official import official_shape, write_official

from bit_backbone.checkpoints import convert

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["npz", "safetensors", "pth"])
def test_the_peak_is_the_file_and_a_few_megabytes(kind, tmp_path):
    path = write_official(tmp_path / "official.npz", head=1000, **official_shape("R50x3"))
    if kind != "npz":
        convert(path, tmp_path / f"a.{kind}", "timm")
        path = tmp_path / f"a.{kind}"
    script = str(ROOT / "tools" / "benchmark_loading.py")
    command = [sys.executable, script, "--measure", "bit_backbone", str(path), "R50x3"]
    _, peak = json.loads(subprocess.check_output(command, env={"PYTHONPATH": str(ROOT)}))
    size = path.stat().st_size / 1e6
    assert size > 800
    assert peak < 1.15 * size
