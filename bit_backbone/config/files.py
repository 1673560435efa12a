"""Reading and writing config.json, this package's and transformers'."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bit_backbone.config.validation import check_spelling
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.saved_settings import read as read_saved

if TYPE_CHECKING:
    from bit_backbone.config import BitConfig

FILE_NAME = "config.json"
MODEL_TYPE = "bit"
TRANSFORMERS_EPS = 1e-8
TRANSFORMERS_NUM_LABELS = 2


def read(name_or_path: str | os.PathLike[str], **hub_options: Any) -> dict[str, Any]:
    """Returns what is in a config.json that belongs to a BiT.

    Raises:
        ValueError: There is none, or it is no BiT's.
    """
    path, values = read_saved(name_or_path, FILE_NAME, "from_variant", **hub_options)
    if values.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{path} must be a BiT configuration (model_type {MODEL_TYPE!r}), got "
            f"{values.get('model_type', values.get('architecture'))!r}; from_variant has the "
            "published networks, by timm's names too"
        )
    return values


def write(config: BitConfig, folder: str | os.PathLike[str]) -> Path:
    """Writes config.json into a folder, made if missing; returns its path."""
    target = Path(folder) / FILE_NAME
    with atomic_path(target) as temporary:
        temporary.write_text(to_text(config), encoding="utf-8")
    return target


def arguments_of(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns the arguments of BitConfig that a config.json holds, out of ``names``.

    Raises:
        ValueError: It is another model's, or a key is almost, but not quite, an argument.
    """
    if values.get("model_type", MODEL_TYPE) != MODEL_TYPE:
        raise ValueError(f"model_type must be {MODEL_TYPE!r}, got {values['model_type']!r}")
    check_spelling(values, names)
    known = {key: value for key, value in values.items() if key in names}
    if "transformers_version" in values:
        known.setdefault("weight_standardization_eps", TRANSFORMERS_EPS)
        if known.get("id2label") is None:
            known.setdefault("num_labels", TRANSFORMERS_NUM_LABELS)
    return known


def to_dict(config: BitConfig) -> dict[str, Any]:
    """Returns plain JSON types under the keys of transformers' config.json."""
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    values |= {key: list(v) for key, v in values.items() if isinstance(v, tuple)}
    if config.global_padding is not None:
        values["global_padding"] = config.global_padding.upper()
    if config.id2label is None:
        del values["id2label"], values["label2id"]
    else:
        values["id2label"] = {str(i): label for i, label in config.id2label.items()}
        values["label2id"] = dict(config.label2id or {})
    return {"model_type": MODEL_TYPE, "stage_names": list(config.stage_names), **values}


def to_text(config: BitConfig, architecture: str | None = None) -> str:
    """Returns a config.json that transformers understands too.

    transformers applies ``width_factor`` to the stages but neither to the stem nor to the final
    norm, and fails; so the widths are written as they are, with a factor of 1.

    Args:
        config: The network.
        architecture: The class of the model that it is saved with.
    """
    values = {
        **to_dict(config),
        "embedding_size": config.stem_channels,
        "hidden_sizes": list(config.channels[1:]),
        "width_factor": 1,
    }
    if architecture is not None:
        values["architectures"] = [architecture]
    return json.dumps(values, indent=2, sort_keys=True) + "\n"
