"""The same extraction on a real Ray cluster of several processes, one of which is killed."""

import contextlib
import os
import pickle
import signal
import sys
import tarfile
import threading
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
from extraction_outputs import PROCESSOR, failures_in, maps_in, pooled, vectors_in, write_many
from networks import tiny

from bit_backbone.cli import main
from bit_backbone.extraction import (
    ExtractionError,
    OutputSettings,
    RayEngine,
    Summary,
    extract,
    find_images,
)
from bit_backbone.extraction import cluster as cluster_module
from bit_backbone.extraction.cluster import _on_cpu, _Reader, _ShardWriter, read_until
from bit_backbone.extraction.decoding import Decoded, Decoder
from bit_backbone.extraction.destination import Destination
from bit_backbone.extraction.listing import ImageRef


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actors": 0}, "at least one actor, got 0"),
        ({"gpus_per_actor": -0.5}, "0 or more GPUs, got -0.5"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RayEngine(**settings)


def test_the_local_engine_has_no_actors(tmp_path, capsys):
    write_many(tmp_path, 1)
    assert main(["extract", str(tmp_path), "--output", str(tmp_path / "o"), "--actors", "2"]) == 2
    assert "actors need --engine ray" in capsys.readouterr().err


def test_what_is_too_large_to_travel_is_read_at_its_goal(tmp_path):
    listing = find_images(write_many(tmp_path, 5, sizes=[(20, 20)]))
    limit = 2 * 3 * 48 * 48
    read = list(read_until(Decoder(PROCESSOR, listing.root), list(listing), limit))
    assert [type(image) for image in read] == [Decoded] * 2 + [ImageRef] * 3


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({"CPU": 2.4, "GPU": 8.0}, "need 2.5 CPUs in the cluster, got 2.4"),
        ({"CPU": 8.0}, "need 1 GPUs in the cluster, got 0"),
        ({"CPU": 2.5, "GPU": 1.0}, None),
    ],
)
def test_actors_that_could_never_start_are_rejected(resources, told):
    engine = RayEngine(actors=2, gpus_per_actor=0.5)
    if told is None:
        engine._check_resources(resources)
        return
    with pytest.raises(ValueError, match=told + "; ask for fewer actors"):
        engine._check_resources(resources)


def through_rays_steps(job, shards, bar):
    """An engine: what Ray's actors do, in this process, with everything pickled on its way."""
    sent = pickle.dumps(_on_cpu(job))
    writer = _ShardWriter(sent, "cpu")
    for shard in shards:
        row = {"shard": shard, "refs": pickle.dumps(job.refs(shard))}
        done = writer(_Reader(job.decoder())(row))
        if done["error"]:
            raise ExtractionError(done["error"])
        bar.advance(done["done"])


def test_the_steps_of_the_cluster_give_the_same_result(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Mock(get=pickle.loads))
    monkeypatch.setattr(cluster_module, "_SHIPPED_BYTES", 3 * 24 * 24)  # the actor reads the rest
    backbone = tiny(out_indices=[1, 3]).eval()
    arguments = {"processor": PROCESSOR, "output": OutputSettings(shard_size=7)}
    expected = extract(source, tmp_path / "local", backbone, **arguments)
    out = tmp_path / "steps"
    assert extract(source, out, backbone, engine=through_rays_steps, **arguments) == expected
    assert expected == Summary(written=60, failed=2)
    maps, others = maps_in(tmp_path / "local"), maps_in(out)
    assert list(maps) == list(others)
    for key, levels in maps.items():
        for name, level in levels.items():
            np.testing.assert_array_equal(level, others[key][name])
    assert failures_in(out) == failures_in(tmp_path / "local")


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "shards"])
def test_relative_paths_start_at_the_folder_of_the_command(kind, tmp_path, monkeypatch):
    """Actors have the folder that the cluster was started in."""
    monkeypatch.setitem(sys.modules, "ray", Mock(get=pickle.loads))
    write_many(tmp_path / "src", 3)
    (tmp_path / "list.txt").write_text("src/00000.png\nsrc/00001.png\nsrc/00002.png\n")
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        for path in sorted((tmp_path / "src").iterdir()):
            shard.add(path, path.name)
    (tmp_path / "elsewhere").mkdir()

    def engine(job, shards, bar):
        with contextlib.chdir(tmp_path / "elsewhere"):
            through_rays_steps(job, shards, bar)

    source = {"folder": "src", "glob": "s*/*.png", "list": "list.txt", "shards": "0.tar"}[kind]
    arguments = {"processor": PROCESSOR, "output": pooled()}
    backbone, expected = tiny(out_indices=[1]).eval(), Summary(written=3, failed=0)
    with contextlib.chdir(tmp_path):
        assert extract(source, "out", backbone, engine=engine, **arguments) == expected
    assert not list((tmp_path / "elsewhere").iterdir())
    told = pq.read_table(tmp_path / "out/vectors").column("path").to_pylist()
    named = "0.tar" if kind == "shards" else "src"
    assert list(map(os.path.normpath, told)) == [f"{named}/{i:05d}.png" for i in range(3)]


def test_a_source_named_otherwise_is_the_same(source, tmp_path, monkeypatch):
    """By its relative path, or its absolute one: keys, and so the settings, are equal."""
    backbone = tiny(out_indices=[1]).eval()
    arguments = {"processor": PROCESSOR, "output": pooled(shard_size=7)}
    monkeypatch.chdir(tmp_path)
    first = extract("src", "out", backbone, **arguments)
    settings = (tmp_path / "out/extraction.json").read_bytes()
    (tmp_path / "out/progress/000002.json").unlink()
    assert extract(source, tmp_path / "out", backbone, **arguments) == first
    assert (tmp_path / "out/extraction.json").read_bytes() == settings


def test_an_actor_that_cannot_write_sends_its_error_as_a_value(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Mock(get=pickle.loads))

    def full(*_):
        raise ExtractionError("the disk is full")

    monkeypatch.setattr(Destination, "write_shard", full)
    backbone = tiny(out_indices=[1]).eval()
    with pytest.raises(ExtractionError, match=r"^the disk is full$"):
        extract(source, tmp_path / "o", backbone, processor=PROCESSOR, engine=through_rays_steps)


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture
def source(tmp_path):
    source = write_many(tmp_path / "src", 60)
    (source / "00020x.png").touch()
    (source / "00040x.png").write_text("no image")
    return source


def workers_of(cluster_process):
    """The process ids of the actors that a process's cluster runs: {pid: name}."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            pid = int(folder.name)
            if "MapWorker" in name and cluster_process in ancestors(pid):
                found[pid] = name
        except OSError:
            continue  # it has ended
    return found


def ancestors(pid):
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        yield pid


def kill_one_actor(out, killed, over):
    """Waits for the first finished shard, then kills an actor."""
    while not over.wait(0.02):
        if list(out.glob("progress/*.json")) and (actors := workers_of(os.getpid())):
            killed.append(min(actors))
            os.kill(min(actors), signal.SIGKILL)
            return


@pytest.mark.slow
def test_a_cluster_gives_the_same_result_and_survives_a_kill(cluster, source, tmp_path):
    backbone = tiny(out_indices=[1, 3]).eval()
    arguments = {"processor": PROCESSOR, "output": OutputSettings(shard_size=2)}
    expected = extract(source, tmp_path / "local", backbone, **arguments)
    killed, over = [], threading.Event()
    out = tmp_path / "ray"
    killer = threading.Thread(target=kill_one_actor, args=(out, killed, over))
    killer.start()
    try:
        summary = extract(source, out, backbone, engine=RayEngine(actors=2), **arguments)
    finally:
        over.set()
        killer.join()
    assert len(killed) == 1
    assert summary == expected == Summary(written=60, failed=2)
    maps, others = maps_in(tmp_path / "local"), maps_in(out)
    assert list(maps) == list(others)
    for key in maps:
        for name in maps[key]:
            np.testing.assert_allclose(maps[key][name], others[key][name], rtol=1e-4, atol=1e-4)
    assert failures_in(out) == failures_in(tmp_path / "local")


@pytest.mark.slow
def test_a_run_that_one_machine_began_is_finished_by_a_cluster(cluster, source, tmp_path):
    backbone = tiny(out_indices=[1, 3]).eval()
    arguments = {"processor": PROCESSOR, "output": pooled(shard_size=20)}
    extract(source, tmp_path / "out", backbone, **arguments)
    before = (tmp_path / "out/vectors/000000.parquet").stat().st_mtime_ns
    (tmp_path / "out/progress/000001.json").unlink()
    summary = extract(source, tmp_path / "out", backbone, engine=RayEngine(), **arguments)
    assert summary == Summary(written=60, failed=2)
    assert len(vectors_in(tmp_path / "out")) == 60
    assert (tmp_path / "out/vectors/000000.parquet").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_cluster_of_another_working_folder(cluster, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone = tiny(out_indices=[1]).eval()
    arguments = {"processor": PROCESSOR, "output": pooled(), "engine": RayEngine()}
    assert extract("src", "out", backbone, **arguments) == Summary(written=60, failed=2)
    assert len(vectors_in(tmp_path / "out")) == 60


@pytest.mark.slow
def test_errors_of_the_cluster_are_one_line(cluster, source, tmp_path):
    backbone = tiny(out_indices=[1]).eval()
    for engine, message in {
        RayEngine(actors=9): "9 actors .* need 9.5 CPUs in the cluster, got 4",
        RayEngine(gpus_per_actor=0.5): "need 0.5 GPUs in the cluster, got 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            extract(source, tmp_path / "out", backbone, engine=engine)
    (tmp_path / "out" / "progress").touch()  # where a folder has to be
    with pytest.raises(ExtractionError, match="out cannot be written: ") as caught:
        extract(source, tmp_path / "out", backbone, engine=RayEngine())
    assert "\n" not in str(caught.value)
