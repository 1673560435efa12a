"""from_pretrained and save_pretrained, for every model of the package."""

import json

import pytest
import torch
from official import TINY_CONFIG, write_official
from safetensors import safe_open
from tiny_models import LABELS, assert_equal_state, backbone, classifier, tiny_official

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification, BitModel
from bit_backbone.checkpoints import CheckpointError, convert, load, save_pretrained

IMAGES = torch.randn(1, 3, 33, 47)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "model",
    [
        lambda: backbone(out_indices=[1, 3], output_stride=8),
        lambda: backbone(out_indices=[0]),
        lambda: backbone(out_indices=[1, 2], feature_norm="preact"),
        lambda: backbone(out_indices=[2, 4], feature_norm="groupnorm"),
        lambda: backbone(layer_type="bottleneck", hidden_act="gelu", global_padding="same"),
        lambda: backbone(num_channels=4, drop_path_rate=0.1),
        lambda: classifier(),
        lambda: classifier(id2label={0: "cat", 1: "dog", 2: "hen"}, num_labels=3),
        lambda: classifier(num_labels=0),
        lambda: BitModel(BitConfig(**TINY_CONFIG, embedding_dynamic_padding=True)),
    ],
    ids=lambda make: make.__code__.co_firstlineno,
)
def test_what_is_saved_comes_back(model, tmp_path):
    model = model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path / "a" / "b")
    assert files(tmp_path / "a" / "b") == ["config.json", "model.safetensors"]
    again = type(model).from_pretrained(tmp_path / "a" / "b")
    assert again.config == model.config
    assert not again.training
    assert_equal_state(again, model)
    with safe_open(tmp_path / "a" / "b" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_configuration_of_a_wide_variant_is_the_same_network(tmp_path):
    """Folders hold widths, not width_factor, which transformers gets wrong."""
    config = BitConfig(**TINY_CONFIG, width_factor=3)
    BitModel(config).save_pretrained(tmp_path)
    again = BitModel.from_pretrained(tmp_path).config
    assert (again.width_factor, again.channels) == (1, config.channels)
    assert again.replace(embedding_size=16, hidden_sizes=(32, 64, 128, 256), width_factor=3) == (
        config
    )


def test_adapted_filters_are_saved_with_their_gain(tmp_path):
    model = backbone(num_channels=1).eval()
    load(model, tiny_official(tmp_path))
    with pytest.warns(UserWarning, match="carry a gain, which transformers does not know"):
        model.save_pretrained(tmp_path / "folder")
    again = BitBackbone.from_pretrained(tmp_path / "folder")
    assert torch.equal(again.stem.conv.gain, model.stem.conv.gain)
    image = torch.rand(1, 1, 33, 47)
    with torch.no_grad():
        assert torch.equal(again(image)["stage4"], model(image)["stage4"])


class TestOverrides:
    def test_outputs_and_stride(self, tmp_path):
        classifier().save_pretrained(tmp_path)
        model = BitBackbone.from_pretrained(tmp_path, out_indices=[1, 2], output_stride=8)
        assert model.out_features == ("stage1", "stage2")
        assert model.config.output_stride == 8

    @pytest.mark.parametrize("head", ["keep", "drop", "new"])
    def test_heads(self, head, tmp_path):
        source = classifier()
        source.save_pretrained(tmp_path)
        labels = {"keep": {}, "drop": {}, "new": {"num_labels": 3}}[head]
        model = BitForImageClassification.from_pretrained(tmp_path, head=head, **labels)
        assert model.num_labels == {"keep": LABELS, "drop": 0, "new": 3}[head]
        assert model(IMAGES).logits.shape[1] == {"keep": LABELS, "drop": 256, "new": 3}[head]
        same = head == "keep" and torch.equal(model.classifier.weight, source.classifier.weight)
        assert same == (head == "keep")

    @pytest.mark.parametrize("labels", [{"num_labels": 3}, {"id2label": {0: "a", 1: "b", 2: "c"}}])
    def test_a_dropped_head_leaves_the_one_asked_for(self, labels, tmp_path):
        classifier().save_pretrained(tmp_path)
        model = BitForImageClassification.from_pretrained(tmp_path, head="drop", **labels)
        assert model(IMAGES).logits.shape[1] == 3
        before = model.classifier.weight.clone()
        load(model, tmp_path, head="drop")  # means the same there
        assert torch.equal(model.classifier.weight, before)

    def test_another_size_of_head_is_rejected(self, tmp_path):
        classifier().save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match='has 10 labels: pass head="new"'):
            BitForImageClassification.from_pretrained(tmp_path, num_labels=3)

    def test_channels(self, tmp_path):
        classifier().save_pretrained(tmp_path)
        model = BitBackbone.from_pretrained(tmp_path, num_channels=1)
        assert model(torch.rand(1, 1, 33, 47))["stage4"].shape[1] == 256

    def test_dtype(self, tmp_path):
        source = classifier()
        source.save_pretrained(tmp_path)
        model = BitModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.norm.weight, source.norm.weight.bfloat16())

    def test_a_wrong_override_is_the_configurations_error(self, tmp_path):
        classifier().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="output_stride must be one of"):
            BitBackbone.from_pretrained(tmp_path, output_stride=7)

    def test_not_strict(self, tmp_path):
        backbone(out_indices=[2]).save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="missing from the file"):
            BitBackbone.from_pretrained(tmp_path, out_indices=[3])
        with pytest.warns(UserWarning, match="missing from the file"):
            model = BitBackbone.from_pretrained(tmp_path, out_indices=[3], strict=False)
        assert torch.isfinite(model(IMAGES)["stage3"]).all()


class TestFilesWithoutConfiguration:
    def test_the_network_is_read_off_the_shapes(self, tmp_path):
        path = tiny_official(tmp_path)
        model = BitForImageClassification.from_pretrained(path, num_groups=8)
        expected = BitConfig(**TINY_CONFIG, num_labels=LABELS)
        assert model.config == expected
        loaded = BitForImageClassification(expected)
        load(loaded, path)
        assert_equal_state(model, loaded)

    def test_what_shapes_do_not_tell_is_asked_for(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"has no config\.json, .*num_groups"):
            BitBackbone.from_pretrained(tiny_official(tmp_path))

    @pytest.mark.parametrize(
        ("names", "eps"),
        [("npz", 1e-10), ("torch", 1e-10), ("native", 1e-10), ("timm", 1e-8),
         ("transformers", 1e-8)],
    )  # fmt: skip
    def test_the_epsilon_is_the_codebases(self, names, eps, tmp_path):
        path = tmp_path / ("a.npz" if names == "npz" else "a.pth")
        convert(classifier().state_dict(), path, names)
        config = BitBackbone.from_pretrained(path, num_groups=8).config
        assert config.weight_standardization_eps == eps


class TestShards:
    def test_large_models_are_spread(self, tmp_path):
        model = classifier()
        model.save_pretrained(tmp_path, max_shard_size="200KB")
        names = files(tmp_path)
        assert names[0] == "config.json"
        assert names[-1] == "model.safetensors.index.json"
        assert len(names) > 3
        index = json.loads((tmp_path / names[-1]).read_text())
        assert set(index["weight_map"].values()) == set(names[1:-1])
        assert_equal_state(BitForImageClassification.from_pretrained(tmp_path), model)
        by_index = classifier()
        load(by_index, tmp_path / names[-1])
        assert_equal_state(by_index, model)

    @pytest.mark.parametrize("sizes", [("200KB", "1GB"), ("1GB", "200KB"), ("100KB", "300KB")])
    def test_saving_again_replaces_every_file(self, sizes, tmp_path):
        for size in sizes:
            model = classifier()
            model.save_pretrained(tmp_path, max_shard_size=size)
            assert_equal_state(BitForImageClassification.from_pretrained(tmp_path), model)
        model.save_pretrained(tmp_path / "fresh", max_shard_size=sizes[-1])
        expected = files(tmp_path / "fresh")
        assert [name for name in files(tmp_path) if name != "fresh"] == expected

    def test_a_missing_shard(self, tmp_path):
        classifier().save_pretrained(tmp_path, max_shard_size="200KB")
        (tmp_path / files(tmp_path)[2]).unlink()
        with pytest.raises(
            CheckpointError, match="which is not in its folder: fetch the missing shard"
        ):
            BitForImageClassification.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    from bit_backbone.checkpoints import pretrained

    old = classifier()
    old.save_pretrained(tmp_path, max_shard_size="200KB")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write, count = pretrained.write_safetensors, iter(range(9))

    def full_disk(path, tensors):
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        write(path, tensors)

    monkeypatch.setattr(pretrained, "write_safetensors", full_disk)
    with pytest.raises(CheckpointError, match="No space left on device; nothing was written"):
        classifier().save_pretrained(tmp_path, max_shard_size="200KB")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


BAD_FOLDERS = {
    "no configuration": (None, "must hold a config.json beside its weights"),
    "no JSON": ("{", r"config\.json should hold JSON"),
    "a list": ("[]", "should hold a JSON object, got list"),
    "another model": (
        '{"model_type": "resnet"}',
        r"must be a BiT configuration \(model_type 'bit'\), got 'resnet'",
    ),
    "another of timm's": ('{"architecture": "vit_base"}', "got 'vit_base'"),
    "a misspelt key": (
        '{"model_type": "bit", "hidden_size": [32]}',
        "no key 'hidden_size'; did you mean 'hidden_sizes'",
    ),
    "another network": (
        '{"model_type": "bit"}',
        r"this file is a network of depths \(1, 2, 1, 1\).*; the model is R50x1",
    ),
}


@pytest.mark.parametrize("folder", BAD_FOLDERS)
def test_bad_folders(folder, tmp_path):
    content, message = BAD_FOLDERS[folder]
    classifier().save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        BitModel.from_pretrained(tmp_path)


def test_a_folder_of_timms_is_read_by_its_shapes(tmp_path):
    state = BitBackbone("R50x1").state_dict()
    convert(state, tmp_path / "model.safetensors", "timm")
    values = {"architecture": "resnetv2_50x1_bit", "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(values))
    model = BitBackbone.from_pretrained(tmp_path)
    assert model.config == BitConfig(weight_standardization_eps=1e-8, num_labels=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BiT-M-R50x2", "none of them: did you mean 'BiT-M-R50x3'"),
        ("missing.npz", "none of them"),
        ("a/b/c", "none of them"),
        ("", "is none of them"),
    ],
)
def test_names_that_are_nothing(name, message):
    with pytest.raises(CheckpointError, match=message):
        BitBackbone.from_pretrained(name)


def test_saving_over_a_file(tmp_path):
    path = write_official(tmp_path / "a.npz")
    with pytest.raises(CheckpointError, match="must be a folder, or not exist yet; it is a file"):
        classifier().save_pretrained(path)
    with pytest.raises(CheckpointError, match=r"writes this package's models"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path / "b")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (None, torch.float32),
        ("auto", torch.bfloat16),
        ("float64", torch.float64),
        (torch.float16, torch.float16),
    ],
)
def test_the_type_is_that_of_the_file_only_where_asked(dtype, expected, tmp_path):
    classifier().to(torch.bfloat16).save_pretrained(tmp_path)
    model = BitForImageClassification.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {expected} == {model.dtype}


@pytest.mark.parametrize("dtype", ["half", "int8", torch.int8, 16])
def test_types_that_are_rejected(dtype, tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path)
    message = f'dtype must be "auto", or float16, .* as a name or of torch, got {dtype!r}'
    with pytest.raises(ValueError, match=message):
        BitModel.from_pretrained(tmp_path, head="drop", dtype=dtype)
    model.stem.double()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"one type, got float32, float64 in .*: name one"):
        BitForImageClassification.from_pretrained(tmp_path, dtype="auto")
