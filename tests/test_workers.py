"""Processes that read ahead end with the one they read for."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import bit_backbone

# A chunk is far more than a pipe holds, so that each worker has something left to hand over.
READER = """
import sys
from torch.utils.data import DataLoader
from bit_backbone._workers import end_with_parent

class Chunks:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return bytes(2**20)

loader = DataLoader(
    Chunks(), 1, num_workers=2, collate_fn=list, worker_init_fn=end_with_parent
)
chunks = iter(loader)
next(chunks)
print(*(worker.pid for worker in chunks._workers), flush=True)
sys.stdin.read()
"""


def test_workers_end_with_a_parent_that_is_killed():
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", READER], stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.5)  # for the workers to fill their pipe
        assert all(map(alive, workers))
        parent.kill()
    end = time.monotonic() + 30
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)


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
                assert given.get("worker_init_fn") == "end_with_parent", path
