"""Fetching from the bucket and from the Hub, both played by servers on this machine."""

import dataclasses
import io
import json
from contextlib import ExitStack

import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.utils
import numpy as np
import pytest
import torch
from local_servers import bucket, hub
from official import TINY_CONFIG, official_arrays
from tiny_models import LABELS, assert_equal_state, backbone, classifier

from bit_backbone import BitBackbone, BitConfig, BitForImageClassification
from bit_backbone.checkpoints import (
    CheckpointError,
    NotDownloadedError,
    convert,
    fetching,
    load,
    published,
)

NAME = "BiT-M-R50x1"


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    """Empty caches of this test's own, and no proxy between it and its servers."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forget_sessions()


def forget_sessions():
    """Sessions of releases before 1.0 keep whether they are offline."""
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()


def go_offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    forget_sessions()


@pytest.fixture
def offline(monkeypatch):
    go_offline(monkeypatch)


def tiny_npz():
    buffer = io.BytesIO()
    np.savez(buffer, **official_arrays(head=LABELS))
    return buffer.getvalue()


def entry_at(address, monkeypatch):
    """The catalog's entry, lying on a server of ours."""
    entry = dataclasses.replace(published.find(NAME), location=f"{address}/{NAME}.npz")
    monkeypatch.setattr(published, "find", lambda name: entry if name == NAME else None)
    return entry


class TestBucket:
    def test_a_file_is_fetched_once_and_kept_where_torch_keeps_its(self, tmp_path, monkeypatch):
        content = tiny_npz()
        with bucket({f"{NAME}.npz": content}) as (address, asked):
            entry_at(address, monkeypatch)
            one, other = classifier(), classifier()
            load(one, NAME)
            load(other, NAME)
        assert_equal_state(one, other)
        assert asked == [f"/{NAME}.npz"]
        folder = tmp_path / "torch" / "checkpoints"
        assert [path.name for path in folder.iterdir()] == [f"{NAME}.npz"]
        assert (folder / f"{NAME}.npz").read_bytes() == content

    def test_a_file_put_by_hand_needs_no_network(self, tmp_path, monkeypatch, offline):
        folder = tmp_path / "torch" / "checkpoints"
        folder.mkdir(parents=True)
        (folder / f"{NAME}.npz").write_bytes(tiny_npz())
        model = BitBackbone(BitConfig(**TINY_CONFIG), weights=NAME)
        assert torch.isfinite(model(torch.rand(1, 3, 33, 47))["stage4"]).all()

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (None, "HTTP Error 404"),
            (b"<html>sign in</html>", "is a web page"),
            ((b"PK\x03\x04 and then the connection drops", 10**6), "is truncated"),
        ],
        ids=["missing", "a web page", "dropped"],
    )
    def test_a_failed_download_leaves_nothing(self, content, reason, tmp_path, monkeypatch):
        files = {} if content is None else {f"{NAME}.npz": content}
        target = tmp_path / "torch" / "checkpoints" / f"{NAME}.npz"
        with bucket(files) as (address, _):
            entry = entry_at(address, monkeypatch)
            with pytest.raises(CheckpointError, match=reason) as error:
                load(backbone(), NAME)
        assert f"download {entry.location} by hand and save it as {target}" in str(error.value)
        assert list(target.parent.iterdir()) == []

    def test_no_network(self, tmp_path, monkeypatch):
        entry_at("http://127.0.0.1:9", monkeypatch)
        target = tmp_path / "torch" / "checkpoints" / f"{NAME}.npz"
        with pytest.raises(CheckpointError, match=rf"could not be fetched .*save it as {target}"):
            load(backbone(), NAME)

    def test_offline_asks_nobody(self, monkeypatch, offline):
        with bucket({}) as (address, asked):
            entry_at(address, monkeypatch)
            with pytest.raises(NotDownloadedError, match="HF_HUB_OFFLINE is set: unset it, or"):
                load(backbone(), NAME)
        assert asked == []

    def test_a_cache_that_cannot_be_written(self, tmp_path, monkeypatch):
        (tmp_path / "torch").write_text("a file where the cache should be")
        with bucket({f"{NAME}.npz": tiny_npz()}) as (address, _):
            entry_at(address, monkeypatch)
            with pytest.raises(CheckpointError, match="could not be fetched"):
                load(backbone(), NAME)


@pytest.fixture
def saved(tmp_path):
    """A model and its folder as {name: bytes}, in one file and in shards."""
    model = classifier()
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="200KB")
    return model, *(
        {path.name: path.read_bytes() for path in (tmp_path / kind).iterdir()}
        for kind in ("one", "many")
    )


def point_at(address, monkeypatch):
    """Takes another server for the Hub; old releases keep its address in a second place."""
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    for module in (huggingface_hub.constants, huggingface_hub.file_download):
        if hasattr(module, "HUGGINGFACE_CO_URL_TEMPLATE"):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def serve(monkeypatch):
    """Starts a Hub with these repositories."""
    with ExitStack() as stack:

        def start(repositories):
            address, asked = stack.enter_context(hub(repositories))
            point_at(address, monkeypatch)
            return asked

        yield start


class TestHub:
    @pytest.mark.parametrize("kind", ["one file", "shards"])
    def test_a_repository_is_fetched_once(self, kind, saved, serve, monkeypatch):
        model, one, many = saved
        asked = serve({"someone/bit-tiny": one if kind == "one file" else many})
        first = BitForImageClassification.from_pretrained("someone/bit-tiny")
        assert_equal_state(first, model)
        assert first.config == model.config
        fetched = [line for line in asked if line.startswith("GET")]
        again = classifier()
        load(again, "someone/bit-tiny")
        assert [line for line in asked if line.startswith("GET")] == fetched
        go_offline(monkeypatch)
        asked.clear()
        assert_equal_state(BitForImageClassification.from_pretrained("someone/bit-tiny"), model)
        assert asked == []

    def test_older_names_of_the_weights(self, saved, serve, tmp_path):
        model, one, _ = saved
        convert(model.state_dict(), tmp_path / "pytorch_model.bin", "transformers")
        content = (tmp_path / "pytorch_model.bin").read_bytes()
        serve({"a/b": {"config.json": one["config.json"], "pytorch_model.bin": content}})
        assert_equal_state(BitForImageClassification.from_pretrained("a/b"), model)

    def test_an_old_name_of_timms(self, serve, tmp_path):
        source = BitBackbone("R50x1")
        convert(source.state_dict(), tmp_path / "model.safetensors", "timm")
        values = {"architecture": "resnetv2_50x1_bit", "num_classes": 21843}
        serve(
            {
                "timm/resnetv2_50x1_bit.goog_in21k": {
                    "config.json": json.dumps(values).encode(),
                    "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
                }
            }
        )
        model = BitBackbone.from_pretrained("resnetv2_50x1_bitm_in21k", out_indices=[1, 2])
        assert model.config.weight_standardization_eps == 1e-8
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, source.state_dict()[name])

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (None, r"of a/b could not be fetched \(.*: check the name, or download config\.json"),
            ({}, r"a/b on the Hugging Face Hub has no config\.json"),
            ({"config.json": b'{"model_type": "bit"}'}, "must hold one of model.safetensors, .*it"),
            (
                {
                    "config.json": b'{"model_type": "bit"}',
                    "model.safetensors.index.json": b'{"weight_map": {"a": "b.safetensors"}}',
                },
                r"a/b lists the shard b\.safetensors, but does not contain it",
            ),
        ],
        ids=["no repository", "no configuration", "no weights", "no shard"],
    )
    def test_what_a_repository_may_lack(self, files, message, serve):
        serve({} if files is None else {"a/b": files})
        with pytest.raises(CheckpointError, match=message):
            BitBackbone.from_pretrained("a/b")

    def test_offline_and_never_fetched(self, serve, offline):
        asked = serve({})
        with pytest.raises(
            CheckpointError,
            match=r"model\.safetensors of google/bit-50 is not on this machine and HF_HUB_OFFLINE "
            r"is set: .* download config\.json and model\.safetensors from "
            r"https://huggingface\.co/google/bit-50 by hand into a folder and pass that folder",
        ):
            BitBackbone("R50x1", weights="google/bit-50")
        assert asked == []

    def test_out_of_reach(self, monkeypatch):
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
        point_at("http://127.0.0.1:9", monkeypatch)
        with pytest.raises(CheckpointError, match=r"a/b is not on this machine and the Hub cannot"):
            fetching.fetch_weights_from_hub("a/b")
