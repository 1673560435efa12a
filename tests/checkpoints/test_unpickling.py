"""The reader of pickles: it makes trees of plain values, and does nothing that a file says."""

import argparse
import collections
import datetime
import io
import os
import pathlib
import pickle
import pickletools
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import assert_unchanged, classifier, snapshot

from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.checkpoints.files import open_file, unpickling
from bit_backbone.checkpoints.files.trees import find_groups
from bit_backbone.checkpoints.files.unpickling import unpickle
from bit_backbone.checkpoints.files.values import Name, PickleError, Placeholder

ROOT = Path(__file__).parents[2]


def read(data):
    return unpickle(io.BytesIO(data))


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


# What an attacker writes; each of them touches the file "proof" when pickle.loads reads it.
SYSTEM = b"cposix\nsystem\n"
GETATTR = b"cbuiltins\ngetattr\n"
TOUCH = text("touch proof")
EVAL = text("__import__('os').system('touch proof')")
HOSTILE = {
    "os.system": SYSTEM + TOUCH + b"\x85R.",
    "os.system by INST": b"(" + TOUCH + b"iposix\nsystem\n.",
    "os.system by OBJ": b"(" + SYSTEM + TOUCH + b"o.",
    "os.system by names on the stack": text("posix") + text("system") + b"\x93" + TOUCH + b"\x85R.",
    "builtins.eval": b"cbuiltins\neval\n" + EVAL + b"\x85R.",
    "builtins.exec": b"cbuiltins\nexec\n" + EVAL + b"\x85R.",
    "eval through getattr": GETATTR
    + b"cbuiltins\n__import__\n"
    + text("builtins")
    + b"\x85R"
    + text("eval")
    + b"\x86R"
    + EVAL
    + b"\x85R.",
    "a dotted name": text("os") + text("path.os.system") + b"\x93" + TOUCH + b"\x85R.",
    "subprocess by NEWOBJ": b"csubprocess\nPopen\n("
    + text("touch")
    + text("proof")
    + b"l\x85\x81.",
    "subprocess by NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n("
    + text("touch")
    + text("proof")
    + b"l\x85}\x92.",
    "a call in a call in a call": b"cfunctools\npartial\n" + SYSTEM + TOUCH + b"\x86R)R.",
    "map": b"cbuiltins\nlist\ncbuiltins\nmap\n" + SYSTEM + b"(" + TOUCH + b"l\x86R\x85R.",
    "a state with a function": b"ctypes\nSimpleNamespace\n)\x81}"
    + text("__class__")
    + SYSTEM
    + b"sb.",
    "operator.methodcaller": b"coperator\nmethodcaller\n"
    + text("system")
    + TOUCH
    + b"\x86Rcposix\n__name__\n\x85R.",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    list(pickletools.genops(HOSTILE[name]))  # it is a pickle
    before = set(sys.modules)
    value = read(HOSTILE[name])
    inert = value[0] if isinstance(value, list | tuple) and value else value
    assert isinstance(inert, Placeholder | Name)
    assert not (tmp_path / "proof").exists(), "the pickle ran code"
    assert set(sys.modules) == before, "the pickle imported something"


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "eval through getattr"])
def test_they_would_run(name, tmp_path):
    """Otherwise the test above would prove nothing."""
    script = f"import pickle; pickle.loads({HOSTILE[name]!r})"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["beside", "as a key", "as an attribute", "around"])
def test_a_network_beside_code_loads_and_the_code_does_not_run(where, save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Code:
        def __reduce__(self):
            return os.system, ("touch proof",)

    class State(dict):
        """Of a class that nobody else has, and with code in its state."""

        def __reduce__(self):
            return collections.OrderedDict, (), {"_metadata": Code()}, None, iter(self.items())

    model = classifier()
    state = dict(model.state_dict())
    if save == "pickle":
        state = {name: tensor.numpy() for name, tensor in state.items()}
    content = {
        "beside": {"model": state, "args": [Code(), (Code(), {"a": Code()})]},
        "as a key": {"model": state, Code(): 1},
        "as an attribute": {"model": State(state)},
        "around": {"args": Code(), "deep": [{"model": state}]},
    }[where]
    if save == "pickle":
        Path("a").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, "a", _use_new_zipfile_serialization=save == "zip")
    other = classifier()
    load(other, "a")
    assert_unchanged(other, snapshot(model))
    assert not Path("proof").exists(), "the file ran code"


PLAIN = [
    None,
    True,
    -3,
    2**80,
    1.5,
    float("inf"),
    "text",
    "\u00e4\ud800",
    (),
    (1, (2, (3, 4, 5, 6))),
    [1, [2]],
    {"a": {"b": 1}, 3: None},
    collections.OrderedDict(a=1),
]
# Old protocols spell these as calls of functions that are not known here.
NEWER = [
    *((2, value) for value in (torch.Size((2, 3)), torch.bfloat16, torch.device("cuda:1"))),
    *((2, value) for value in (np.float32(0.5), np.int64(7))),
    (3, b"bytes"),
    (4, {1}),
    (5, bytearray(b"bytes")),
]
CASES = [(0, value) for value in PLAIN] + NEWER
AS = {collections.OrderedDict: dict, np.float32: float, np.int64: int}


@pytest.mark.parametrize(("first", "value"), CASES, ids=[ascii(value) for _, value in CASES])
def test_plain_values_come_back(first, value):
    for protocol in range(first, pickle.HIGHEST_PROTOCOL + 1):
        found = read(pickle.dumps(value, protocol))
        assert found == value
        assert type(found) is AS.get(type(value), type(value))


def test_a_defaultdict_is_a_dict():
    value = collections.defaultdict(list, a=[1])
    found = read(pickle.dumps(value))
    assert (type(found), found) == (dict, {"a": [1]})


def test_other_objects_keep_what_they_were_given():
    value = argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a/b"), when=datetime.date.min)
    found = read(pickle.dumps(value))
    assert found.name == "argparse.Namespace"
    assert found.state["lr"] == 0.1
    assert found.state["path"].name == "pathlib.PurePosixPath"
    assert found.state["when"].arguments == (b"\x00\x01\x01\x01",) or found.state["when"].name


def deep(opening, closing, levels):
    return opening * levels + b"N" + closing * levels + b"."


# A tuple of two to the 40th, of 120 bytes.
NESTED = b")" + b"q\x05h\x05\x86" * 40
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"


def asked_for_again(first, second, count=100_000):
    """A list of calls of one value with another."""
    return first + b"q\x000" + second + b"\x85q\x010(" + b"h\x00h\x01R" * count + b"l."


def module(parameters, modules):
    parts = [(b"_parameters", parameters), (b"_buffers", b"}"), (b"_modules", modules)]
    state = b"".join(text(name.decode()) + value for name, value in parts)
    return b"cm\nM\n)\x81}(" + state + b"ub"


def in_many_places(value, count=10_000):
    """A dict that has the memo's value under many names."""
    return b"}(" + b"".join(text(str(i)) + value for i in range(count)) + b"u"


BOMBS = {
    "shapes of a million": asked_for_again(b"ctorch\nSize\n", b"(" + b"K\x01" * 1_000_000 + b"t"),
    "long names that are called": asked_for_again(b"cm\n" + b"n" * 1_000_000 + b"\n", b"N"),
    "an array of a nested shape": ARRAY + b"(K\x01" + NESTED
    + b"cnumpy\ndtype\n" + text("f4") + b"\x85R\x89C\x00tb.",
    "a module in many places": ARRAY + b"(K\x01)cnumpy\ndtype\n" + text("f4")
    + b"\x85R\x89C\x04\x00\x00\x00\x00tbq\x000" + module(in_many_places(b"h\x00"), b"}")
    + b"q\x010" + module(b"}", in_many_places(b"h\x01")) + b".",
    "a long number as a key": b"\x8b" + (4_000_000).to_bytes(4, "little") + b"\x7f" * 4_000_000
    + b"q\x000}(" + b"h\x00N" * 100_000 + b"u.",
    "a long tuple as a key": b"(" + b"K\x01" * 1_000_000 + b"tq\x000}("
    + b"h\x00N" * 100_000 + b"u.",
    "calls of calls": b"cm\nn\n" + b")R" * 300_000 + b".",
    "a memo of a billion places": b"Nr\xff\xff\xff\x7f.",
    "text that is longer than the file": b"\x8d" + (2**62).to_bytes(8, "little") + b"a.",
    "bytes that are longer than the file": b"\x8e" + (2**62).to_bytes(8, "little") + b"a.",
    "a bytearray that is longer": b"\x96" + (2**62).to_bytes(8, "little") + b"a.",
    "a frame that is longer": b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "deep tuples": deep(b"", b"\x85", 300_000),
    "deep tuples as a key": b"}" + deep(b"", b"\x85", 300_000)[:-1] + b"Ns.",
    "deep lists": deep(b"(", b"l", 300_000),
    "deep placeholders": deep(SYSTEM, b"\x85R", 100_000),
    "doubling tuples as a key": b"}N" + b"2\x86" * 3000 + b"Ns.",
    "doubling dicts": b"".join(
        b"}" + text("a") + b"h" + bytes((i,)) + b"s" + text("b") + b"h" + bytes((i,)) + b"sq"
        + bytes((i + 1,))
        for i in range(200)
    ).join([b"}q\x00", b"."]),
    "a dict in itself": b"}q\x00" + text("a") + b"h\x00s.",
    "a list in itself": b"]q\x00h\x00a.",
    "copies of long text as bytes": text("a" * 100_000)
    + b"q\x000"
    + b"(" + b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R" * 1
    + b"l.",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon_in_little_memory(name):
    script = (
        "import io, resource, sys\n"
        "from bit_backbone.checkpoints.files.trees import find_groups\n"
        "from bit_backbone.checkpoints.files.unpickling import unpickle\n"
        "from bit_backbone.checkpoints.files.values import PickleError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    value = unpickle(io.BytesIO(sys.stdin.buffer.read()))\n"
        "    find_groups(value)\n"
        "    del value\n"
        "except PickleError as error:\n"
        "    print('told:', error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=BOMBS[name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()[-500:]
    assert int(done.stdout.split()[-1]) < 200, "MiB"


NESTED_IN_TENSORS = {
    "a shape": (b"ctorch\nFloatStorage\n", NESTED),
    "a type": (NESTED, b"K\x01\x85"),
}


@pytest.mark.parametrize("name", NESTED_IN_TENSORS)
def test_messages_do_not_unfold_what_is_nested(name, tmp_path):
    kind, shape = NESTED_IN_TENSORS[name]
    storage = b"(" + text("storage") + kind + text("0") + text("cpu") + b"K\x01tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}" + text("w") + tensor + b"K\x01\x85\x89)tRs.")
        archive.writestr("a/data/0", bytes(4))
    with pytest.raises(CheckpointError) as caught:
        load(classifier(), tmp_path / "a.pth")
    assert len(str(caught.value)) < 1000


def test_copies_by_reference_take_no_memory():
    """A megabyte that is asked for ten thousand times over."""
    count = 10_000
    call = b"c_codecs\nencode\nh\x00" + text("latin1") + b"\x86R"
    data = b"(" + text("a" * 2**20) + b"q\x00" + call * count + b"l."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read(data)) == count + 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024


def test_too_many_instructions(monkeypatch):
    monkeypatch.setattr(unpickling, "MOST_INSTRUCTIONS", 1000)
    with pytest.raises(PickleError, match="more than 1000 instructions"):
        read(b"N0" * 600 + b"N.")
    assert read(b"N0" * 400 + b"N.") is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"N", "damaged"),
        (b"\xff.", "damaged"),
        (b".", "damaged"),
        (b"h\x05.", "damaged"),
        (b"t.", "damaged"),
        (b"\x86.", "takes values that it has not put there"),
        (b"Na.", "damaged"),
        (b"NNa.", "appends to a NoneType"),
        (b"N(NNu.", "sets items of a NoneType"),
        (b"}(Nu.", "sets items of a dict"),
        (b"N(N\x90.", "adds items to a NoneType"),
        (b"NN\x93.", "a name is no text"),
        (b"cos\nsystem\nNR.", "the arguments of a call are no tuple"),
        (b"N}b.", "gives a state to a NoneType"),
        (b"Pid\n.", "names tensors of another file"),
        (b"NQ.", "names tensors of another file"),
        (b"\x97.", "needs buffers"),
        (b"X\x02\x00\x00\x00\xff\xff.", "damaged"),
    ],
)
def test_what_is_no_pickle(data, message):
    with pytest.raises(PickleError, match=message):
        read(data)


def rebuilt(storage, offset, size, stride):
    """A tensor whose place in its storage is what a forger says."""

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (
                storage, offset, size, stride, False, collections.OrderedDict()
            )  # fmt: skip

    return Tensor()


FORGED = {
    "a tensor beyond its storage": (0, (5,), (1,), r"shape \[5\] reaches beyond its storage"),
    "a tensor behind its storage": (9, (1,), (1,), "reaches beyond its storage"),
    "strides beyond the storage": (0, (2, 2), (100, 1), "reaches beyond its storage"),
    "a negative offset": (-4, (1,), (1,), "shape .* and strides"),
    "negative strides": (3, (4,), (-1,), "shape .* and strides"),
    "too few strides": (0, (2, 2), (1,), "shape .* and strides"),
    "a shape of text": (0, ("a",), (1,), "shape .* and strides"),
    "a truth as an offset": (True, (1,), (1,), "shape .* and strides"),
    "an empty shape without end": (0, (0, 2**40, 2**40), (1, 1, 1), "reaches beyond its storage"),
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", FORGED)
def test_tensors_that_lie_about_their_storage(name, legacy, tmp_path):
    *place, message = FORGED[name]
    storage = torch.storage.TypedStorage(
        wrap_storage=torch.arange(4.0).untyped_storage(), dtype=torch.float32, _internal=True
    )
    content = {"model": {"stem.conv.weight": rebuilt(storage, *place)}}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=f"is truncated or not a torch.save file .*{message}"):
        open_file(tmp_path / "a")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_terabyte_out_of_one_number(legacy, tmp_path):
    """Strides of zero show a number as often as one likes; such a tensor is no weight."""
    weight = torch.ones(1).expand(2**38)
    content = {"stem.conv.weight": weight, "stage1.0.conv1.weight": torch.ones(2, 2)}
    torch.save(content, tmp_path / "a", _use_new_zipfile_serialization=not legacy)
    with open_file(tmp_path / "a") as file:
        assert list(file.specs) == ["stage1.0.conv1.weight"]


def test_an_archive_that_holds_less_than_its_pickle_says(tmp_path):
    import zipfile

    torch.save({"stem.conv.weight": torch.ones(100)}, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as old, zipfile.ZipFile(tmp_path / "b", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data[:99] if "data/0" in info.filename else data)
    with pytest.raises(CheckpointError, match="'0' should have 400 bytes, and has 99"):
        open_file(tmp_path / "b")


@pytest.mark.parametrize("legacy", [False, True])
def test_views_of_one_storage_are_read_each_for_itself(legacy, tmp_path):
    """Tied weights, slices, columns and tensors without values, all over one storage."""
    whole = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "whole": whole,
        "again": whole,
        "row": whole[1],
        "columns": whole[:, 1:3],
        "turned": whole.t(),
        "nothing": whole[:0],
        "number": whole[2, 3],
    }
    torch.save(tensors, tmp_path / "a", _use_new_zipfile_serialization=not legacy)
    with open_file(tmp_path / "a") as file:
        read = {name: file.read(name) for name in file.specs}
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name
        assert read[name].untyped_storage().nbytes() == tensor.nbytes
    read["whole"].zero_()
    assert torch.equal(read["again"], whole)


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8,
        torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16,
    ],
)  # fmt: skip
def test_every_type_of_number(dtype, tmp_path):
    values = torch.tensor([0, 1, 1, 0]).to(dtype)
    torch.save({"a": values, "b": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a")
    with open_file(tmp_path / "a") as file:
        assert file.specs["a"].dtype == str(dtype).removeprefix("torch.")
        assert torch.equal(file.read("a").view(torch.uint8), values.view(torch.uint8))
        assert torch.equal(file.read("b"), torch.ones(2))


def test_numbers_of_the_other_order_of_bytes(tmp_path):
    """What a big-endian machine writes."""
    import zipfile

    values = torch.tensor([1.5, -2.0, 3.25])
    torch.save({"a": values}, tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "a") as old, zipfile.ZipFile(tmp_path / "b", "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("data/0"):
                data = values.numpy().astype(">f4").tobytes()
            new.writestr(info.filename, b"big" if "byteorder" in info.filename else data)
    with open_file(tmp_path / "b") as file:
        assert torch.equal(file.read("a"), values)


def test_a_dict_in_many_places_is_found_in_each():
    state = {"stem.conv.weight": torch.ones(2)}
    groups, _ = find_groups({"model": state, "best": state, "deep": {"er": [state]}})
    assert set(groups) == {("model",), ("best",), ("deep", "er", "0")}
