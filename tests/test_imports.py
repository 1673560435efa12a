"""Which package each part of the code may import."""

import subprocess
import sys

import pytest

HOSTS = ("torchvision", "detectron2", "timm", "transformers")
CORE = (
    "utils.files",
    "kernels",
    "config",
    "network",
    "checkpoints",
    "inference",
    "backbone",
    "heads",
    "preprocessing",
    "profiling.forward_cost",
)

_BLOCKED = """
import sys
for name in sys.argv[2].split(","):
    sys.modules[name] = None  # importing it raises ImportError
__import__("bit_backbone." + sys.argv[1])
"""


def imports(module: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _BLOCKED, module, ",".join(blocked)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", CORE)
def test_the_core_imports_no_host(module):
    done = imports(module, *HOSTS)
    assert done.returncode == 0, done.stderr


def test_the_block_would_be_noticed():
    assert imports("config", "dataclasses").returncode != 0
