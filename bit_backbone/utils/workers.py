"""Worker processes that end when their parent ends, and not earlier."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def available_cores() -> int:
    """Returns how many cores this process may use, or the machine's number if that is unknown."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve_parent(*_: object) -> None:
    """Makes this process end only when its parent ends.

    For the ``worker_init_fn`` of a DataLoader and the ``initializer`` of a pool. Ctrl-C, torchrun,
    systemd and Slurm send signals to parents and workers alike. If a worker obeyed, its parent
    could not save in time. If a parent is killed, its workers would otherwise wait for ever and
    keep their memory.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS, where SIGTERM ends a worker, whoever sent it
        # Blocked, not ignored: waiting for it shows who sent it. Threads inherit the block.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey, args=(parent.pid,), daemon=True).start()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _obey(parent_pid: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent_pid:
        pass
    os._exit(0)
