"""The rules of BitConfig, each with the error that explains it."""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from bit_backbone.config.stages import BOTTLENECK_RATIO, StageSpec
from bit_backbone.utils.ways_out import after, passing

CHOICES: dict[str, tuple[Any, ...]] = {
    "layer_type": ("preactivation", "bottleneck"),
    "hidden_act": ("relu", "gelu", "selu", "gelu_new"),
    "global_padding": (None, "same", "valid"),
    "output_stride": (4, 8, 16, 32),
    "feature_norm": ("none", "preact", "groupnorm"),
    "embedding_dynamic_padding": (False, True),
    "output_hidden_states": (False, True),
    "return_dict": (False, True),
    "problem_type": (
        None,
        "regression",
        "single_label_classification",
        "multi_label_classification",
    ),
}
# Of arguments that say the same thing, the ones that follow when the first is overridden.
_FOLLOWERS = {
    "out_features": ("out_indices",),
    "out_indices": ("out_features",),
    "num_labels": ("id2label", "label2id"),
    "id2label": ("label2id",),
}
# Close enough to be a slip of the keyboard, far enough from transformers' own keys.
SPELLING_CUTOFF = 0.85


def plain(value: Any) -> Any:
    """Returns numbers of numpy's as Python's, and lists, ranges and arrays as tuples of those."""
    if isinstance(value, str | bytes | Mapping | bool) or value is None:
        return value
    if isinstance(value, Integral):
        return operator.index(value)
    if isinstance(value, Real):
        return float(value)
    if getattr(value, "ndim", 0) == 1 and hasattr(value, "tolist"):
        return tuple(value.tolist())
    return tuple(plain(item) for item in value) if isinstance(value, Sequence) else value


def check_arguments(values: Mapping[str, Any]) -> None:
    """Checks the arguments of BitConfig, each by itself and in combination."""
    for name, choices in CHOICES.items():
        value = values[name]
        value = value.lower() if name == "global_padding" and isinstance(value, str) else value
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise ValueError(f"{name} must be one of {_listed(choices)}, got {value!r}")
    for name in ("num_channels", "embedding_size", "num_groups"):
        _check_positive_integer(name, values[name])
    _check_stage_sequences(values)
    _check_numbers(values)
    if values["feature_norm"] == "preact" and values["layer_type"] != "preactivation":
        raise ValueError(
            'feature_norm="preact" needs layer_type="preactivation", got '
            f"{values['layer_type']!r}: bottleneck units end in an activation already"
            + after("; ", passing("feature_norm", "none"))
        )


def check_groups(num_groups: int, stem_channels: int, stages: Iterable[StageSpec]) -> None:
    """Checks that GroupNorm can split every width it normalises."""
    widths = _normalised_widths(stem_channels, stages)
    for where, width in widths.items():
        if width % num_groups:
            raise ValueError(
                f"num_groups must divide every normalised width; {num_groups} does not divide "
                f"{width} (from {where}, times width_factor, rounded to a multiple of 8); "
                f"use a num_groups that divides {math.gcd(*widths.values())}"
            )


def _normalised_widths(stem_channels: int, stages: Iterable[StageSpec]) -> dict[str, int]:
    """Every width that a GroupNorm sees, by where it comes from."""
    widths = {"embedding_size": stem_channels}
    for stage in stages:
        where = f"hidden_sizes[{stage.index - 1}]"
        widths[where] = stage.channels
        widths[f"{where} / {BOTTLENECK_RATIO}"] = stage.bottleneck_channels
    return widths


def complete(
    values: Mapping[str, Any], overrides: Mapping[str, Any], default_labels: int
) -> dict[str, Any]:
    """Adds the arguments that follow from the given ones to the overrides of a configuration."""
    for given, followers in _FOLLOWERS.items():
        if given in overrides:
            overrides = dict.fromkeys(followers) | dict(overrides)
    count = len(values["depths"])
    as_by_default = values["out_indices"] == (count,)
    if as_by_default and len(overrides.get("depths", values["depths"])) != count:
        overrides = {"out_features": None, "out_indices": None} | dict(overrides)
    if overrides.get("id2label") is not None:
        overrides = {"num_labels": default_labels} | dict(overrides)
    return dict(overrides)


def check_spelling(keys: Iterable[str], arguments: Collection[str]) -> None:
    """Rejects keys that look like a misspelt argument."""
    for key in set(keys) - set(arguments):
        close = difflib.get_close_matches(key, arguments, n=1, cutoff=SPELLING_CUTOFF)
        if close:
            raise ValueError(f"BitConfig has no key {key!r}; did you mean {close[0]!r}?")


def resolve_outputs(
    stage_names: Sequence[str],
    out_features: Sequence[str] | None,
    out_indices: Sequence[int] | None,
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Returns the requested outputs as (names, indices).

    Args:
        stage_names: All legal names, shallow to deep.
        out_features: Names asked for, or None.
        out_indices: Indices asked for (negative ones count from the end), or None.

    Raises:
        ValueError: Empty, unknown, out of range, repeated or unordered, or the two disagree.
    """
    if out_features is None and out_indices is None:
        return (stage_names[-1],), (len(stage_names) - 1,)
    by_name = None if out_features is None else _indices_of_names(stage_names, out_features)
    by_index = None if out_indices is None else _positive_indices(stage_names, out_indices)
    if by_name is not None and by_index is not None and by_name != by_index:
        raise ValueError(
            "out_features and out_indices must name the same outputs pair by pair, got "
            f"{tuple(out_features or ())} and {tuple(out_indices or ())} (that is "
            f"{tuple(stage_names[i] for i in by_index)}); give one of the two"
        )
    indices = by_name if by_name is not None else by_index
    assert indices is not None
    return tuple(stage_names[i] for i in indices), indices


def resolve_labels(
    num_labels: int,
    id2label: Mapping[Any, str] | Sequence[str] | None,
    label2id: Mapping[str, int] | None,
    default: int,
) -> tuple[int, dict[int, str] | None, dict[str, int] | None]:
    """Returns (num_labels, id2label, label2id) that agree with each other."""
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 0:
        raise ValueError(f"num_labels must be an integer >= 0 (0: no head), got {num_labels!r}")
    if id2label is None and label2id is None:
        return num_labels, None, None
    if id2label is None:
        id2label = {index: label for label, index in (label2id or {}).items()}
    names = _label_names(id2label)
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"id2label must name the labels 0 to {len(names) - 1}, got {list(names)}")
    if num_labels not in (len(names), default):
        raise ValueError(
            f"num_labels must equal the number of label names, got num_labels={num_labels} and "
            f"{len(names)} names; leave num_labels out"
        )
    inverse = {label: index for index, label in names.items()}
    for label, index in (label2id or {}).items():
        if names.get(int(index)) != label:
            raise ValueError(
                f"label2id must be the inverse of id2label, got {label!r}: {index!r} where label "
                f"{index} is {names.get(int(index))!r}; leave label2id out"
            )
    return len(names), names, dict(label2id) if label2id is not None else inverse


def _label_names(id2label: Mapping[Any, str] | Sequence[str]) -> dict[int, str]:
    items = id2label.items() if isinstance(id2label, Mapping) else enumerate(id2label)
    try:
        return {int(index): str(label) for index, label in items}
    except (TypeError, ValueError) as error:
        raise ValueError(f"id2label must map integers to names, got {id2label!r}") from error


def _check_stage_sequences(values: Mapping[str, Any]) -> None:
    depths, sizes = values["depths"], values["hidden_sizes"]
    for name, sequence in (("hidden_sizes", sizes), ("depths", depths)):
        if not isinstance(sequence, tuple) or not sequence:
            raise ValueError(f"{name} must be a non-empty sequence, got {sequence!r}")
        for i, value in enumerate(sequence):
            _check_positive_integer(f"{name}[{i}]", value)
    if len(depths) != len(sizes):
        raise ValueError(
            "depths and hidden_sizes must have one entry per stage each, got "
            f"{len(depths)} depths {depths} and {len(sizes)} hidden_sizes {sizes}"
        )


def _check_numbers(values: Mapping[str, Any]) -> None:
    if not 0 <= _number(values, "drop_path_rate") < 1:
        raise ValueError(f"drop_path_rate must be in [0, 1), got {values['drop_path_rate']!r}")
    if _number(values, "width_factor") <= 0:
        raise ValueError(f"width_factor must be above 0, got {values['width_factor']!r}")
    if _number(values, "weight_standardization_eps") < 0:
        raise ValueError(
            "weight_standardization_eps must be at least 0, got "
            f"{values['weight_standardization_eps']!r}"
        )


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return value


def _check_positive_integer(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def _indices_of_names(stage_names: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    _check_sequence("out_features", names, str, "stage names", stage_names)
    for name in names:
        if name not in stage_names:
            raise ValueError(
                f"out_features must be among {_listed(stage_names)}, got {name!r} in {tuple(names)}"
            )
    indices = tuple(stage_names.index(name) for name in names)
    _check_order("out_features", names, indices, stage_names)
    return indices


def _positive_indices(stage_names: Sequence[str], indices: Sequence[int]) -> tuple[int, ...]:
    _check_sequence("out_indices", indices, int, "integers", stage_names)
    count = len(stage_names)
    for index in indices:
        if not -count <= index < count:
            raise ValueError(
                f"out_indices must be in [{-count}, {count - 1}], the indices of "
                f"{_listed(stage_names)}, got {index} in {tuple(indices)}"
            )
    positive = tuple(index % count for index in indices)
    _check_order("out_indices", indices, positive, stage_names)
    return positive


def _check_sequence(
    name: str, values: Any, kind: type, kind_name: str, stage_names: Sequence[str]
) -> None:
    sound = isinstance(values, tuple) and all(
        isinstance(v, kind) and not isinstance(v, bool) for v in values
    )
    if not sound:
        raise ValueError(f"{name} must be a sequence of {kind_name}, got {values!r}")
    if not values:
        raise ValueError(
            f"{name} must not be empty; name at least one of {_listed(stage_names)}, got {values!r}"
        )


def _check_order(
    name: str, given: Sequence[Any], indices: Sequence[int], stage_names: Sequence[str]
) -> None:
    if len(set(indices)) != len(indices):
        raise ValueError(
            f"{name} must not repeat an output, got {tuple(given)}; each of "
            f"{_listed(stage_names)} at most once"
        )
    if list(indices) != sorted(indices):
        raise ValueError(
            f"{name} must be ordered shallow to deep as {_listed(stage_names)}, got {tuple(given)}"
        )


def _listed(choices: Iterable[Any]) -> str:
    return ", ".join(repr(choice) for choice in choices)
