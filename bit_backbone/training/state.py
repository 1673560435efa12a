"""The saved state of a run between two steps."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.ways_out import after, passing

STATE_NAME = "last.pt"
SPEC_NAME = "detector.json"
# Files of a finished run: the classifier of a fine-tuning, the BiT of a detector or segmenter.
MODEL_FOLDER, BACKBONE_FOLDER = "model", "backbone"
SCHEDULE = frozenset(("steps", "base_lr", "warmup_steps"))  # ``extend`` lets these change


@dataclass(frozen=True)
class RunState:
    """A run between two steps: everything that its future depends on.

    The order of examples and every random draw follow from the seed in the settings and the step.

    Attributes:
        step: Number of completed steps.
        settings: The settings that a resumed run must share.
        model: State dict of the model; None if it is sharded and saved elsewhere.
        optimizer: State dict of the optimizer; None as for ``model``.
        extra: Any other state, such as the state dict of a loss scaler.
    """

    step: int
    settings: dict[str, Any]
    model: dict[str, Any] | None = None
    optimizer: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes the state, and replaces the last one.

        Raises:
            OSError: The state cannot be written, as on a full disk; the last one is kept.
        """
        with atomic_path(folder / STATE_NAME) as temporary, temporary.open("wb") as file:
            try:
                torch.save(vars(self), file)
            except RuntimeError as error:  # torch hides the file's own error in it
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()  # before atomic_path syncs

    @classmethod
    def load(cls, folder: Path) -> RunState | None:
        """Reads the last saved state, or returns None if there is none.

        Raises:
            ValueError: The file is damaged or not a saved state.
        """
        path = folder / STATE_NAME
        if not path.exists():
            return None
        try:
            return cls(**as_present(torch.load(path, map_location="cpu", weights_only=True)))
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, TypeError) as error:
            raise ValueError(
                f"{path} does not contain the state of a training run ({error!r}); move it away to "
                "start again"
            ) from error

    def check_settings(self, settings: dict[str, Any], folder: Path, extend: bool = False) -> None:
        """Checks that a run resumes with the settings that it began with.

        Args:
            settings: The present settings.
            folder: The folder of the run.
            extend: Whether the schedule may differ.

        Raises:
            ValueError: The settings differ; the message lists the differences.
        """
        before, now = _flat(self.settings), _flat(settings)
        changed = {
            name: (before.get(name), now.get(name))
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name) and not (extend and name in SCHEDULE)
        }
        if changed:
            listed = ", ".join(f"{name} {old!r} -> {new!r}" for name, (old, new) in changed.items())
            of_schedule = SCHEDULE.issuperset(changed)
            longer = passing("extend", True, "to train further by this schedule")
            raise ValueError(
                f"{folder} holds a run at step {self.step} with other settings ({listed}); give it "
                "the same ones to resume, or choose another folder"
                + (after(", or ", longer) if of_schedule else "")
            )


def as_present(values: dict[str, Any]) -> dict[str, Any]:
    """Renames the fields of a saved state to their names since version 0.1.

    Raises:
        TypeError: The state is not a dict.
    """
    if not isinstance(values, dict):
        raise TypeError(f"a state must be a dict, got {type(values).__name__}")
    return {"settings" if name == "recipe" else name: value for name, value in values.items()}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Gives every value its own name, such as ``network.num_groups``, for short messages."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            values |= _flat(value, f"{prefix}{name}.")
        else:
            values[f"{prefix}{name}"] = value
    return values
