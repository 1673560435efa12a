"""Files that are not what they should be: each rejected with its own reason, none half-read."""

import codecs
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from official import official_arrays, write_official
from safetensors.torch import save_file
from tiny_models import LABELS, assert_unchanged, backbone, classifier, snapshot, tiny_official

from bit_backbone.checkpoints import CheckpointError, load
from bit_backbone.checkpoints.files import open_file

KERNEL = "resnet/root_block/standardized_conv2d/kernel"


class RunsCode:
    """What an attacker pickles: unpickling it makes a file."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return (os.system, (f"touch {self.proof}",))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def forged_npz(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def truncated(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def truncated_npz(path):
    tiny_official(path.parent).rename(path)
    truncated(path)


def zeros_bomb(path):
    """An honest header over far more zeros than any network has weights."""
    forged_npz(path, {KERNEL: npy(np.zeros((7, 7, 3, 150_000), np.float32))})


def npz_with_header(text):
    """Whatever text says where an array's header says what the array is."""
    header = text.encode("latin1") + b"\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
    return lambda path: forged_npz(path, {KERNEL: content})


def lying_header(path):
    """A header that says 7x7x3x64, over a stream of megabytes."""
    forged_npz(path, {KERNEL: npy(np.zeros((7, 7, 3, 64), np.float32)) + bytes(10**6)})


def huge_header(path):
    header = npy(np.zeros((1,), np.float32)).replace(b"(1,)", b"(9,)")
    forged_npz(path, {KERNEL: header})


def declares(path, stored, inflated):
    """A directory that declares sizes the data do not have, for five members."""
    forged_npz(path, {f"{KERNEL}{i}": npy(np.zeros(1000, np.float32)) for i in range(5)})
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    entries = data[directory:].split(b"PK\x01\x02")
    sizes = struct.pack("<II", stored, inflated)
    entries = [entry[:16] + sizes + entry[24:] if entry else entry for entry in entries]
    path.write_bytes(data[:directory] + b"PK\x01\x02".join(entries))


def object_array(path):
    proof = path.with_name("proof")
    np.savez(path, **{KERNEL: np.array([RunsCode(proof)], dtype=object)})


def corrupt_npz(path):
    """One flipped bit in a weight."""
    tiny_official(path.parent).rename(path)
    data = bytearray(path.read_bytes())
    data[data.index(npy(np.zeros(1))[:6]) + 4096] ^= 1
    path.write_bytes(bytes(data))


def encrypted_npz(path):
    forged_npz(path, {KERNEL: npy(np.zeros(3, np.float32))})
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(bytes(data))


def evil_pth(path, **options):
    proof = path.with_name("proof")
    torch.save({"model": {"a": torch.ones(2)}, "args": RunsCode(proof)}, path, **options)


def evil_pkl(path):
    path.write_bytes(pickle.dumps({"model": {"a": RunsCode(path.with_name("proof"))}}))


def truncated_pth(path, **options):
    torch.save({f"stage1.{u}.conv1.weight": torch.ones(99) for u in range(99)}, path, **options)
    truncated(path)


def truncated_pkl(path):
    path.write_bytes(pickle.dumps({"model": {"a": np.ones(1000)}}))
    truncated(path)


class Forged:
    """An array of some type over bytes of the attacker's, as numpy would take it from a pickle."""

    def __init__(self, dtype, data, shape=(4,)):
        self.state = (1, shape, dtype, False, data)

    def __reduce__(self):
        return (np.empty(0).__reduce__()[0], (np.ndarray, (0,), b"b"), self.state)


class ForgedType:
    def __init__(self, code, *state):
        self.code, self.state = code, (3, *state)

    def __reduce__(self):
        return (np.dtype, (self.code, False, True), self.state)


HOLDS_OBJECTS = 1  # numpy's NPY_ITEM_REFCOUNT: freeing the array follows its items as pointers
AS_POINTERS = {
    "O8": ForgedType("O8", "|", None, None, None, -1, -1, HOLDS_OBJECTS),
    "V8": ForgedType("V8", "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, HOLDS_OBJECTS),
}


class Encoded:
    def __reduce__(self):
        return (codecs.encode, ("text", "zip"))


class Unfilled:
    def __reduce__(self):
        return (np.ndarray, ((2**40,),))


def pointers(code, save):
    content = {"model": {"stem.conv.weight": Forged(AS_POINTERS[code], b"A" * 32)}}
    return lambda path: save(content, path)


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content))


def newer_npy(path):
    """An array whose header has a version that NumPy writes for names of fields alone."""
    content = bytearray(npy(np.zeros(3, np.float32)))
    content[6] = 3
    forged_npz(path, {KERNEL: bytes(content)})


def shaped_in_the_pickle(path):
    """numpy pickles arrays as empty ones that are filled; here memory would be taken at once."""
    reconstruct = np.empty(0).__reduce__()[0]

    class Array:
        def __reduce__(self):
            return (reconstruct, (np.ndarray, (2**40,), b"b"))

    path.write_bytes(pickle.dumps({"model": {"stem.conv.weight": Array()}}))


def truncated_safetensors(path):
    save_file({"stem.conv.weight": torch.ones(64, 3, 7, 7)}, path)
    truncated(path)


def index(weight_map):
    return lambda path: path.write_text(json.dumps({"weight_map": weight_map}))


def lying_index(path):
    save_file({"stem.conv.weight": torch.ones(64, 3, 7, 7)}, path.with_name("a.safetensors"))
    index({"stem.norm.weight": "a.safetensors"})(path)


def text(content):
    return lambda path: path.write_text(content)


def nothing(path):
    """No file at all."""


def folder(path):
    path.mkdir()


CASES = {
    "no file": (nothing, "is none of them|no such file"),
    "empty": (text(""), r"is empty \(0 bytes\): delete it and fetch it again"),
    "a web page": (
        text("\n <!DOCTYPE html><html><body>404</body></html>"),
        r"is a web page \(HTML or XML\): the link is dead or asks for a login",
    ),
    "a Git LFS pointer": (
        text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"),
        "is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "an HDF5 file": (
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
        r"is an HDF5 file of the TensorFlow 2 models: take the \.npz",
    ),
    "something else": (text("weights"), r"must be \.npz, torch\.save, \.safetensors or \.pkl"),
    "a truncated .npz": (truncated_npz, r"is truncated: its \d+ bytes begin a zip archive"),
    "a corrupt .npz": (corrupt_npz, r"the data of '.+' are damaged \(Bad CRC-32"),
    "an .npz of a newer version": (newer_npy, r"is not a readable numpy array \(version \(3, 0\)"),
    **{
        f"pointers as {code} in {kind}": (
            pointers(code, save),
            r"must hold tensors by their names, .*; it holds a dict with the keys 'model'",
        )
        for code in AS_POINTERS
        for kind, save in (("a .pkl", save_pickle), ("a .pth", torch.save))
    },
    "bytes by another codec": (
        lambda path: save_pickle({"model": {"a": Encoded()}}, path),
        r"must hold tensors .*and what only _codecs\.encode could make, which nobody calls",
    ),
    "an array without content": (
        lambda path: save_pickle({"model": {"a": Unfilled()}}, path),
        r"must hold tensors .*and what only numpy\.ndarray could make, which nobody calls",
    ),
    "a shape in a .pkl": (
        shaped_in_the_pickle,
        r"must hold tensors .*and what only numpy\._core\.multiarray\._reconstruct could make",
    ),
    "an encrypted .npz": (encrypted_npz, "is not a readable numpy array .*encrypted"),
    "an .npz of text": (
        lambda path: forged_npz(path, {KERNEL: b"hello"}),
        r"is not a readable numpy array \(.*magic string",
    ),
    **{
        f"an .npz with the header {text[:9]}": (
            npz_with_header(text),
            r"is not a readable numpy array \(",
        )
        for text in ("{'descr':=\x12r", "{" * 5000, "{[]: 1}", "  \x12\n 1", "3")
    },
    "objects in an .npz": (object_array, "holds pickled Python objects, which can run code"),
    "a zip bomb of zeros": (zeros_bomb, r"looks like a zip bomb: \d+ bytes would inflate to \d+"),
    "a zip bomb behind a header": (lying_header, r"needs 37760 bytes, but the archive declares"),
    "a header that promises more": (huge_header, r"\[9\] .* needs 164 bytes, but .* declares 132"),
    "a declared size beyond all networks": (
        lambda path: declares(path, stored=2**32 - 2, inflated=2**32 - 2),
        "declares 20.0 GiB of tensors; the limit is 16 GiB",
    ),
    "a declared size beyond its data": (
        lambda path: declares(path, stored=200, inflated=2**31),
        "zip bomb: 1000 bytes would inflate to 10737418240",
    ),
    "code in a .pth": (evil_pth, r"what only posix\.system could make, which nobody calls"),
    "code in an old .pth": (
        lambda path: evil_pth(path, _use_new_zipfile_serialization=False),
        r"what only posix\.system could make, which nobody calls",
    ),
    "code in a .pkl": (evil_pkl, r"what only posix\.system could make, which nobody calls"),
    "a truncated .pth": (truncated_pth, "is truncated"),
    "a truncated old .pth": (
        lambda path: truncated_pth(path, _use_new_zipfile_serialization=False),
        "is truncated",
    ),
    "a truncated .pkl": (truncated_pkl, "is truncated or not a pickle"),
    "a .pth of something else": (
        lambda path: torch.save({"epoch": 3, "loss": 0.1}, path),
        "must hold tensors by their names, .*; it holds a dict with the keys 'epoch', 'loss'",
    ),
    "a .pth of a tensor": (lambda path: torch.save(torch.ones(3), path), "it holds a tensor"),
    "a truncated .safetensors": (
        truncated_safetensors,
        r"is truncated or not a \.safetensors file",
    ),
    "an index to nowhere": (
        index({"stem.conv.weight": "gone.safetensors"}),
        "lists gone.safetensors, which is not in its folder",
    ),
    "an index out of its folder": (
        index({"stem.conv.weight": "../../etc/passwd"}),
        r"must list files of its own folder by their plain names, got '\.\./\.\./etc/passwd'",
    ),
    "an index that lies": (lying_index, r"disagree: 'stem\.norm\.weight' is not in a\.safetensors"),
    "an index of nothing": (text('{"weights": 3}'), 'must be a JSON index with a "weight_map"'),
    "an empty folder": (folder, r"must hold one of model\.safetensors, .*; it holds none"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bad_file_is_rejected_and_the_model_stays_as_it_was(case, tmp_path):
    make, message = CASES[case]
    path = tmp_path / "bad.npz"
    make(path)
    model = classifier()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=message):
        load(model, path)
    assert_unchanged(model, before)
    assert not (tmp_path / "proof").exists(), "the file ran code"


def test_a_bomb_is_rejected_before_it_is_inflated(tmp_path, monkeypatch):
    zeros_bomb(tmp_path / "bomb.npz")
    assert (tmp_path / "bomb.npz").stat().st_size < 2**20
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with pytest.raises(CheckpointError, match="looks like a zip bomb"):
        open_file(tmp_path / "bomb.npz")


def test_a_bomb_inside_a_pth(tmp_path):
    path = tmp_path / "bomb.pth"
    torch.save({"stem.conv.weight": torch.zeros(20_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="looks like a zip bomb"):
        load(backbone(), path)


def test_a_compressed_checkpoint_is_no_bomb(tmp_path):
    """Half a network of zeros still loads: freshly initialised heads are."""
    arrays = official_arrays(head=LABELS)
    arrays["resnet/head/conv2d/kernel"][:] = 0
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    load(classifier(), tmp_path / "a.npz")


def test_unreadable_members_that_are_not_needed_are_not_read(tmp_path):
    """A backbone of the first stages reads no further: damage behind them does not matter."""
    path = write_official(tmp_path / "a.npz", head=LABELS)
    data = bytearray(path.read_bytes())
    data[data.index(b"resnet/head/conv2d/kernel.npy") + 2000] ^= 1
    path.write_bytes(bytes(data))
    load(backbone(out_indices=[1, 2]), path)
    with pytest.raises(CheckpointError, match=r"'resnet/head/conv2d/kernel' are damaged"):
        load(classifier(), path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_of_arrays_are_read(protocol, tmp_path):
    model = classifier()
    content = {
        "model": {name: tensor.numpy() for name, tensor in model.state_dict().items()},
        "__author__": "somebody",
        "iteration": np.int64(3),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol))
    other = classifier()
    load(other, tmp_path / "a.pkl")
    assert_unchanged(other, snapshot(model))


@pytest.mark.parametrize("save", [save_pickle, torch.save])
def test_types_of_numbers_are_read_as_numpy_reads_them(save, tmp_path):
    """Flags of the file's own are left out; orders of bytes and axes are not."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(3, 5)).astype(np.float32)
    content = {
        "big-endian": plain.astype(">f4"),
        "by columns": np.asfortranarray(plain),
        "half": plain.astype(np.float16),
        "whole": plain.astype(np.int64),
        "truth": plain > 0,
        "nothing": plain[:0],
        "single": np.array(plain[0, 0]),
    }
    flagged = Forged(ForgedType("f4", "<", None, None, None, -1, -1, 1), plain.tobytes(), (3, 5))
    others = {"flagged": flagged, "name": np.array(["a", "bc"]), "count": np.float32(3)}
    save({"model": content | others}, tmp_path / "a")
    tensors = open_file(tmp_path / "a")
    tensors.select(("model",))
    for name, array in (content | {"flagged": plain}).items():
        if name == "big-endian":
            array = plain
        np.testing.assert_array_equal(tensors.read(name).numpy(), array)
    assert set(tensors.specs) == {*content, "flagged"}


def test_numpy_arrays_in_a_pth_are_read(tmp_path):
    model = classifier()
    torch.save({n: t.numpy() for n, t in model.state_dict().items()}, tmp_path / "a.pth")
    other = classifier()
    load(other, tmp_path / "a.pth")
    assert_unchanged(other, snapshot(model))


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_training_checkpoints_are_read(key, tmp_path):
    model = classifier()
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({key: state, "optimizer": {"state": {}}, "epoch": 3}, tmp_path / "a.pth")
    other = classifier()
    load(other, tmp_path / "a.pth")
    assert_unchanged(other, snapshot(model))


def test_a_shared_storage_is_not_kept_alive(tmp_path):
    whole = torch.zeros(100_000)
    state = classifier().state_dict()
    state["norm.weight"] = whole[:256]
    torch.save(state, tmp_path / "a.pth")
    model = classifier()
    with torch.device("meta"):
        model = classifier()
    load(model, tmp_path / "a.pth")
    assert model.norm.weight.untyped_storage().nbytes() == 256 * 4


def test_a_model_does_not_depend_on_the_file_it_came_from(tmp_path):
    """Saving over the file one has loaded, as training scripts do, must not change the model."""
    path = tmp_path / "a.safetensors"
    save_file(classifier().state_dict(), path)
    with torch.device("meta"):
        model = classifier()
    load(model, path)
    before = snapshot(model)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert_unchanged(model, before)


def test_what_is_no_file_is_told(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointError, match=f"no such file: {path}"):
            open_file(path)


def test_a_file_that_is_cut_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"stem.conv.weight": torch.ones(64, 3, 70, 70)}, path)  # beyond what is buffered
    mapping = open_file(path)
    os.truncate(path, 4096)
    with pytest.raises(CheckpointError, match="was cut short while it was being read, at 'stem"):
        mapping.read("stem.conv.weight")
