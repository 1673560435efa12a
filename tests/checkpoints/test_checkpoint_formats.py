"""Names and layouts of every codebase, there and back, and converting between them."""

import errno
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from official import TINY_CONFIG, official_arrays, write_official
from tiny_models import LABELS, assert_equal_state, backbone, classifier

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification
from bit_backbone.checkpoints import CheckpointError, convert, load
from bit_backbone.checkpoints.formats import FORMATS
from bit_backbone.checkpoints.recognition import networks_in, read_names

SUFFIX = {
    "npz": ".npz",
    "torch": ".pth",
    "timm": ".safetensors",
    "transformers": ".bin",
    "native": ".pt",
    "detectron2": ".pkl",
}
# The same three tensors in each codebase: a kernel, a norm of the second unit, the final norm.
SAMPLES = {
    "npz": (
        "resnet/block2/unit01/a/proj/standardized_conv2d/kernel",
        "resnet/block3/unit12/c/group_norm/gamma",
        "resnet/group_norm/beta",
        "resnet/head/conv2d/kernel",
    ),
    "torch": (
        "body.block2.unit01.downsample.weight",
        "body.block3.unit12.gn3.weight",
        "head.gn.bias",
        "head.conv.weight",
    ),
    "timm": (
        "stages.1.blocks.0.downsample.conv.weight",
        "stages.2.blocks.11.norm3.weight",
        "norm.bias",
        "head.fc.weight",
    ),
    "transformers": (
        "bit.encoder.stages.1.layers.0.downsample.conv.weight",
        "bit.encoder.stages.2.layers.11.norm3.weight",
        "bit.norm.bias",
        "classifier.1.weight",
    ),
    "native": (
        "stage2.0.downsample.conv.weight",
        "stage3.11.norm3.weight",
        "norm.bias",
        "classifier.weight",
    ),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_names_of_each_codebase(name):
    theirs = FORMATS[name]
    for sample, ours in zip(SAMPLES[name], SAMPLES["native"], strict=True):
        assert theirs.read_name(sample) == ours
        assert theirs.write_name(ours) == sample
    assert theirs.read_name("fpn.lateral.weight") is None
    assert theirs.write_name("fpn.lateral.weight") is None


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone."])
def test_recognised_under_any_prefix(name, prefix):
    names = [prefix + sample for sample in SAMPLES[name]]
    (network,) = networks_in([*names, "optimizer.step"])
    assert network.format.name == name
    assert network.prefix == prefix.removeprefix("module.")
    found = read_names([*names, "optimizer.step"], network, "a file")
    assert dict(found.names) == dict(zip(SAMPLES["native"], names, strict=True))
    assert (found.unknown, found.outside) == (
        ((), ("optimizer.step",)) if prefix else (("optimizer.step",), ())
    )


def test_bare_transformers_names_and_old_numbers():
    assert FORMATS["transformers"].read_name("encoder.stages.0.layers.2.conv1.weight") == (
        "stage1.2.conv1.weight"
    )
    name = "resnet/block1/unit02/b/standardized_conv2d_17/kernel"
    assert FORMATS["npz"].read_name(name) == "stage1.1.conv2.weight"


@pytest.fixture(scope="module", params=[0, LABELS], ids=["no head", "head"])
def official(request, tmp_path_factory):
    return write_official(tmp_path_factory.mktemp("formats") / "o.npz", head=request.param)


def assert_same_arrays(path, other):
    ours, theirs = np.load(path), np.load(other)
    assert sorted(ours.files) == sorted(theirs.files)
    for name in ours.files:
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].shape == theirs[name].shape
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_a_chain_through_every_format_is_bit_identical(official, tmp_path):
    current = official
    for step, name in enumerate(("timm", "transformers", "detectron2", "torch", "native", "npz")):
        target = tmp_path / f"{step}{SUFFIX[name]}"
        report = convert(current, target, name)
        assert report.left_out == ()
        assert report.format == name
        current = target
    assert_same_arrays(current, official)
    # An equal network gives an equal file, byte for byte.
    convert(official, tmp_path / "direct.npz", "npz")
    assert current.read_bytes() == (tmp_path / "direct.npz").read_bytes()


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(SUFFIX, 2)))
def test_any_pair_is_bit_identical(official, source, target, tmp_path):
    first = tmp_path / f"first{SUFFIX[source]}"
    second = tmp_path / f"second{SUFFIX[target]}"
    convert(official, first, source)
    convert(first, second, target)
    convert(second, tmp_path / "back.npz", "npz")
    assert_same_arrays(tmp_path / "back.npz", official)


@pytest.mark.parametrize("name", ["timm", "transformers", "native", "detectron2"])
def test_bottleneck_networks_convert_where_they_have_names(name, tmp_path):
    config = BitConfig(**TINY_CONFIG, layer_type="bottleneck", num_labels=LABELS)
    model = BitForImageClassification(config)
    target = tmp_path / f"a{SUFFIX[name]}"
    convert(model.state_dict(), target, name)
    other = BitForImageClassification(config)
    load(other, target)
    assert_equal_state(other, model)


def test_dtypes_stay_and_bfloat16_widens_only_for_numpy(tmp_path):
    state = {name: tensor.bfloat16() for name, tensor in classifier().state_dict().items()}
    convert(state, tmp_path / "a.safetensors", "timm")
    convert(tmp_path / "a.safetensors", tmp_path / "a.pth", "native")
    back = torch.load(tmp_path / "a.pth")
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    convert(state, tmp_path / "a.npz", "npz")
    kernel = np.load(tmp_path / "a.npz")["resnet/root_block/standardized_conv2d/kernel"]
    assert kernel.dtype == np.float32
    assert np.array_equal(kernel, state["stem.conv.weight"].float().numpy().transpose(2, 3, 1, 0))


def test_what_detectron2_reads(official, tmp_path):
    convert(official, tmp_path / "a.pkl", "detectron2", head="drop")
    content = pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert content["__author__"] == "bit_backbone"
    names = {f"backbone.bottom_up.{name}" for name in backbone_names()}
    assert set(content["model"]) == names
    assert all(isinstance(array, np.ndarray) for array in content["model"].values())
    convert(official, tmp_path / "a.pth", "detectron2", head="drop", prefix="backbone.")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert set(content["model"]) == {f"backbone.{name}" for name in backbone_names()}


def backbone_names():
    return backbone(out_indices=[4], feature_norm="preact").state_dict()


def test_a_partial_backbone_converts(official, tmp_path):
    model = backbone(out_indices=[2], feature_norm="preact")
    load(model, official)
    model.save_pretrained(tmp_path / "folder")
    convert(tmp_path / "folder", tmp_path / "part.pth", "timm")
    other = backbone(out_indices=[2], feature_norm="preact")
    load(other, tmp_path / "part.pth")
    assert_equal_state(other, model)


def test_adapted_filters_convert_where_their_gain_has_a_name(official, tmp_path):
    model = backbone(num_channels=1)
    load(model, official)
    convert(model.state_dict(), tmp_path / "a.pth", "native")
    other = backbone(num_channels=1)
    load(other, tmp_path / "a.pth")
    assert_equal_state(other, model)
    with pytest.raises(CheckpointError, match=r"timm format has no name for 'stem\.conv\.gain'"):
        convert(model.state_dict(), tmp_path / "b.pth", "timm")
    fresh = backbone(num_channels=1)
    convert(fresh.state_dict(), tmp_path / "b.pth", "timm")


def test_fresh_norms_convert_where_they_have_names(tmp_path):
    state = backbone(out_indices=[1, 2], feature_norm="groupnorm").state_dict()
    convert(state, tmp_path / "a.pkl", "detectron2")
    with pytest.raises(CheckpointError, match=r"npz format has no name for 'feature_norms\.stage1"):
        convert(state, tmp_path / "a.npz", "npz")


class TestFolders:
    def test_the_shapes_tell_a_published_network(self, tmp_path):
        state = BitBackbone("R50x1").state_dict()
        convert(state, tmp_path / "folder", "transformers")
        values = json.loads((tmp_path / "folder" / "config.json").read_text())
        assert values["architectures"] == ["BitBackbone"]
        assert values["depths"] == [3, 4, 6, 3]
        model = BitBackbone.from_pretrained(tmp_path / "folder")
        assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())

    def test_others_need_their_configuration(self, official, tmp_path):
        with pytest.raises(CheckpointError, match="do not show the network: num_groups"):
            convert(official, tmp_path / "folder", "transformers")
        assert not (tmp_path / "folder").exists()
        convert(official, tmp_path / "folder", "transformers", config=BitConfig(**TINY_CONFIG))
        assert BitBackbone.from_pretrained(tmp_path / "folder").config.num_groups == 8

    def test_a_model_in_the_folder_is_replaced_whole_and_only_if_asked(self, tmp_path):
        old, new = classifier(), classifier()
        old.save_pretrained(tmp_path / "folder", max_shard_size="200KB")
        config = BitConfig(**TINY_CONFIG, num_labels=LABELS)
        with pytest.raises(CheckpointError, match=r"config\.json exists"):
            convert(new.state_dict(), tmp_path / "folder", "transformers", config=config)
        assert_equal_state(BitForImageClassification.from_pretrained(tmp_path / "folder"), old)
        convert(
            new.state_dict(), tmp_path / "folder", "transformers", config=config, overwrite=True
        )
        assert_equal_state(BitForImageClassification.from_pretrained(tmp_path / "folder"), new)
        names = sorted(path.name for path in (tmp_path / "folder").iterdir())
        assert names == ["config.json", "model.safetensors"]

    def test_a_folders_own_configuration_is_kept(self, tmp_path):
        model = BitForImageClassification(
            BitConfig(**TINY_CONFIG, id2label={0: "cat", 1: "dog"}, hidden_act="gelu")
        )
        model.save_pretrained(tmp_path / "one")
        convert(tmp_path / "one", tmp_path / "two", "transformers")
        other = BitForImageClassification.from_pretrained(tmp_path / "two")
        assert other.config == model.config
        assert other.config.id2label == {0: "cat", 1: "dog"}
        assert_equal_state(other, model)


BAD_REQUESTS = {
    "an unknown format": ("x", "a.pth", {}, ValueError, "format must be one of native, "),
    "an unknown policy": ("timm", "a.pth", {"head": "new"}, ValueError, 'head must be "keep" or'),
    "npz names elsewhere": ("npz", "a.pth", {}, ValueError, r"of a npz checkpoint must be \.npz"),
    "timm names in an npz": ("timm", "a.npz", {}, ValueError, r"must be \.safetensors or \.pth or"),
    "no suffix": ("timm", "a", {}, ValueError, r"got '' in .*a$"),
    "detectron2 elsewhere": ("detectron2", "a.safetensors", {}, ValueError, r"be \.pth or \.pkl,"),
    "an existing target": ("timm", "old.pth", {}, CheckpointError, "old.pth exists: give another"),
    "a file as a folder": ("timm", "old.pth/a.pth", {}, CheckpointError, "cannot write .*old.pth/"),
    "no names": (
        "npz", "a.npz", {"source": "bottleneck"}, CheckpointError,
        r"npz format has no name for 'stage1\.0\.downsample\.norm\.bias' of",
    ),
    "incomplete": (
        "timm", "a.pth", {"source": "incomplete"}, CheckpointError,
        r"only a part of a BiT network:\n  missing from the file: stage2\.1\.conv3\.weight",
    ),
    "a gap": (
        "timm", "a.pth", {"source": "gap"}, CheckpointError,
        r"contains only a part of a BiT network, .*hidden_sizes\[1\] must be an integer of at",
    ),
    "no stem": (
        "timm", "a.pth", {"source": "no stem"}, CheckpointError,
        "contains only a part of a BiT network, .*: embedding_size",
    ),
    "a stranger's tensor": (
        "timm", "a.pth", {"source": "stranger"}, CheckpointError,
        r"unexpected in the file: stage1\.0\.norm1\.running_mean",
    ),
}  # fmt: skip


def source_of(kind):
    if kind == "bottleneck":
        return BitBackbone(BitConfig(**TINY_CONFIG, layer_type="bottleneck")).state_dict()
    state = dict(classifier().state_dict())
    if kind == "incomplete":
        del state["stage2.1.conv3.weight"]
    elif kind == "gap":
        state = {name: t for name, t in state.items() if not name.startswith("stage2.")}
    elif kind == "no stem":
        del state["stem.conv.weight"]
    elif kind == "stranger":
        state["stage1.0.norm1.running_mean"] = torch.ones(16)
    return state


@pytest.mark.parametrize("request_", BAD_REQUESTS)
def test_bad_requests_write_nothing(request_, tmp_path):
    name, target, options, error, message = BAD_REQUESTS[request_]
    options = dict(options)
    source = source_of(options.pop("source", None))
    (tmp_path / "old.pth").write_bytes(b"old")
    with pytest.raises(error, match=message):
        convert(source, tmp_path / target, name, **options)
    assert [path.name for path in tmp_path.rglob("*")] == ["old.pth"]
    assert (tmp_path / "old.pth").read_bytes() == b"old"


def test_overwriting_also_the_source(official, tmp_path):
    target = tmp_path / "a.npz"
    target.write_bytes(official.read_bytes())
    convert(target, target, "npz", overwrite=True)
    assert_same_arrays(target, official)


FILL_DISK = """
import resource, signal, sys
from bit_backbone.checkpoints import convert
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for request in sys.argv[2:]:
    name, target = request.split("=")
    try:
        convert(sys.argv[1], target, name, overwrite=True)
    except ValueError as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_a_full_disk_leaves_the_old_file(tmp_path):
    source = write_official(tmp_path / "source.npz", official_arrays(head=LABELS))
    folder = tmp_path / "target"
    folder.mkdir()
    targets = {name: folder / f"{name}{suffix}" for name, suffix in SUFFIX.items()}
    for target in targets.values():
        target.write_bytes(b"old")
    requests = [f"{name}={target}" for name, target in targets.items()]
    command = [sys.executable, "-c", FILL_DISK, str(source), *requests]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    told = subprocess.check_output(command, text=True, env=environment).splitlines()
    assert len(told) == len(targets)
    for line, target in zip(told, targets.values(), strict=True):
        assert re.fullmatch(
            rf"CheckpointError cannot write {re.escape(str(target))}: .+; nothing was written", line
        )
        assert target.read_bytes() == b"old"
    assert sorted(folder.iterdir()) == sorted(targets.values())


def test_a_folder_that_cannot_be_written(official, monkeypatch, tmp_path):
    """Root may write everywhere, so the refusal is the system call's, made to happen here."""
    from bit_backbone.utils import files as _files

    def reject(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/readonly")

    monkeypatch.setattr(_files.tempfile, "mkstemp", reject)
    with pytest.raises(CheckpointError, match=r"cannot write .*: Read-only file system; nothing"):
        convert(official, tmp_path / "a.npz", "npz")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that none may write")
def test_a_target_that_nobody_may_write(official):
    with pytest.raises(CheckpointError, match=r"cannot write /proc/self/a\.npz: "):
        convert(official, "/proc/self/a.npz", "npz")


def test_an_interrupted_conversion_leaves_nothing(official, monkeypatch, tmp_path):
    from bit_backbone.checkpoints.checkpoint import Checkpoint

    read, count = Checkpoint.read, itertools.count()

    def interrupted(self, name):
        if next(count) == 20:
            raise KeyboardInterrupt
        return read(self, name)

    monkeypatch.setattr(Checkpoint, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(official, tmp_path / "a.npz", "npz")
    assert list(tmp_path.iterdir()) == []
