"""The record of a run: one JSON line per event, and a TensorBoard log beside it."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bit_backbone.utils.files import atomic_path

LOG_NAME = "log.jsonl"

_LOGGER = logging.getLogger(__name__)


class RunLog:
    """Writes ``log.jsonl`` and, where tensorboard is installed, its event files into a folder.

    A resumed run continues after its last saved step. Entries of later steps are removed from
    ``log.jsonl``, and TensorBoard hides them.

    Args:
        folder: The folder of the run.
        step: The next step.
    """

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG_NAME
        if path.exists():
            kept = [json.dumps(event) for event in read_log(path) if _is_before(event, step)]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))
        self._lines = path.open("a", buffering=1)
        self._board = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=step)
        else:
            _LOGGER.info(  # the report shows the same curves
                "no TensorBoard log: tensorboard is not installed "
                '(pip install "bit-backbone[finetune]"); %s holds every value',
                path,
            )

    def write(self, step: int, **values: float) -> None:
        """Records values at a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name.replace("_", "/", 1), value, step)

    def close(self) -> None:
        """Writes everything to disk."""
        self._lines.close()
        if self._board is not None:
            self._board.close()


def is_evaluated(folder: Path, step: int) -> bool:
    """Whether a run's log holds an evaluation after ``step`` steps."""
    path = folder / LOG_NAME
    events = read_log(path) if path.exists() else []
    return any(event["step"] == step and _is_evaluation(event) for event in events)


def _is_evaluation(event: dict[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in event)


def _is_before(event: dict[str, Any], step: int) -> bool:
    """Whether an event precedes the next step; an evaluation has the number of steps before it."""
    return event["step"] < step + _is_evaluation(event)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Returns the events of a log; the last line may be cut off by the end of its process."""
    events = []
    for line in path.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    return events
