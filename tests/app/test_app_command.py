"""``bit-backbone app``: what it says, serves and leaves."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from bit_backbone.cli import main


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_leaves_nothing(end, classifier, images, tmp_path):
    pytest.importorskip("gradio")
    port = free_port()
    command = [sys.executable, "-m", "bit_backbone", "app", "--weights", classifier]
    process = subprocess.Popen(
        [*map(str, command), "--images", str(images), "--port", str(port), "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    late = threading.Timer(90, process.kill)
    late.start()
    try:
        assert (
            process.stdout.readline()
            == f"the page is at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
        )
        assert (
            process.stdout.readline()
            == "only this machine can open it (--host 0.0.0.0 lets others)\n"
        )
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert "bit_backbone" in answer.read().decode()
        assert list(tmp_path.glob("bit-backbone-app-*"))
        time.sleep(0.3)
        process.send_signal(end)
        assert process.wait(60) == 0
    finally:
        late.cancel()
        process.kill()
        process.communicate()
    assert not list(tmp_path.glob("bit-backbone-app-*"))


def test_without_gradio_it_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    said = capsys.readouterr().err
    assert "the page needs gradio, which cannot be imported" in said
    assert 'pip install "bit-backbone[app]"' in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "nowhere/here"], r"nowhere/here"),
        (["--images", "nowhere"], r"--images takes a folder of images, and nowhere is none"),
    ],
)
def test_what_cannot_be_shown(options, message, monkeypatch, tmp_path, capsys):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["app", *options, "--device", "cpu"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_taken_port_is_an_error(classifier, capsys):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = ["app", "--weights", str(classifier), "--port", port, "--device", "cpu"]
        assert main(command) == 2
    assert port in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_a_port_that_is_none(port, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["app", "--port", port])
    assert "a port from 1 to 65535, got" in capsys.readouterr().err


def test_without_weights_it_says_how_to_get_some(monkeypatch, tmp_path, capsys):
    pytest.importorskip("gradio")
    monkeypatch.chdir(tmp_path)
    served = []
    monkeypatch.setattr(
        "bit_backbone.app.serving.serve", lambda networks, *rest: served.append(networks.names)
    )
    assert main(["app", "--device", "cpu"]) == 0
    assert "no --weights: the network has random weights; give a" in capsys.readouterr().out
    assert served == [["R50x1, random weights"]]


def test_the_page_starts_without_torchvision():
    pytest.importorskip("gradio")
    code = "import sys, bit_backbone.app.page; print('torchvision' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
