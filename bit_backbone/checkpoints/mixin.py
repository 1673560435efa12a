"""The methods for pretrained weights that every model of this package has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

if TYPE_CHECKING:
    from bit_backbone.checkpoints.sources import Source


class PretrainedMixin(nn.Module):
    """Adds what transformers' models have to a network built from a BitConfig.

    That is ``from_pretrained``, ``save_pretrained``, ``device`` and ``dtype``.
    """

    # TorchScript compiles properties, and cannot iterate over parameters.
    __jit_unused_properties__ = frozenset(("device", "dtype"))

    @property
    def device(self) -> torch.device:
        """The device of the parameters, if all are on one."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters, if all have one."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | Source,
        *,
        head: str = "keep",
        strict: bool = True,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        part: str | None = None,
        **overrides: Any,
    ) -> Self:
        """Builds the model that a checkpoint is for, and loads it; nothing is random first.

        The configuration is the config.json beside the weights. An official or timm file has
        none: its network is read off its tensors' shapes.

        Args:
            name_or_path: A published name ("BiT-M-R50x1", "google/bit-50", ...), a folder with a
                config.json, a file, or a repository on the Hugging Face Hub.
            head: What becomes of the classification head. "keep": the model has the file's.
                "drop": the file's is not read; the model has a random one where ``num_labels`` or
                ``id2label`` asks for it, and otherwise none. "new": the model has a random one.
            strict: Whether anything missing, unexpected or misshapen is an error; otherwise it is
                a warning, and whatever fits is loaded.
            revision: Branch, tag or commit, on the Hub.
            dtype: Type of the model's tensors, or its name; "auto" for that of the file's. None
                for torch's default, whatever the file's are.
            part: Which network of a checkpoint that holds several, such as "state_dict_ema"; a
                ``Source`` says the same. None for the model's own weights.
            **overrides: Arguments of BitConfig that differ from the checkpoint's.

        Returns:
            The model, in evaluation mode.

        Raises:
            CheckpointError: The checkpoint cannot be found, fetched or read, or does not fit.
            ValueError: An override breaks a rule of BitConfig, or ``dtype`` is no floating-point
                type, or "auto" for a file of several.
        """
        from bit_backbone.checkpoints.pretrained import from_pretrained

        return from_pretrained(
            cls,
            name_or_path,
            head=head,
            strict=strict,
            revision=revision,
            dtype=dtype,
            part=part,
            **overrides,
        )

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, max_shard_size: int | str = "50GB"
    ) -> None:
        """Writes config.json and model.safetensors, as transformers does and reads.

        transformers computes the same with them as far as it can: it has no
        ``weight_standardization_eps`` (it uses 1e-8) and no ``feature_norm``.

        Args:
            folder: Made if it does not exist; a model in it is replaced.
            max_shard_size: Weights larger than this, in bytes or as a string such as "5GB", are
                spread over several files with an index.

        Raises:
            CheckpointError: It cannot be written; a model that was there before is still there.
        """
        from bit_backbone.checkpoints.pretrained import save_pretrained

        save_pretrained(self, folder, max_shard_size=max_shard_size)
