"""Files as training scripts write them: the network is found wherever it is, and one can choose."""

import argparse
import collections
import copy
import datetime
import io
import pathlib
import pickle
import sys
import types
from functools import partial

import numpy as np
import pytest
import torch
from hosts_of_files import attribute_dict, history_buffer
from tiny_models import LABELS, assert_equal_state, assert_unchanged, classifier, snapshot
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from bit_backbone import BitBackbone, BitForImageClassification
from bit_backbone.checkpoints import CheckpointError, Source, convert, load

TRAINED, AVERAGE = 1.0, 2.0


def network(value, kind=classifier):
    """A network that is told from others by one number."""
    torch.manual_seed(0)
    model = kind()
    with torch.no_grad():
        model.get_parameter("norm.bias").fill_(value)
    return model


def state(value, prefix=""):
    return {f"{prefix}{n}": t for n, t in network(value).state_dict().items()}


def loaded(content, tmp_path, **options):
    """What the content gives when it is a file, and the report."""
    torch.save(content, tmp_path / "a")
    model = classifier()
    report = load(model, tmp_path / "a", **options)
    return model.norm.bias[0].item(), report


OURS = state(TRAINED)
THEIRS = state(AVERAGE)
ARGUMENTS = argparse.Namespace(
    lr=0.1, output=pathlib.PosixPath("/tmp/run"), started=datetime.datetime(2026, 1, 1)
)
BESIDE = {
    "epoch": 3,
    "args": ARGUMENTS,
    "history": collections.defaultdict(list, loss=[1.0]),
    "best_acc1": torch.tensor([71.0]),
    "rng_state": torch.get_rng_state(),
    "metric": np.float64(0.5),
    "scaler": None,
}
# A checkpoint, and the parts of it that are not taken.
FILES = {
    "bare": (OURS, ()),
    "pytorch/examples": ({"state_dict": OURS, "best_acc1": torch.tensor([71.0])}, ()),
    "torchvision's references": (
        {"model": OURS, "model_ema": state(AVERAGE, "module."), **BESIDE},
        ("model_ema",),
    ),
    "an average only": ({"ema": OURS, "step": 1}, ()),
    "a teacher only": ({"teacher": OURS}, ()),
    "student and teacher": ({"student": OURS, "teacher": THEIRS}, ("teacher",)),
    "teacher and student": ({"teacher": THEIRS, "student": OURS}, ("teacher",)),
    "MoCo": (
        {"state_dict": state(TRAINED, "module.encoder_q.") | state(AVERAGE, "module.encoder_k.")},
        ("state_dict.encoder_k",),
    ),
    "BYOL": (
        state(TRAINED, "online_encoder.") | state(AVERAGE, "target_encoder."),
        ("target_encoder",),
    ),
    "semi-supervised detectors": (
        {"model": state(TRAINED, "modelStudent.backbone.")
         | state(AVERAGE, "modelTeacher.backbone.")},
        ("model.modelTeacher.backbone",),
    ),
    "a run in a list": ([{"optimizer": {}}, {"net": OURS}], ()),
    "deep": ({"trainer": {"modules": {"backbone": OURS}}, **BESIDE}, ()),
    "model before state_dict": ({"state_dict": THEIRS, "model": OURS}, ("state_dict",)),
    "swa": ({"swa_model": THEIRS, "network": OURS}, ("swa_model",)),
    "best and last": ({"best": {"model": THEIRS}, "model": OURS}, ("best.model",)),
    "a network at the top and its average": ({**OURS, "ema": THEIRS}, ("ema",)),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_models_own_weights_are_taken(name, tmp_path):
    content, others = FILES[name]
    value, report = loaded(content, tmp_path)
    assert value == TRAINED
    assert report.complete
    assert report.other_parts == others
    assert all(repr(other) in str(report) for other in others)


@pytest.mark.parametrize("name", [name for name, (_, others) in FILES.items() if others])
def test_another_part_is_taken_where_it_is_named(name, tmp_path):
    content, (other,) = FILES[name]
    value, report = loaded(content, tmp_path, part=other)
    assert value == AVERAGE
    assert len(report.other_parts) == 1
    for source in (Source(tmp_path / "a", other), Source(str(tmp_path / "a"), part=other)):
        model = classifier()
        load(model, source)
        assert model.norm.bias[0] == AVERAGE


def test_every_way_to_load_takes_a_part(tmp_path):
    torch.save({"model": OURS, "model_ema": THEIRS}, tmp_path / "a.pth")
    source = Source(tmp_path / "a.pth", part="model_ema")
    one = BitForImageClassification.from_pretrained(
        tmp_path / "a.pth", part="model_ema", num_groups=8
    )
    other = BitForImageClassification.from_pretrained(source, num_groups=8)
    assert one.norm.bias[0] == other.norm.bias[0] == AVERAGE
    config = one.config.replace(num_labels=0)
    backbone = BitBackbone(config, weights=source, feature_norm="preact")
    assert backbone.norm.bias[0] == AVERAGE
    for target, options in (("b.pth", {"part": "model_ema"}), ("c.pth", {})):
        given = tmp_path / "a.pth" if options else source
        report = convert(given, tmp_path / target, "timm", **options)
        assert (report.part, report.other_parts) == ("model_ema", ("model",))
        assert "not taken, other parts of the file: 'model'" in str(report)
        model = classifier()
        load(model, tmp_path / target)
        assert model.norm.bias[0] == AVERAGE


def test_a_dict_in_memory_has_parts_too():
    model = classifier()
    report = load(model, {"model": OURS, "ema": THEIRS}, part="ema")
    assert (model.norm.bias[0], report.other_parts) == (AVERAGE, ("model",))


WRONG = {
    "two of one rank": (
        {"left": OURS, "right": THEIRS},
        None,
        r"holds several BiT networks, 'left', 'right': pass part=.left. for the first",
    ),
    "two averages": ({"ema": OURS, "teacher": THEIRS}, None, "holds several .* 'ema', 'teacher'"),
    "no such part": (
        {"model": OURS, "ema": THEIRS},
        "em",
        "has no part 'em' that is a BiT network; it has 'model', 'ema'",
    ),
    "a part of something else": ({"model": OURS, "args": ARGUMENTS}, "args", "no part 'args'"),
    "two in the part": (
        {"a": {"left": OURS, "right": THEIRS}, "model": OURS},
        "a",
        r"holds several BiT networks, 'a\.left', 'a\.right': pass part=",
    ),
    "no network": (
        {"model": {"fc.weight": torch.ones(2)}, "args": ARGUMENTS},
        None,
        r"holds no BiT network: none of its 1 names .* and what only argparse\.Namespace, ",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_chosen(name, tmp_path):
    content, part, message = WRONG[name]
    with pytest.raises(CheckpointError, match=message):
        loaded(content, tmp_path, part=part)


# What stands around modules, and how each names what is inside.
WRAPPED = {
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "checkpointed stages": lambda model: wrapped_stages(model, checkpoint_wrapper),
    "compiled stages": lambda model: wrapped_stages(model, torch.compile),
    "compiled, then averaged": lambda model: AveragedModel(torch.compile(model)),
    "in a module of its own": lambda model: nn.ModuleDict({"module": nn.ModuleDict({"m": model})}),
}


def wrapped_stages(model, wrapper):
    for name in ("stage1", "stage2"):
        setattr(model, name, wrapper(getattr(model, name)))
    model.stage3[0] = wrapper(model.stage3[0])
    return model


@pytest.mark.parametrize("name", WRAPPED)
def test_names_of_wrapped_models(name, tmp_path):
    model = network(TRAINED)
    before = snapshot(model)
    wrapped = WRAPPED[name](copy.deepcopy(model))
    # By parameters, for the wrapper of activation checkpoints hides itself from state_dict.
    content = dict(wrapped.named_parameters()) | dict(wrapped.named_buffers())
    value, report = loaded({"state_dict": content}, tmp_path)
    assert (value, report.complete) == (TRAINED, True)
    target = WRAPPED[name](classifier())
    load(target, model.state_dict())
    inner = {n: t for n, t in target.named_parameters() if "norm.bias" in n and "stage" not in n}
    assert {t[0].item() for t in inner.values()} == {TRAINED}
    assert len(dict(target.named_parameters())) == len(before)


def test_fsdps_names(tmp_path):
    content = {
        n.replace("stage1.", "stage1._fsdp_wrapped_module."): t
        for n, t in state(TRAINED, "_fsdp_wrapped_module.").items()
    }
    assert loaded(content, tmp_path)[0] == TRAINED


def test_a_file_that_timm_wrote(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.layers import GroupNormAct, StdConv2d
    from timm.models.resnetv2 import ResNetV2
    from timm.utils import CheckpointSaver, ModelEmaV3

    assert timm
    arguments = {
        "layers": (1, 2, 1, 1),
        "channels": (32, 64, 128, 256),
        "stem_chs": 16,
        "conv_layer": StdConv2d,
    }
    theirs = ResNetV2(
        num_classes=LABELS, norm_layer=partial(GroupNormAct, num_groups=8), **arguments
    )
    average = ModelEmaV3(theirs)
    with torch.no_grad():
        theirs.norm.bias.fill_(TRAINED)
        average.module.norm.bias.fill_(AVERAGE)
    args = argparse.Namespace(model="resnetv2", output=pathlib.Path("runs"), lr=0.1)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9)
    theirs(torch.zeros(1, 3, 64, 64)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        theirs.norm.bias.fill_(TRAINED)
    saver = CheckpointSaver(
        theirs, optimizer, args, average, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path)
    )
    saver.save_checkpoint(3, metric=71.5)
    model = classifier()
    report = load(model, tmp_path / "model_best.pth.tar")
    assert (model.norm.bias[0], report.format) == (TRAINED, "timm")
    assert (report.part, report.other_parts) == ("state_dict", ("state_dict_ema",))
    load(model, tmp_path / "model_best.pth.tar", part="state_dict_ema")
    assert model.norm.bias[0] == AVERAGE


def test_a_file_as_lightning_writes_it(tmp_path, monkeypatch):
    kind = attribute_dict(monkeypatch)
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state(TRAINED, "model.") | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": kind({"lr": 0.1, "path": pathlib.Path("a")}),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
    }
    torch.save(content, tmp_path / "a.ckpt")
    monkeypatch.undo()  # the class is not there where the file is read
    model = classifier()
    report = load(model, tmp_path / "a.ckpt")
    assert (model.norm.bias[0], report.outside) == (TRAINED, ("criterion.weight",))


def test_a_file_as_mmengine_writes_it(tmp_path, monkeypatch):
    buffer = history_buffer(monkeypatch)
    content = {
        "meta": {"epoch": 1, "cfg": "model = dict()", "seed": 0, "time": "20260101"},
        "state_dict": collections.OrderedDict(state(TRAINED, "backbone.")),
        "ema_state_dict": collections.OrderedDict(state(AVERAGE, "module.backbone.")),
        "message_hub": {"log_scalars": {"train/loss": buffer([1.0, 2.0])}, "resumed_keys": {}},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(content, tmp_path / "a.pth")
    monkeypatch.undo()
    model = classifier()
    report = load(model, tmp_path / "a.pth")
    assert (model.norm.bias[0], report.other_parts) == (TRAINED, ("ema_state_dict",))


class Detector(nn.Module):
    """A module around a network, of a class that the file's reader does not have."""

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, nn.Linear(2, 2)
        self.register_buffer("mean", torch.zeros(3))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        lambda: network(TRAINED),
        lambda: Detector(network(TRAINED)),
        lambda: {"model": network(TRAINED), "ema": network(AVERAGE).half()},
        lambda: {"model": nn.DataParallel(network(TRAINED)), "args": ARGUMENTS},
    ],
)
@pytest.mark.filterwarnings("ignore::torch.serialization.SourceChangeWarning")
def test_whole_pickled_modules(content, legacy, tmp_path):
    torch.save(content(), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    modules = set(sys.modules)
    model = classifier()
    load(model, tmp_path / "a.pt")
    assert model.norm.bias[0] == TRAINED
    assert set(sys.modules) == modules


class Closed(nn.Module):
    """A module that pickles itself its own way."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def __reduce__(self):
        buffer = io.BytesIO()
        torch.save(self.body.state_dict(), buffer)
        return Closed, (buffer.getvalue(),)


def test_a_module_that_needs_its_code(tmp_path):
    torch.save({"model": Closed(network(TRAINED))}, tmp_path / "a.pt")
    message = r"must hold tensors by .* only \S+\.Closed could make, which nobody calls for a file"
    with pytest.raises(CheckpointError, match=message):
        load(classifier(), tmp_path / "a.pt")


def test_a_torchscript_archive(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"is a TorchScript archive.*torch\.jit\.load, and"):
        load(classifier(), tmp_path / "a.pt")


class Pairs(collections.OrderedDict):
    """A dict as Python 2 pickled it: a list of pairs."""

    def __reduce__(self):
        return collections.OrderedDict, ([list(item) for item in self.items()],)


@pytest.mark.parametrize("kind", ["detectron2", "old Python"])
def test_other_pickles(kind, tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in OURS.items()}
    content = {
        "detectron2": {"model": arrays, "__author__": "somebody", "matching_heuristics": True},
        "old Python": {"model": Pairs(arrays)},
    }[kind]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, 2))
    model = classifier()
    load(model, tmp_path / "a.pkl")
    assert_unchanged(model, network(TRAINED).state_dict())


def test_a_network_of_a_billion_stages_is_none(tmp_path):
    content = {"stage1000000000.0.conv1.weight": torch.ones(2, 2, 1, 1)}
    with pytest.raises(CheckpointError, match="holds no BiT network"):
        loaded(content, tmp_path)


def test_an_optimizer_beside_the_weights_is_not_read(tmp_path, monkeypatch):
    from bit_backbone.checkpoints.files import torch_files

    read = []
    monkeypatch.setattr(
        torch_files, "_fill", partial(lambda real, b, s: (read.append(len(b)), real(b, s)),
                                      torch_files._fill)
    )  # fmt: skip
    content = {"model": OURS, "optimizer": {"state": {0: {"exp_avg": torch.ones(10**6)}}}}
    loaded(content, tmp_path)
    assert sum(read) == sum(tensor.nbytes for tensor in OURS.values())


def test_both_ways_give_one_network(tmp_path):
    """What our reader gives is what torch gives."""
    torch.save({"state_dict": OURS, **BESIDE}, tmp_path / "a")
    ours, theirs = classifier(), classifier()
    load(ours, tmp_path / "a")
    content = torch.load(tmp_path / "a", weights_only=False)
    assert isinstance(content["args"], argparse.Namespace)
    assert isinstance(types.SimpleNamespace(**vars(content["args"])).lr, float)
    theirs.load_state_dict(content["state_dict"])
    assert_equal_state(ours, theirs)
