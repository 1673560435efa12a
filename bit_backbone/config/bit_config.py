"""BitConfig: what a BiT network is.

Every width, stride and dilation of the network is derived from it once, in ``stages``; the modules
read ``config.stages``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from bit_backbone.config import files
from bit_backbone.config import validation as checks
from bit_backbone.config.stages import (
    STEM_STRIDE,
    StageSpec,
    derive_stages,
    rounded_width,
    smallest_input,
)
from bit_backbone.config.variants import VARIANTS, variant_of

__all__ = ["DENSE_FEATURE_NORM", "BitConfig"]

DEFAULT_NUM_LABELS = 1000

DENSE_FEATURE_NORM = "preact"
"""The ``feature_norm`` of pre-activation nets under detectors and segmenters, in every host, where
the caller does not choose. Raw residual sums are unbounded, and a feature pyramid without norms of
its own learns far slower from them; a fresh GroupNorm serves no better. docs/dense_norms.md has the
measurements."""


@dataclass(frozen=True)
class BitConfig:
    """Configuration of a BiT network; immutable, validated when made.

    Takes what transformers' ``BitConfig`` takes, plus ``feature_norm`` and
    ``weight_standardization_eps``. Sequences may be lists or tuples and are kept as tuples.

    Attributes:
        num_channels: Channels of the input image.
        embedding_size: Width of the stem before ``width_factor``.
        hidden_sizes: Width of each stage before ``width_factor``.
        depths: Residual units of each stage.
        layer_type: "preactivation" (BiT) or "bottleneck" (the ResNet of ViT hybrids).
        hidden_act: "relu", "gelu", "selu" or "gelu_new".
        global_padding: None (BiT's fixed padding), "same" (TensorFlow's SAME everywhere, from the
            input size; not what published BiT weights were trained with) or "valid" (none).
        num_groups: Groups of every GroupNorm; must divide every normalised width.
        drop_path_rate: Stochastic depth of the last unit, in [0, 1); linear from 0 at the first.
        embedding_dynamic_padding: Pad the stem's pooling as SAME, whatever ``global_padding`` is.
        output_stride: 4, 8, 16 or 32; later stages use dilation instead of a larger stride.
        width_factor: Multiplies every width, which is then rounded to a multiple of 8.
        out_features: Names of the outputs, ordered, out of "stem", "stage1" .. "stageN".
        out_indices: The same outputs as indices. Either is enough; the default is the last stage.
        feature_norm: "none" (raw residual sums), "preact" (after the pretrained norm and activation
            of the next unit) or "groupnorm" (after a new GroupNorm per output).
        weight_standardization_eps: Added to the variance of each filter; 1e-10 is the official
            code's (google-research/big_transfer, bit_pytorch/models.py).
        num_labels: Size of the classification head; 0 for none.
        id2label: Name of each label; fixes ``num_labels``.
        label2id: The inverse of ``id2label``.
        problem_type: What labels mean to the loss: "regression", "single_label_classification",
            "multi_label_classification", or None to decide by the labels of each batch.
        output_hidden_states: Whether BitModel and BitForImageClassification return the output of
            every stage too, if a call does not decide.
        return_dict: Whether they return an object with names instead of a tuple, if a call does not
            decide. A BitBackbone always returns a dict.

    Raises:
        ValueError: An argument breaks a rule; the message holds the rule, the value and the way
            out.
    """

    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: Sequence[int] = (256, 512, 1024, 2048)
    depths: Sequence[int] = (3, 4, 6, 3)
    layer_type: str = "preactivation"
    hidden_act: str = "relu"
    global_padding: str | None = None
    num_groups: int = 32
    drop_path_rate: float = 0.0
    embedding_dynamic_padding: bool = False
    output_stride: int = 32
    width_factor: float = 1
    out_features: Sequence[str] | None = None
    out_indices: Sequence[int] | None = None
    feature_norm: str = "none"
    weight_standardization_eps: float = 1e-10
    num_labels: int = DEFAULT_NUM_LABELS
    id2label: Mapping[int, str] | None = field(default=None, hash=False)
    label2id: Mapping[str, int] | None = field(default=None, hash=False)
    problem_type: str | None = None
    output_hidden_states: bool = False
    return_dict: bool = True

    def __post_init__(self) -> None:
        """Validates every argument and stores the resolved forms."""
        self._set(**{name: checks.plain(value) for name, value in self._values().items()})
        checks.check_arguments(self._values())
        names, indices = checks.resolve_outputs(
            self.stage_names, self.out_features, self.out_indices
        )
        num_labels, id2label, label2id = checks.resolve_labels(
            self.num_labels, self.id2label, self.label2id, default=DEFAULT_NUM_LABELS
        )
        self._set(
            global_padding=self.global_padding and self.global_padding.lower(),
            out_features=names,
            out_indices=indices,
            num_labels=num_labels,
            id2label=id2label,
            label2id=label2id,
        )
        checks.check_groups(self.num_groups, self.stem_channels, self.stages)

    def _values(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_variant(cls, name: str, **overrides: Any) -> BitConfig:
        """Returns the configuration of a published network.

        Args:
            name: "R50x1", "R50x3", "R101x1", "R101x3", "R152x2" or "R152x4", by itself or within an
                official ("BiT-M-R50x1") or timm name ("resnetv2_50x1_bit.goog_in21k").
            **overrides: Any argument of BitConfig.

        Raises:
            ValueError: The name holds none of the six variants.
        """
        depths, width_factor = VARIANTS[variant_of(name)]
        return cls(**{"depths": depths, "width_factor": width_factor, **overrides})

    @classmethod
    def resolve(cls, config: BitConfig | str | None, **overrides: Any) -> BitConfig:
        """Returns a configuration, given one, the name of a variant, or None for R50x1.

        Args:
            config: Where to start.
            **overrides: Arguments of BitConfig that differ from it.

        Raises:
            ValueError: The name holds none of the six variants, or an argument breaks a rule.
        """
        if config is None:
            return cls(**overrides)
        if isinstance(config, str):
            return cls.from_variant(config, **overrides)
        return config.replace(**overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BitConfig:
        """Reads the contents of a config.json, written by this package or by transformers.

        Keys that BiT does not know are ignored (transformers writes many) unless they look like a
        misspelt one. A file from transformers without an epsilon or labels gets transformers'
        defaults: 1e-8 and 2 labels.

        Raises:
            ValueError: A value breaks a rule, a key looks like a misspelt argument, or the file
                belongs to another model.
        """
        return cls(**files.arguments_of(values, {f.name for f in dataclasses.fields(cls)}))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON types under the keys of transformers' config.json."""
        return files.to_dict(self._values(), self.stage_names)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> BitConfig:
        """Reads a ``config.json`` without any weights; ``from_variant`` has published networks.

        Args:
            name_or_path: A folder, the file itself, or a repository of the Hugging Face Hub.
            revision: Branch, tag or commit of the repository.
            cache_dir: Where downloads are kept.
            token: Access token for a private repository.
            local_files_only: Whether to use only files that were downloaded before.
            **overrides: Arguments of BitConfig that differ from the file's.

        Raises:
            ValueError: The file is missing, is not JSON, or belongs to another model; or an
                argument breaks a rule.
        """
        hub = {"revision": revision, "cache_dir": cache_dir, "token": token}
        hub["local_files_only"] = local_files_only
        return cls.from_dict(files.read(name_or_path, **hub)).replace(**overrides)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Writes ``config.json``, for transformers too, into a folder; returns its path."""
        return files.write(self.to_text(), folder)

    def to_text(self, architecture: str | None = None) -> str:
        """Returns a config.json that transformers understands too.

        transformers applies ``width_factor`` to the stages but neither to the stem nor to the final
        norm, and fails; so the widths are written as they are, with a factor of 1.

        Args:
            architecture: The class of the model with which it is saved.
        """
        widths = {"embedding_size": self.stem_channels, "hidden_sizes": self.channels[1:]}
        values = {**self.to_dict(), **widths, "width_factor": 1}
        return files.to_text(values, architecture)

    def replace(self, **overrides: Any) -> BitConfig:
        """Returns a copy with some arguments changed.

        Two pairs of arguments depend on each other: ``out_features`` and ``out_indices``, and
        ``num_labels`` and the label names. The one that is not given follows the other.
        """
        overrides = checks.complete(self._values(), overrides, DEFAULT_NUM_LABELS)
        return dataclasses.replace(self, **overrides)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of all possible outputs, shallow to deep: "stem", "stage1" .. "stageN"."""
        return ("stem", *(f"stage{i}" for i in range(1, len(self.depths) + 1)))

    @property
    def use_return_dict(self) -> bool:
        """An older name of ``return_dict`` in transformers."""
        return self.return_dict

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of each output in ``stage_names``."""
        return (self.stem_channels, *(stage.channels for stage in self.stages))

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per output pixel of each output in ``stage_names``."""
        return (STEM_STRIDE, *(stage.total_stride for stage in self.stages))

    @property
    def stem_channels(self) -> int:
        """Width of the stem."""
        return rounded_width(self.embedding_size * self.width_factor)

    @property
    def stem_pool_padding(self) -> str | None:
        """Padding of the stem's pooling: None (a ring of zeros), "same" or "valid"."""
        return "same" if self.embedding_dynamic_padding else self.global_padding

    @cached_property
    def stages(self) -> tuple[StageSpec, ...]:
        """The residual stages, in order."""
        return derive_stages(
            [rounded_width(size * self.width_factor) for size in self.hidden_sizes],
            self.depths,
            stem_channels=self.stem_channels,
            output_stride=self.output_stride,
            drop_path_rate=self.drop_path_rate,
        )

    def smallest_image(self, last: int) -> int:
        """Returns the smallest height and width, in pixels, that leave a pixel at stage ``last``.

        It is 1 unless ``global_padding`` is "valid".
        """
        if self.global_padding != "valid":
            return 1
        return smallest_input(self.stages[:last], 1 if self.stem_pool_padding == "same" else 3)
