"""from_pretrained and save_pretrained: folders that transformers reads and writes too."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from bit_backbone.checkpoints.checkpoint import Checkpoint
from bit_backbone.checkpoints.errors import CheckpointError
from bit_backbone.checkpoints.files import FLOAT_DTYPES, WEIGHT_FILES
from bit_backbone.checkpoints.formats import FORMATS, STEM_GAIN
from bit_backbone.checkpoints.loading import load_checkpoint
from bit_backbone.checkpoints.matching import Target
from bit_backbone.checkpoints.quantized import KEY, is_quantized, write_quantized
from bit_backbone.checkpoints.sources import CONFIG_FILE, Place, Source, SourceLike, locate, split
from bit_backbone.checkpoints.writing import write_safetensors, write_text, writing
from bit_backbone.config import MODEL_TYPE, BitConfig
from bit_backbone.config.files import check_model_type
from bit_backbone.utils.empty_weights import init_empty_weights
from bit_backbone.utils.files import read_json
from bit_backbone.utils.ways_out import after, passing

_INDEX = "model.safetensors.index.json"
_PADDING = {"global_padding", "embedding_dynamic_padding"}
_LABELS = {"num_labels", "id2label", "label2id"}
_SHARDS = "model-*-of-*.safetensors"


ModelT = TypeVar("ModelT", bound=nn.Module)


def from_pretrained(
    cls: type[ModelT],
    name_or_path: str | os.PathLike[str] | Source,
    *,
    head: str = "keep",
    strict: bool = True,
    revision: str | None = None,
    dtype: torch.dtype | str | None = None,
    part: str | None = None,
    **overrides: Any,
) -> ModelT:
    """Builds a model of a class and loads a checkpoint; see ``PretrainedMixin``."""
    source, part = split(name_or_path, part)
    if isinstance(source, Mapping):
        raise CheckpointError(
            "from_pretrained takes a name or a path, got a dict: build the model, and load the "
            "dict into it with bit_backbone.checkpoints.load"
        )
    place = locate(source, revision)
    config = read_config(place)
    with Checkpoint(place.open(), part) as checkpoint:
        if config is None:
            labels = {} if _LABELS & set(overrides) else _timm_labels(place, checkpoint)
            config = config_of(checkpoint, **labels, **overrides)
        if head == "drop" and not _LABELS & set(overrides):
            overrides["num_labels"] = 0
        with init_empty_weights():
            model = cls(config.replace(**overrides)).to(_dtype(dtype, checkpoint))
        load_checkpoint(model, checkpoint, head, strict)
    model.eval()
    return model


def _dtype(dtype: torch.dtype | str | None, checkpoint: Checkpoint) -> torch.dtype | None:
    if dtype == "auto":
        found = {spec.dtype for spec in checkpoint.specs.values()}
        if len(found) > 1:
            raise ValueError(
                f'dtype="auto" needs tensors of one type, got {", ".join(sorted(found))} in '
                f"{checkpoint.origin}: name one"
            )
        (dtype,) = found
    known = FLOAT_DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and known not in FLOAT_DTYPES.values():
        raise ValueError(
            f'dtype must be "auto", or {", ".join(FLOAT_DTYPES)} as a name or of torch, '
            f"got {dtype!r}"
        )
    return known


def read_config(place: Place) -> BitConfig | None:
    """Reads the config.json of a checkpoint; returns None if there is none.

    Raises:
        CheckpointError: A folder or repository without a config.json, or another model's.
    """
    path = place.config()
    if path is None:
        return None
    try:
        values = read_json(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if KEY in values:
        raise CheckpointError(
            f"{path} is of a quantized network, and from_pretrained reads floating-point ones; "
            "bit_backbone.inference.load_int8 reads what this package has written in 8 bits"
        )
    inner = values.get("backbone_config")
    if isinstance(inner, dict) and inner.get("model_type") == MODEL_TYPE:
        return BitConfig.from_dict(inner)  # a hybrid transformer's, or a depth estimator's
    if "model_type" not in values and str(values.get("architecture", "")).startswith("resnetv2"):
        return None  # timm's, which names a variant and nothing else
    try:
        check_model_type(values, path)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return BitConfig.from_dict(values)


def _timm_labels(place: Place, checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the names of the classes in a config.json of timm's, as an argument of BitConfig."""
    path = place.config()
    values = {} if path is None else read_json(path)
    names = values.get("label_names") or (values.get("pretrained_cfg") or {}).get("label_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return {}
    if len(names) != checkpoint.architecture.num_labels:
        warnings.warn(
            f"{path} names {len(names)} labels, and the head of {checkpoint.origin} has "
            f"{checkpoint.architecture.num_labels}: the names are ignored",
            stacklevel=4,
        )
        return {}
    return {"id2label": dict(enumerate(names))}


def config_of(checkpoint: Checkpoint, **overrides: Any) -> BitConfig:
    """Returns the configuration of a checkpoint without a config.json."""
    eps = {"weight_standardization_eps": checkpoint.format.eps}
    if checkpoint.architecture.layer_type == "bottleneck" and not _PADDING & set(overrides):
        warnings.warn(
            f"{checkpoint.origin} is a bottleneck network without a config.json: its weights do "
            'not show how it pads. The networks in hybrid transformers pad by the rule "same", and '
            "their stems by the image; BitConfig's default is taken"
            + after("; ", passing("global_padding", "same"))
            + after(" and ", passing("embedding_dynamic_padding", True, "if it is one of these")),
            stacklevel=4,
        )
    try:
        return checkpoint.architecture.to_config(**{**eps, **overrides})
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.origin} has no config.json, and its shapes ({checkpoint.architecture}) "
            f"do not show the network: {error}"
        ) from error


def config_for(source: SourceLike, checkpoint: Checkpoint) -> BitConfig:
    """Returns an open checkpoint's configuration, from its config.json or its shapes."""
    path, _ = split(source)
    config = read_config(locate(path)) if isinstance(path, str | os.PathLike) else None
    return config or config_of(checkpoint)


def save_pretrained(
    model: nn.Module, folder: str | os.PathLike[str], *, max_shard_size: int | str = "50GB"
) -> None:
    """Writes a model as transformers does; see ``PretrainedMixin``."""
    from huggingface_hub import split_torch_state_dict_into_shards

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} must be a folder, or not exist yet; it is a file")
    if is_quantized(model):
        remove_older_weights(folder, keep=write_quantized(model, _config(model), folder))
        return
    config = _config(model).to_text(type(model).__name__)
    tensors = dict(_transformers_tensors(model))
    split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    names = [CONFIG_FILE, *split.filename_to_tensors, *([_INDEX] if split.is_sharded else [])]
    with writing(*(folder / name for name in names), overwrite=True) as paths:
        temporary = dict(zip(names, paths, strict=True))
        for name, content in split.filename_to_tensors.items():
            write_safetensors(temporary[name], ((tensor, tensors[tensor]) for tensor in content))
        if split.is_sharded:
            index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
            write_text(temporary[_INDEX], json.dumps(index, indent=2) + "\n")
        write_text(temporary[CONFIG_FILE], config)
    remove_older_weights(folder, keep=set(names))


def _config(model: nn.Module) -> BitConfig:
    config = getattr(model, "config", None)
    if not isinstance(config, BitConfig):
        raise CheckpointError(
            "save_pretrained writes this package's models, which have a BitConfig; got a "
            f"{type(model).__name__}"
        )
    return config


def _transformers_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    target = Target(model)
    theirs = FORMATS["transformers"]
    for name, tensor in target.tensors.items():
        tensor = tensor.detach().cpu()
        if name == STEM_GAIN and bool((tensor == 1).all()):
            continue  # what its absence means
        if name == STEM_GAIN:
            warnings.warn(
                "the stem's filters were adapted from RGB and carry a gain, which transformers "
                "does not know: this package reads the folder exactly, transformers does not",
                stacklevel=3,
            )
        written = theirs.write_name(target.checkpoint_name(name))
        assert written is not None, name
        yield written, theirs.write_tensor(name, tensor)


def remove_older_weights(folder: Path, keep: set[str]) -> None:
    """Removes older weights that readers would take for this model's."""
    for path in [*(folder / name for name in WEIGHT_FILES), *folder.glob(_SHARDS)]:
        if path.name not in keep:
            path.unlink(missing_ok=True)
