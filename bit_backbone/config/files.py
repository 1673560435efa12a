"""Reading and writing config.json, this package's and transformers'."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from bit_backbone.config.validation import check_spelling
from bit_backbone.utils.files import atomic_path
from bit_backbone.utils.saved_settings import read as read_saved

FILE_NAME = "config.json"
MODEL_TYPE = "bit"
TRANSFORMERS_EPS = 1e-8
TRANSFORMERS_NUM_LABELS = 2


def read(name_or_path: str | os.PathLike[str], **hub_options: Any) -> dict[str, Any]:
    """Returns the contents of a BiT's config.json.

    Raises:
        ValueError: It is missing, or belongs to another kind of model.
    """
    path, values = read_saved(name_or_path, FILE_NAME, "from_variant", **hub_options)
    check_model_type(values, path)
    return values


def check_model_type(values: Mapping[str, Any], path: Path) -> None:
    """Checks that the values of a config.json belong to a BiT.

    Raises:
        ValueError: They belong to another model.
    """
    if values.get("model_type") != MODEL_TYPE:
        raise ValueError(
            f"{path} must be a BiT configuration (model_type {MODEL_TYPE!r}), got "
            f"{values.get('model_type', values.get('architecture'))!r}; "
            "BitConfig.from_variant has the published networks, by timm's names too"
        )


def write(text: str, folder: str | os.PathLike[str]) -> Path:
    """Writes config.json into a folder, made if missing; returns its path."""
    target = Path(folder) / FILE_NAME
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return target


def arguments_of(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Returns the arguments of BitConfig that a config.json holds, out of ``names``.

    Raises:
        ValueError: It belongs to another model, or a key looks like a misspelt argument.
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


def to_dict(arguments: Mapping[str, Any], stage_names: Iterable[str]) -> dict[str, Any]:
    """Returns arguments as plain JSON types under the keys of transformers' config.json."""
    values: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()
    }
    if values["global_padding"] is not None:
        values["global_padding"] = values["global_padding"].upper()
    if values["id2label"] is None:
        del values["id2label"], values["label2id"]
    else:
        values["id2label"] = {str(i): label for i, label in values["id2label"].items()}
        values["label2id"] = dict(values["label2id"] or {})
    return {"model_type": MODEL_TYPE, "stage_names": list(stage_names), **values}


def to_text(values: Mapping[str, Any], architecture: str | None = None) -> str:
    """Returns the text of a config.json, which names the model's class if it is given."""
    architectures = {} if architecture is None else {"architectures": [architecture]}
    return json.dumps({**values, **architectures}, indent=2, sort_keys=True) + "\n"
