"""Saving a run of one or several processes, and resuming it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)

from bit_backbone.training.runlog import LOG_NAME
from bit_backbone.training.state import STATE_NAME, RunState, as_present
from bit_backbone.utils.files import atomic_path, leftovers, read_json, sync
from bit_backbone.utils.locks import lock_folder
from bit_backbone.utils.processes import ProcessGroup

SHARDS = "step-{:07}.dcp"
RECORD = "run.json"  # written last: a folder of shards without it is unfinished
SMALL_FIELDS = ("step", "settings", "extra")  # the fields in it, which are not tensors


class RunStore:
    """The saved states of a run: ``last.pt``, or with FSDP a folder of shards.

    All processes write a sharded state together (torch.distributed.checkpoint), and any number of
    processes can read it. A complete state replaces the one before. A sharded run also writes a
    ``last.pt`` at its end. As a context manager the store keeps other runs out of the folder.

    Args:
        folder: The folder of the run.
        group: The processes.
        sharded: Whether the model is sharded.
    """

    def __init__(self, folder: Path, group: ProcessGroup, sharded: bool) -> None:
        self.folder, self.group, self.sharded = folder, group, sharded
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> RunStore:
        """Locks the folder.

        Raises:
            ValueError: Another process is training in it.
            OSError: The folder cannot be written.
        """
        with self.group.together():
            if self.group.is_first:
                self._lock = self._lock_folder()
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _lock_folder(self) -> IO[bytes]:
        try:
            return lock_folder(self.folder)
        except BlockingIOError as error:
            raise ValueError(
                f"a folder takes one run at a time, and another process is training in "
                f"{self.folder}; wait for its end, or choose another folder"
            ) from error

    def open(self) -> RunState | None:
        """Reads the last state, and removes leftovers of killed processes.

        Returns:
            The state, without weights and optimizer if these are sharded; None if nothing is saved.

        Raises:
            ValueError: The state is damaged, differs from this run in the use of FSDP, or is not
                the same in all processes.
        """
        with self.group.together():
            if self.group.is_first:
                self._tidy()
        with self.group.together():
            saved = self._read()
        self._check_shared(None if saved is None else saved.step)
        return saved

    def _read(self) -> RunState | None:
        shards = self._shards()
        if self.sharded and shards is not None:
            return RunState(**as_present(read_json(shards / RECORD)))
        state = RunState.load(self.folder)
        if state is None and shards is None:
            return None
        # A sharded run leaves a last.pt at its end, and later training without FSDP replaces it.
        is_last = state and (shards is None or state.step >= _step_of(shards))
        if is_last and not self.sharded:
            return state
        raise ValueError(
            f"{self.folder} holds a run {'without' if self.sharded else 'with'} FSDP; resume "
            f"{'without' if self.sharded else 'with'} it, or choose another folder"
        )

    def _check_shared(self, step: int | None) -> None:
        steps = self.group.gather(step)
        if any(other != steps[0] for other in steps):
            found = ", ".join(
                f"process {rank} finds {'none' if step is None else f'one at step {step}'}"
                for rank, step in enumerate(steps)
            )
            raise ValueError(
                "all processes of a run must see the same saved state, as in a folder on a shared "
                f"disk; in {self.folder}, {found}: copy the first process's folder to all "
                "machines, or give a folder that they share"
            )

    def restore(self, saved: RunState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Loads the state that ``open`` returned.

        Raises:
            ValueError: The state belongs to another model.
        """
        if saved.model is not None:
            load_weights(model, saved.model)
            if saved.optimizer:  # missing after the end of a sharded run
                optimizer.load_state_dict(saved.optimizer)
            return
        folder = self._shards()
        assert folder is not None
        weights, moments = get_state_dict(model, optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": moments}
        dcp.load(state, checkpoint_id=folder)
        set_state_dict(
            model,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )

    def save(self, state: RunState, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Replaces the last state; returns when the new one is on disk, in every process.

        Args:
            state: The state without weights and optimizer.
            model: The model whose weights are saved.
            optimizer: The optimizer whose state is saved.
        """
        with self.group.together():
            if self.sharded:
                self._save_shards(state, model, optimizer)
            elif self.group.is_first:
                weights, moments = model.state_dict(), optimizer.state_dict()
                replace(state, model=weights, optimizer=moments).save(self.folder)

    def _save_shards(
        self, state: RunState, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        folder = self.folder / SHARDS.format(state.step)
        weights, moments = get_state_dict(model, optimizer)
        dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
        if self.group.is_first:
            with atomic_path(folder / RECORD) as temporary:
                temporary.write_text(
                    json.dumps({name: getattr(state, name) for name in SMALL_FIELDS})
                )
            sync(self.folder)  # the new folder's name is on disk before the old one is removed
            self._tidy()

    def finish(self, state: RunState, model: nn.Module) -> None:
        """Writes the final weights of a sharded run to ``last.pt``, as runs without FSDP do."""
        if not self.sharded:
            return
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        with self.group.together():
            if self.group.is_first:
                replace(state, model=weights, optimizer={}).save(self.folder)

    def _shards(self) -> Path | None:
        """Returns the latest complete folder of shards."""
        complete = [path for path in self._folders() if (path / RECORD).exists()]
        return max(complete, key=_step_of, default=None)

    def _folders(self) -> list[Path]:
        return [path for path in self.folder.glob("step-*.dcp") if _step_of(path) >= 0]

    def _tidy(self) -> None:
        """Removes states that are unfinished or out of date, and temporary files."""
        latest = self._shards()
        for path in self._folders():
            if path != latest:
                shutil.rmtree(path)
        for name in (STATE_NAME, LOG_NAME):
            for path in leftovers(self.folder / name):
                path.unlink(missing_ok=True)


def _step_of(path: Path) -> int:
    match = re.fullmatch(r"step-(\d+)\.dcp", path.name)
    return int(match[1]) if match else -1


def load_weights(model: nn.Module, weights: dict[str, Any] | None) -> None:
    """Loads the weights of a run.

    Raises:
        ValueError: The weights belong to another model.
    """
    try:
        model.load_state_dict(weights or {})
    except RuntimeError as error:
        raise ValueError(f"the run's weights do not fit its model: {error}") from error
