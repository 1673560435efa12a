"""Extractions that are killed, and destinations and sources that fail: real kills, real limits."""

import errno
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from extraction_outputs import (
    PROCESSOR,
    failures_in,
    maps_in,
    pooled,
    vectors_in,
    write_many,
)
from networks import tiny

from bit_backbone.cli import main
from bit_backbone.extraction import (
    ExtractionError,
    LocalEngine,
    OutputSettings,
    Summary,
    extract,
    find_images,
    writers,
)
from bit_backbone.extraction.decoding import Decoder

KINDS = {"maps": OutputSettings(shard_size=4), "vectors": pooled(shard_size=4)}
READERS = {"maps": maps_in, "vectors": vectors_in}


@pytest.fixture
def source(tmp_path):
    """Fourteen images in four shards, two of which cannot be read."""
    source = write_many(tmp_path / "src", 12)
    for name in ("00003x.png", "00009x.png"):
        (source / name).touch()
    return source


@pytest.fixture(autouse=True)
def one_thread():
    """OpenMP's threads do not survive a fork: an operator that uses several waits for ever."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def in_child(function):
    """Runs a function in a forked process; returns its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def killed_at(count, folder):
    """Makes this process kill itself before its count-th change of a name or open of a file."""
    left = [count]

    def hook(event, arguments):
        if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        if isinstance(arguments[0], str | os.PathLike) and str(arguments[0]).startswith(folder):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def visible(folder):
    """The names that a user would take for finished."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_kill_at_any_step_loses_nothing_and_repeats_nothing(kind, source, tmp_path, backbone):
    read, arguments = READERS[kind], {"processor": PROCESSOR, "output": KINDS[kind]}
    whole = tmp_path / "whole"
    extract(source, whole, backbone, **arguments)
    expected, names = read(whole), visible(whole)
    step, kills = 0, 0
    while True:
        step += 3 if kind == "maps" else 4
        out = tmp_path / f"out{step}"

        def run(step=step, out=out):
            killed_at(step, str(out))
            extract(source, out, backbone, **arguments)

        if in_child(run) == 0:
            break
        kills += 1
        assert visible(out) <= names
        kept = {
            path: path.stat() for path in finished(out)
        }  # a file written again is another inode
        assert extract(source, out, backbone, **arguments) == Summary(written=12, failed=2)
        assert [(p.stat().st_ino, p.stat().st_mtime_ns) for p in kept] == [
            (status.st_ino, status.st_mtime_ns) for status in kept.values()
        ]
        assert visible(out) == names
        assert_same(read(out), expected)
        assert failures_in(out) == failures_in(whole)
        assert not [p for p in out.rglob(".*") if p.name != ".lock"]
        shutil.rmtree(out)
    assert kills >= 10


def finished(out):
    numbers = [path.stem for path in out.glob("progress/*.json")]
    return [path for number in numbers for path in out.rglob(f"*{number}.*")]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, arrays in expected.items():
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[key][name], array)


def test_finished_shards_are_not_computed_again(source, tmp_path, backbone, monkeypatch):
    out = tmp_path / "out"
    arguments = {"processor": PROCESSOR, "output": KINDS["maps"]}
    extract(source, out, backbone, **arguments)
    (out / "progress/000002.json").unlink()
    read, call = [], Decoder.__call__
    monkeypatch.setattr(
        Decoder, "__call__", lambda self, ref: read.append(ref.key) or call(self, ref)
    )
    extract(source, out, backbone, **arguments)
    assert read == [f"{i:05d}%2Epng" for i in (7, 8, 9)] + ["00009x%2Epng"]


COMMAND = (
    *(sys.executable, "-m", "bit_backbone", "extract"),
    *("--variant", "R50x1", "--out-indices", "1", "--short-side", "24", "--shard-size", "4"),
)


def killed_soon(process, progress, rng):
    """Kills a process up to eight shards from now, however fast it is; False if it was faster."""
    goal = len(list(progress.glob("*.json"))) + rng.randrange(9)
    while len(list(progress.glob("*.json"))) < goal:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()  # SIGKILL
    return process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_the_command_killed_at_random_moments_ends_with_every_image(tmp_path):
    source = write_many(tmp_path / "src", 200)
    (source / "empty.png").touch()
    rng = random.Random(0)
    kills = 0
    while True:
        arguments = [*COMMAND, str(source), "--output", str(tmp_path / "out"), "--workers", "2"]
        process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        if killed_soon(process, tmp_path / "out" / "progress", rng):
            kills += 1
        else:
            status = process.wait()
            break
    assert status == 3
    assert kills >= 3
    assert len(maps_in(tmp_path / "out")) == 200
    assert [failure["key"] for failure in failures_in(tmp_path / "out")] == ["empty%2Epng"]


def test_interrupting_keeps_finished_shards(source, tmp_path, backbone):
    out = tmp_path / "out"

    def interrupt(*_):
        raise KeyboardInterrupt

    def engine(job, shards, bar):
        LocalEngine()(job, shards[:2], bar)
        job.backbone.register_forward_hook(interrupt)
        LocalEngine()(job, shards[2:], bar)

    arguments = {"processor": PROCESSOR, "output": KINDS["vectors"]}
    with pytest.raises(KeyboardInterrupt):
        extract(source, out, backbone, engine=engine, **arguments)
    assert sorted(path.name for path in (out / "vectors").iterdir()) == [
        "000000.parquet",
        "000001.parquet",
    ]


LIMITED = """
import resource, sys
from bit_backbone.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def arguments(source, tmp_path, backbone):
    """A quick command on a tiny network; the output is to be added."""
    backbone.save_pretrained(tmp_path / "weights")
    arguments = ["extract", str(source), "--weights", str(tmp_path / "weights"), "--device", "cpu"]
    return [*arguments, "--out-indices", "1", "3", "--workers", "0", "--short-side", "24"]


def test_a_file_that_may_not_grow_ends_with_one_error(arguments, tmp_path):
    """The system fails the write in its middle, as on a full disk."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", LIMITED, "12000", *arguments, "--output", str(out)]
    # `make coverage` would have the process write a file of its own, which may not grow either
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        f"error: {out} cannot be written: File too large. Finished shards are kept" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert visible(out) == {"extraction.json"}
    assert main([*arguments, "--output", str(out)]) == 3
    assert len(maps_in(out)) == 12


@pytest.fixture
def mounted(tmp_path):
    """A file system of its own, of 400 kB."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("pool", [(), ("--pool", "avg")])
def test_a_full_disk_ends_with_one_error(pool, arguments, mounted, capsys):
    out = mounted / "out"
    arguments = [*arguments, *pool, "--shard-size", "2", "--output", str(out)]
    filler = mounted / "filler"
    filler.write_bytes(bytes(380_000 if pool else 300_000))
    assert main(arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{out} cannot be written: No space left on device" in error
    read = vectors_in if pool else maps_in
    assert 0 < len(read(out)) < 12  # every file that has a name can be read
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    filler.unlink()
    assert main(arguments) == 3
    assert len(read(out)) == 12


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_a_disk_that_fails_in_the_background_ends_with_one_error(
    failing, arguments, tmp_path, capsys, monkeypatch
):
    """The system tells of a failed sync once; each of the four shards has one at least."""
    out, calls, main_thread = tmp_path / "out", [], threading.get_ident()
    sync = os.fsync

    def fail(descriptor):
        if threading.get_ident() != main_thread:
            calls.append(descriptor)
            if len(calls) == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(writers, "_UNSYNCED", 1)
    monkeypatch.setattr(os, "fsync", fail)
    arguments = [*arguments, "--shard-size", "4", "--output", str(out)]
    assert main(arguments) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert f"{out} cannot be written: Input/output error" in error
    assert len(calls) >= failing
    assert not [path for path in out.rglob(".*") if path.name != ".lock"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sync")]
    kept = len(list(out.glob("progress/*.json")))
    assert len(list(out.glob("*.tar"))) == kept
    assert main(arguments) == 3
    assert len(maps_in(out)) == 12


def test_a_read_only_target_is_rejected_before_the_first_image(arguments, mounted, capsys):
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    assert main([*arguments, "--output", str(mounted / "out")]) == 2
    assert "out cannot be written: Read-only file system" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_rejected_before_the_first_image(
    arguments, tmp_path, capsys
):
    (tmp_path / "mine").mkdir(mode=0o500)
    assert main([*arguments, "--output", str(tmp_path / "mine" / "out")]) == 2
    assert "out cannot be written: Permission denied" in capsys.readouterr().err


def test_a_target_that_is_a_file_is_rejected(arguments, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main([*arguments, "--output", str(tmp_path / "file")]) == 2
    assert "the output must be a folder, and" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_vanishes_ends_with_one_error(workers, source, tmp_path, backbone):
    out = tmp_path / "out"

    def engine(job, shards, bar):
        LocalEngine(workers)(job, shards[:1], bar)
        shutil.move(source, tmp_path / "moved")
        LocalEngine(workers)(job, shards[1:], bar)

    run = {"processor": PROCESSOR, "output": KINDS["maps"]}
    with pytest.raises(ExtractionError, match=f"the source is gone: no {source}"):
        extract(source, out, backbone, engine=engine, **run)
    assert visible(out) == {"extraction.json", "shard-000000.tar", "progress/000000.json"}
    shutil.move(tmp_path / "moved", source)
    assert extract(source, out, backbone, **run) == Summary(written=12, failed=2)


def empty_folder(source):
    source.mkdir()


def other_folder(source):
    source.mkdir()
    (source / "NOT MOUNTED").touch()


def a_file(source):
    source.touch()


ANOTHER = "is another folder than when it was listed"
LEFT_BEHIND = {empty_folder: "is empty", other_folder: ANOTHER, a_file: ANOTHER}


@pytest.mark.parametrize("kind", ["folder", "glob", "list"])
@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_a_source_whose_disk_is_unmounted_ends_with_one_error(
    left, kind, source, tmp_path, backbone
):
    """What was mounted on stays: an empty folder mostly."""
    names = sorted(str(path) for path in source.iterdir())
    (tmp_path / "list.txt").write_text("\n".join(names))
    listed = {"folder": source, "glob": source / "*", "list": tmp_path / "list.txt"}[kind]
    run = {"processor": PROCESSOR, "output": KINDS["maps"]}
    listing = find_images(listed)
    shutil.move(source, tmp_path / "moved")
    left(source)
    message = f"the source is gone: {source} {LEFT_BEHIND[left]}"
    with pytest.raises(ExtractionError, match=message):
        extract(listing, tmp_path / "out", backbone, **run)
    assert visible(tmp_path / "out") == {"extraction.json"}
    source.unlink() if source.is_file() else shutil.rmtree(source)
    shutil.move(tmp_path / "moved", source)
    assert extract(listed, tmp_path / "out", backbone, **run) == Summary(written=12, failed=2)


def test_a_source_that_another_process_finds_empty_is_gone(source):
    """There, the numbers of disks and folders are others and tell nothing."""
    listing = find_images(source)
    ref = listing[0]
    shutil.move(source, source.with_name("moved"))
    other_folder(source)
    decoder = pickle.loads(pickle.dumps(Decoder(PROCESSOR, listing.root)))
    assert not decoder(ref).fatal
    (source / "NOT MOUNTED").unlink()
    assert decoder(ref).reason == f"the source is gone: {source} is empty"
    assert decoder(ref).fatal


def test_an_image_that_vanishes_is_a_failure(source, tmp_path, backbone):
    def engine(job, shards, bar):
        (source / "00011.png").unlink()
        LocalEngine()(job, shards, bar)

    summary = extract(source, tmp_path / "out", backbone, processor=PROCESSOR, engine=engine)
    assert summary == Summary(written=11, failed=3)
    assert failures_in(tmp_path / "out")[-1]["key"] == "00011%2Epng"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.ESTALE])
def test_the_machines_own_troubles_are_not_the_images(
    code, source, tmp_path, backbone, monkeypatch
):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("bit_backbone.extraction.decoding.decode", fail)
    with pytest.raises(ExtractionError, match=f"stopped at .*00000.png: .*{os.strerror(code)}"):
        extract(source, tmp_path / "out", backbone)


def test_a_reader_that_dies_ends_with_one_error(source, tmp_path, backbone, monkeypatch):
    monkeypatch.setattr(Decoder, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ExtractionError, match=r"read ahead failed: DataLoader worker .* exited"):
        extract(source, tmp_path / "out", backbone, engine=LocalEngine(1))
    assert visible(tmp_path / "out") == {"extraction.json"}


@pytest.mark.slow
def test_five_thousand_images(tmp_path):
    """Every image once, in many shards, with failures strewn in and one kill in the middle."""
    source = write_many(tmp_path / "src", 5000, sizes=[(w, h) for w in (24, 31) for h in (24, 37)])
    for index in range(0, 5000, 500):
        (source / f"{index:05d}bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    backbone = tiny(out_indices=[1, 3]).eval()
    arguments = {"processor": PROCESSOR, "output": pooled(shard_size=300)}
    pid = os.fork()
    if pid == 0:
        extract(source, out, backbone, engine=LocalEngine(2), **arguments)
        os._exit(0)
    while not (out / "progress/000003.json").exists():
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    summary = extract(source, out, backbone, engine=LocalEngine(2), **arguments)
    assert summary == Summary(written=5000, failed=10)
    assert set(vectors_in(out)) == {f"{index:05d}%2Epng" for index in range(5000)}
    assert len(failures_in(out)) == 10
