"""Processes that work for another one and must not outlive it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent(*_: object) -> None:
    """Ends this process as soon as the one that started it has ended, even if that was killed.

    For the ``worker_init_fn`` of a DataLoader and the ``initializer`` of a pool. A worker of either
    that has results which nobody will read any more waits for ever otherwise, and keeps its memory.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
