"""Processes that read ahead end with the one they read for, and no sooner."""

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bit_backbone

# A chunk is far more than a pipe holds, so that each worker has something left to hand over.
READER = """
import signal, sys
from torch.utils.data import DataLoader
from bit_backbone.utils.workers import serve_parent

class Chunks:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return bytes(2**20)

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
loader = DataLoader(
    Chunks(), 1, num_workers=2, collate_fn=list, worker_init_fn=serve_parent
)
chunks = iter(loader)
next(chunks)
print(*(worker.pid for worker in chunks._workers), flush=True)
if sys.stdin.read(1) == "r":
    print(sum(1 for _ in chunks))
else:
    raise ValueError("the workers are still at it")
"""


@contextmanager
def reader() -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", READER]
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.5)  # for the workers to fill their pipe
        assert all(map(alive, workers))
        yield parent, workers


def test_workers_end_with_a_parent_that_is_killed():
    with reader() as (parent, workers):
        parent.kill()
    end = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_of_them_is_the_parents_business(number):
    with reader() as (parent, _):
        os.killpg(parent.pid, number)
        time.sleep(0.5)
        assert parent.communicate(b"r", timeout=60) == (b"63\n", b"")
    assert parent.returncode == 0


def test_a_parent_that_fails_is_not_kept_waiting():
    """Python terminates its workers at exit and joins them."""
    with reader() as (parent, workers):
        _, told = parent.communicate(b"f", timeout=60)
    assert b"ValueError: the workers are still at it" in told
    assert parent.returncode == 1
    assert not any(map(alive, workers))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_every_loader_has_such_workers():
    for path in Path(bit_backbone.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("DataLoader"):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("worker_init_fn") == "serve_parent", path


WITHOUT = """
import os, signal
del os.sched_getaffinity, signal.sigwaitinfo
from torch.utils.data import DataLoader
from bit_backbone.cli import build_parser
from bit_backbone.cli.extract import _engine
from bit_backbone.utils.workers import available_cores, serve_parent

loader = DataLoader(range(8), 2, num_workers=1, worker_init_fn=serve_parent)
args = build_parser().parse_args(["extract", "photos", "--output", "maps"])
print(sum(int(batch.sum()) for batch in loader), available_cores() == os.cpu_count())
print(_engine(args).workers > 0)
"""


def test_systems_without_sigwaitinfo_and_affinity():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == "28 True\nTrue\n", done.stderr
