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
        """Builds the model of a checkpoint and loads the weights, without random initialization.

        The configuration comes from the config.json in the folder of the weights. An official or
        timm file has none; the shapes of its tensors then determine the network.

        Args:
            name_or_path: A published name ("BiT-M-R50x1", "google/bit-50", ...), a folder with a
                config.json, a file, or a repository on the Hugging Face Hub.
            head: The classification head. "keep" loads the file's. "drop" does not; the model has a
                random head if ``num_labels`` or ``id2label`` is given, and otherwise none. "new"
                gives the model a random head.
            strict: Whether anything missing, unexpected or misshapen is an error; otherwise it is
                a warning, and whatever fits is loaded.
            revision: Branch, tag or commit, on the Hub.
            dtype: Type of the model's tensors, or its name; "auto" for the type in the file; None
                for torch's default type.
            part: The network to take from a checkpoint with several, such as "state_dict_ema"; a
                ``Source`` does the same. None takes the model's own weights.
            **overrides: Arguments of BitConfig that differ from the checkpoint's.

        Returns:
            The model, in evaluation mode.

        Raises:
            CheckpointError: The checkpoint cannot be found, fetched or read, or does not fit.
            ValueError: An override breaks a rule of BitConfig, ``dtype`` is not a floating-point
                type, or it is "auto" and the file has several types.
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
        """Writes config.json and model.safetensors, which transformers can read.

        transformers then computes the same, with two exceptions: it ignores
        ``weight_standardization_eps`` (it uses 1e-8) and ``feature_norm``. A network in 8 bits
        (``optimize_for_inference`` with torch.int8) is written with its scales, for
        ``bit_backbone.inference.load_int8`` and not for transformers.

        Args:
            folder: Created if missing; a model in it is replaced.
            max_shard_size: Weights larger than this, in bytes or as a string such as "5GB", are
                spread over several files with an index.

        Raises:
            CheckpointError: It cannot be written; an earlier model in the folder stays.
        """
        from bit_backbone.checkpoints.pretrained import save_pretrained

        save_pretrained(self, folder, max_shard_size=max_shard_size)
