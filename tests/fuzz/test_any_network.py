"""Properties of every network that BitConfig lets one ask for, at every size of image.

``HYPOTHESIS_PROFILE=fuzz`` tries more of them.
"""

import json
import os

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bit_backbone import BitBackbone, BitConfig

settings.register_profile("short", max_examples=25, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

MOST_PIXELS = 70


@st.composite
def networks(draw):
    """Arguments of a small network; not every combination is legal."""
    stages = draw(st.integers(1, 4))
    width = st.integers(4, 12).map(lambda eighths: 8 * eighths)
    arguments = {
        "num_channels": draw(st.integers(1, 5)),
        "embedding_size": draw(width),
        "hidden_sizes": draw(st.lists(width, min_size=stages, max_size=stages)),
        "depths": draw(st.lists(st.integers(1, 2), min_size=stages, max_size=stages)),
        "layer_type": draw(st.sampled_from(["preactivation", "bottleneck"])),
        "hidden_act": draw(st.sampled_from(["relu", "gelu", "selu", "gelu_new"])),
        "global_padding": draw(st.sampled_from([None, "same", "valid"])),
        "num_groups": draw(st.sampled_from([1, 2, 4, 8])),
        "drop_path_rate": draw(st.sampled_from([0.0, 0.3])),
        "embedding_dynamic_padding": draw(st.booleans()),
        "output_stride": draw(st.sampled_from([4, 8, 16, 32])),
        "width_factor": draw(st.sampled_from([1, 0.5, 2, 1.3])),
        "feature_norm": draw(st.sampled_from(["none", "preact", "groupnorm"])),
    }
    indices = draw(st.sets(st.integers(0, stages), min_size=1))
    return arguments | {"out_indices": sorted(indices)}


def built(arguments):
    """The configuration, where the arguments are legal together."""
    try:
        return BitConfig(**arguments)
    except ValueError:
        assume(False)


@given(networks(), st.integers(1, MOST_PIXELS), st.integers(1, MOST_PIXELS))
def test_maps_are_as_declared_and_every_parameter_learns(arguments, height, width):
    config = built(arguments)
    torch.manual_seed(0)
    backbone = BitBackbone(config)
    images = torch.rand(2, config.num_channels, height, width) * 2 - 1
    if min(height, width) < config.smallest_image(max(config.out_indices)):
        with pytest.raises(ValueError, match="must be at least"):
            backbone(images)
        return
    maps = backbone(images)
    assert tuple(maps) == backbone.out_features == tuple(config.out_features)
    for (name, level), channels, stride in zip(
        maps.items(), backbone.channels, backbone.strides, strict=True
    ):
        assert level.shape[:2] == (2, channels), name
        assert torch.isfinite(level).all(), name
        if config.global_padding != "valid":
            assert level.shape[2:] == (-(-height // stride), -(-width // stride)), name
    sum(level.square().sum() for level in maps.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@given(networks())
def test_configurations_survive_a_file(arguments):
    config = built(arguments)
    assert BitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 2**40),
    st.floats(),
    st.text(max_size=6),
    st.lists(st.integers(-2, 300), max_size=5),
    st.sampled_from(["same", "SAME", "valid", "relu", "preact", "stage1", "stage9", "stem"]),
    st.lists(st.sampled_from(["stem", "stage1", "stage4", "stage5", ""]), max_size=4),
)
NAMES = [name for name in BitConfig.__dataclass_fields__ if name not in ("id2label", "label2id")]


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, min_size=1, max_size=3))
def test_any_argument_is_taken_or_rejected_by_name(arguments):
    try:
        config = BitConfig(**arguments)
    except ValueError:
        return
    assert len(config.channels) == len(config.strides) == len(config.stage_names)
