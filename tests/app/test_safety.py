"""What the page's server gives to whom: nobody's files, and no more than it can bear."""

import socket
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from served_pages import serving

from bit_backbone.app.photographs import MOST_BYTES
from bit_backbone.app.serving import reach


@pytest.fixture(scope="module")
def served(classifier, images):
    with serving([classifier], images) as page:
        yield page


def status(url: str, data: bytes | None = None, kind: str = "") -> int:
    request = urllib.request.Request(url, data, {"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def uploaded(url: str, content: bytes, name: str = "a.png") -> int:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--x--\r\n"
    return status(f"{url}gradio_api/upload", body, "multipart/form-data; boundary=x")


def test_no_file_of_the_server_can_be_read(served, classifier, images):
    assert status(served.url) == 200
    paths = [Path("/etc/passwd"), classifier / "config.json", images / "a.png", Path(__file__)]
    for path in paths:
        for prefix in ("gradio_api/file=", "file="):
            for name in (str(path), f"{served.folder}/../..{path}"):
                assert status(served.url + prefix + urllib.parse.quote(name)) in (403, 404)
    assert served.page.allowed_paths == []


def test_uploads_have_a_largest_size(served):
    assert uploaded(served.url, b"x" * 1000) == 200
    assert uploaded(served.url, b"x" * (MOST_BYTES + 1)) == 413
    assert sum(path.stat().st_size for path in served.files()) < 2000


def test_the_page_listens_on_loopback_only(served):
    port = urllib.parse.urlsplit(served.url).port
    with socket.create_connection(("127.0.0.1", port)):
        pass
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match=r"refused|timed out"):
            socket.create_connection((address, port), timeout=2)


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1", "only this machine can open it"),
        ("localhost", "only this machine can open it"),
        ("::1", "only this machine can open it"),
        ("0.0.0.0", "warning: it listens on 0.0.0.0, without a password"),
        ("example.org", "warning: it listens on example.org, without a password"),
    ],
)
def test_who_can_open_the_page_is_said(host, message):
    assert reach(host).startswith(message)
