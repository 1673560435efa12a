"""BitConfig: derived numbers, resolution of outputs, and every rule with its message."""

import json
import pickle

import numpy as np
import pytest

from bit_backbone.config import VARIANTS, BitConfig, variant_of

WIDTHS = {1: (64, 256, 512, 1024, 2048), 2: (128, 512, 1024, 2048, 4096)}


def test_defaults_are_r50x1():
    config = BitConfig()
    assert config == BitConfig.from_variant("R50x1")
    assert config.stage_names == ("stem", "stage1", "stage2", "stage3", "stage4")
    assert config.channels == WIDTHS[1]
    assert config.strides == (4, 4, 8, 16, 32)
    assert (config.out_features, config.out_indices) == (("stage4",), (4,))


def test_variants_widen_the_stem_too():
    assert BitConfig.from_variant("R152x2").channels == WIDTHS[2]
    assert BitConfig.from_variant("R101x3").channels == tuple(3 * c for c in WIDTHS[1])
    assert BitConfig.from_variant("R152x4", output_stride=8).depths == (3, 8, 36, 3)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("R50x1", "R50x1"),
        ("r101x3", "R101x3"),
        ("BiT-M-R152x4", "R152x4"),
        ("BiT-S-R50x3", "R50x3"),
        ("resnetv2_50x1_bit", "R50x1"),
        ("resnetv2_101x1_bitm", "R101x1"),
        ("resnetv2_152x2_bitm_in21k", "R152x2"),
        ("resnetv2_152x2_bit_teacher_384", "R152x2"),
        ("timm/resnetv2_50x1_bit.goog_distilled_in1k", "R50x1"),
        ("BiT-M-R101x1-ILSVRC2012", "R101x1"),
        ("BiT-M-R50x1.npz", "R50x1"),
        ("vtab/BiT-M-R152x4-run0-caltech101", "R152x4"),
        ("distill/R152x2_T_224", "R152x2"),
        ("google/bit-50", "R50x1"),
    ],
)
def test_variant_names(name, variant):
    assert variant_of(name) == variant
    depths, width = VARIANTS[variant]
    assert BitConfig.from_variant(name).depths == depths
    assert BitConfig.from_variant(name).width_factor == width


@pytest.mark.parametrize("name", ["R50x2", "resnet50", "R26x1", "resnetv2_50x2_bit", "", "xR50x1"])
def test_unknown_variants_are_rejected(name):
    with pytest.raises(ValueError, match=r"one of R50x1, R50x3, .* got '"):
        BitConfig.from_variant(name)


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        (32, (4, 4, 8, 16, 32), [(1, 1), (1, 1), (1, 1), (1, 1)]),
        (16, (4, 4, 8, 16, 16), [(1, 1), (1, 1), (1, 1), (1, 2)]),
        (8, (4, 4, 8, 8, 8), [(1, 1), (1, 1), (1, 2), (2, 4)]),
        (4, (4, 4, 4, 4, 4), [(1, 1), (1, 2), (2, 4), (4, 8)]),
    ],
)
def test_output_stride_dilates(output_stride, strides, dilations):
    config = BitConfig(output_stride=output_stride)
    assert config.strides == strides
    assert [(s.first_dilation, s.dilation) for s in config.stages] == dilations


def test_widths_are_rounded_once_and_reported_as_rounded():
    config = BitConfig(
        embedding_size=20, hidden_sizes=(36, 70), depths=(1, 1), num_groups=8, width_factor=0.5
    )
    # 10 -> 16 (8 would lose a fifth), 18 -> 24 (16 would lose a ninth), 35 -> 32
    assert config.channels == (16, 24, 32)
    # 6 -> 8, 8 -> 8
    assert [s.bottleneck_channels for s in config.stages] == [8, 8]


def test_drop_path_rates_are_linear_over_all_units():
    config = BitConfig(depths=(1, 2, 1, 1), drop_path_rate=0.4)
    rates = [r for stage in config.stages for r in stage.drop_path_rates]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert BitConfig(hidden_sizes=(256,), depths=(1,), drop_path_rate=0.4).stages[
        0
    ].drop_path_rates == (0,)


@pytest.mark.parametrize(
    ("arguments", "features", "indices"),
    [
        ({}, ("stage4",), (4,)),
        ({"out_indices": [1, 2, 3]}, ("stage1", "stage2", "stage3"), (1, 2, 3)),
        ({"out_indices": (-1,)}, ("stage4",), (4,)),
        ({"out_indices": [0, -3]}, ("stem", "stage2"), (0, 2)),
        ({"out_features": ["stem", "stage4"]}, ("stem", "stage4"), (0, 4)),
        ({"out_features": ("stage2",), "out_indices": [2]}, ("stage2",), (2,)),
        ({"out_features": ("stage2",), "out_indices": [-3]}, ("stage2",), (2,)),
    ],
)
def test_outputs_resolve(arguments, features, indices):
    config = BitConfig(**arguments)
    assert (config.out_features, config.out_indices) == (features, indices)


BAD_ARGUMENTS = [
    ({"out_features": []}, r"out_features must not be empty.*'stem', 'stage1'"),
    ({"out_indices": []}, "out_indices must not be empty"),
    ({"out_features": "stage4"}, "must be a sequence of stage names, got 'stage4'"),
    ({"out_indices": 4}, "must be a sequence of integers, got 4"),
    ({"out_indices": [True]}, r"must be a sequence of integers, got \(True,\)"),
    ({"out_indices": ["stage1"]}, "must be a sequence of integers"),
    ({"out_features": ["stage5"]}, "among 'stem', 'stage1', .*'stage4', got 'stage5'"),
    ({"out_features": ["res5"]}, "got 'res5'"),
    ({"out_indices": [5]}, r"must be in \[-5, 4\].*got 5"),
    ({"out_indices": [-6]}, r"must be in \[-5, 4\].*got -6"),
    ({"out_indices": [3, 1]}, r"ordered shallow to deep.*got \(3, 1\)"),
    ({"out_features": ["stage2", "stem"]}, "ordered shallow to deep"),
    ({"out_indices": [1, 1]}, r"must not repeat.*got \(1, 1\)"),
    ({"out_indices": [4, -1]}, "must not repeat"),
    ({"out_features": ["stage1", "stage1"]}, "must not repeat"),
    ({"out_features": ["stage1"], "out_indices": [2]}, r"pair by pair.*'stage2'"),
    ({"out_features": ["stage1"], "out_indices": [1, 2]}, "pair by pair"),
    ({"output_stride": 2}, "output_stride must be one of 4, 8, 16, 32, got 2"),
    ({"output_stride": 7}, "got 7"),
    ({"output_stride": 64}, "got 64"),
    ({"output_stride": 16.0}, "got 16.0"),
    ({"drop_path_rate": 1.0}, r"in \[0, 1\), got 1.0"),
    ({"drop_path_rate": -0.1}, r"in \[0, 1\), got -0.1"),
    ({"drop_path_rate": 1.5}, r"in \[0, 1\), got 1.5"),
    ({"drop_path_rate": float("nan")}, "finite number, got nan"),
    ({"depths": (3, 4, 6)}, r"3 depths \(3, 4, 6\) and 4 hidden_sizes"),
    ({"depths": ()}, "depths must be a non-empty sequence"),
    ({"depths": (3, 0, 6, 3)}, r"depths\[1\] must be an integer of at least 1, got 0"),
    ({"hidden_sizes": (256.0, 512, 1024, 2048)}, r"hidden_sizes\[0\] must be an integer"),
    ({"hidden_sizes": 256}, "hidden_sizes must be a non-empty sequence, got 256"),
    ({"num_groups": 48}, r"48 does not divide 64 \(from embedding_size.*divides 64"),
    ({"num_groups": 0}, "num_groups must be an integer of at least 1, got 0"),
    ({"hidden_sizes": (100, 512, 1024, 2048)}, r"32 does not divide 104 \(from hidden_sizes\[0\]"),
    ({"hidden_sizes": (64, 512, 1024, 2048)}, r"does not divide 16 \(from hidden_sizes\[0\] / 4"),
    ({"width_factor": 0}, "width_factor must be above 0, got 0"),
    ({"width_factor": -1}, "width_factor must be above 0, got -1"),
    ({"width_factor": "2"}, "width_factor must be a finite number, got '2'"),
    ({"width_factor": float("inf")}, "finite number"),
    ({"layer_type": "basic"}, "layer_type must be one of 'preactivation', 'bottleneck'"),
    ({"hidden_act": "swish"}, "hidden_act must be one of 'relu', 'gelu', 'selu', 'gelu_new'"),
    ({"global_padding": "full"}, "global_padding must be one of None, 'same', 'valid'"),
    ({"feature_norm": "batchnorm"}, "feature_norm must be one of 'none', 'preact', 'groupnorm'"),
    ({"feature_norm": "preact", "layer_type": "bottleneck"}, 'needs layer_type="preactivation"'),
    ({"embedding_dynamic_padding": 1}, "must be one of False, True, got 1"),
    ({"weight_standardization_eps": -1e-8}, "must be at least 0, got -1e-08"),
    ({"num_channels": 0}, "num_channels must be an integer of at least 1"),
    ({"num_channels": True}, "num_channels must be an integer"),
    ({"num_labels": -1}, "num_labels must be an integer >= 0"),
    ({"id2label": {0: "a", 2: "b"}}, "id2label must name the labels 0 to 1"),
    ({"id2label": {0: "a", 1: "b"}, "num_labels": 3}, "num_labels=3 and 2 names"),
    ({"id2label": ["a", "b"], "label2id": {"a": 1}}, "inverse of id2label, got 'a': 1"),
    ({"label2id": {"a": 0, "b": 0}}, "inverse of id2label, got 'a': 0"),
    ({"label2id": {"a": "b"}}, "id2label must map integers to names"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        BitConfig(**arguments)


def test_replace_lets_the_other_spelling_follow():
    config = BitConfig(out_features=["stage1"], id2label={0: "cat", 1: "dog"})
    assert config.replace(out_indices=[2]).out_features == ("stage2",)
    assert config.replace(out_features=["stem"]).out_indices == (0,)
    assert config.replace(num_labels=5).id2label is None
    assert config.replace(id2label=["x", "y", "z"]).num_labels == 3
    assert config.replace(id2label=["x", "y", "z"]).label2id == {"x": 0, "y": 1, "z": 2}
    assert config.replace(output_stride=8).id2label == {0: "cat", 1: "dog"}
    with pytest.raises(ValueError, match="output_stride"):
        config.replace(output_stride=5)


def test_labels_follow_from_their_names():
    assert BitConfig(id2label={"0": "cat", "1": "dog"}).num_labels == 2
    assert BitConfig(label2id={"cat": 0, "dog": 1}).id2label == {0: "cat", 1: "dog"}
    # ImageNet has two labels named "crane": both keep their name
    assert BitConfig(id2label=["crane", "crane"]).id2label == {0: "crane", 1: "crane"}
    assert BitConfig(num_labels=0).num_labels == 0


def test_dict_round_trip_through_json():
    config = BitConfig.from_variant(
        "R101x3", out_indices=[1, 3], global_padding="SAME", id2label={0: "cat", 1: "dog"}
    )
    values = json.loads(json.dumps(config.to_dict()))
    assert values["global_padding"] == "SAME"
    assert values["model_type"] == "bit"
    assert values["hidden_sizes"] == [256, 512, 1024, 2048]
    assert BitConfig.from_dict(values) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(config) == hash(BitConfig.from_dict(values))


def test_unknown_keys_of_a_file_are_ignored_but_misspelt_ones_rejected():
    assert BitConfig.from_dict({"architectures": ["BitModel"], "torch_dtype": "float32"})
    with pytest.raises(ValueError, match=r"no key 'out_feature'; did you mean 'out_features'"):
        BitConfig.from_dict({"out_feature": ["stage1"]})


@pytest.mark.parametrize(
    "given", [{}, {"output_hidden_states": True}, {"return_dict": False}], ids=str
)
def test_what_models_return_is_read_and_written(given):
    config = BitConfig(**given)
    values = {"output_hidden_states": False, "return_dict": True} | given
    for known in (config, BitConfig.from_dict(json.loads(json.dumps(config.to_dict())))):
        assert {name: getattr(known, name) for name in values} == values
        assert known.use_return_dict == values["return_dict"]
    with pytest.raises(ValueError, match="return_dict must be one of False, True, got None"):
        config.replace(return_dict=None)
    # what transformers writes beside them is no misspelling
    assert BitConfig.from_dict({"output_attentions": False, "use_return_dict": True})


def test_a_config_json_is_read_and_written_without_weights(tmp_path):
    config = BitConfig.from_variant("R50x3", out_indices=[1, 2], id2label=["cat", "dog"])
    path = config.save_pretrained(tmp_path / "new")
    assert path == tmp_path / "new" / "config.json"
    found = BitConfig.from_pretrained(path.parent)
    # the widths as they are, for transformers' sake
    assert (found.channels, found.width_factor) == (config.channels, 1)
    widths = {"embedding_size": 192, "hidden_sizes": (768, 1536, 3072, 6144), "width_factor": 1}
    assert found == config.replace(**widths)
    assert BitConfig.from_pretrained(path, output_stride=8) == found.replace(output_stride=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"saved settings must be in a file config\.json, found none at .*config\.json"),
        (
            '{"model_type": "resnet"}',
            r"\(model_type 'bit'\), got 'resnet'; \w+.from_variant has",
        ),
        (
            '{"architecture": "resnetv2_50x1_bit"}',
            "got 'resnetv2_50x1_bit'; BitConfig",
        ),
        ("[]", "should hold a JSON object, got list"),
    ],
)
def test_folders_that_are_rejected(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        BitConfig.from_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"that has config\.json: .*; from_variant has those of publ"
    ):
        BitConfig.from_pretrained("no/thing", cache_dir=tmp_path, local_files_only=True)


def test_numbers_and_sequences_of_other_libraries_are_taken():
    config = BitConfig(
        depths=np.array([1, 1]),
        hidden_sizes=[np.int64(64), 128],
        width_factor=np.float32(2),
        output_stride=np.int32(16),
        out_indices=range(1, 3),
        num_groups=np.int64(8),
    )
    plain = BitConfig(
        depths=(1, 1),
        hidden_sizes=(64, 128),
        width_factor=2,
        output_stride=16,
        out_indices=(1, 2),
        num_groups=8,
    )
    assert config == plain
    assert json.dumps(config.to_dict())


def test_default_outputs_follow_the_number_of_stages():
    shorter = BitConfig().replace(hidden_sizes=(256, 512), depths=(1, 1))
    assert shorter.out_features == ("stage2",)
    with pytest.raises(ValueError, match="got 'stage3'"):
        BitConfig(out_features=["stage3"]).replace(hidden_sizes=(256, 512), depths=(1, 1))


def test_a_file_of_transformers_without_epsilon_or_labels_gets_theirs():
    config = BitConfig.from_dict({"model_type": "bit", "transformers_version": "5.23.0"})
    assert (config.weight_standardization_eps, config.num_labels) == (1e-8, 2)
    named = {"transformers_version": "5.23.0", "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert BitConfig.from_dict(named).num_labels == 3


def test_files_of_other_models_are_rejected():
    with pytest.raises(ValueError, match="model_type must be 'bit', got 'resnet'"):
        BitConfig.from_dict({"model_type": "resnet", "layer_type": "bottleneck"})


@pytest.mark.parametrize(
    ("arguments", "last", "smallest"),
    [
        ({}, 4, 1),
        ({"global_padding": "same"}, 4, 1),
        ({"global_padding": "valid", "depths": (1, 1, 1, 1)}, 4, 75),
        ({"global_padding": "valid"}, 0, 11),
    ],
)
def test_the_smallest_image_is_known(arguments, last, smallest):
    assert BitConfig(**arguments).smallest_image(last) == smallest


def test_configs_are_immutable():
    with pytest.raises(AttributeError):
        BitConfig().output_stride = 8
