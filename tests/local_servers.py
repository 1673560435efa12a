"""Web servers on this machine in place of the bucket and of the Hugging Face Hub."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789" * 4


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def _serving(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def bucket(files):
    """Serves files by name; a value of (bytes, length) promises more than it sends."""
    asked = []

    class Handler(_Quiet):
        def do_GET(self):
            asked.append(self.path)
            content = files.get(self.path.lstrip("/"))
            if content is None:
                self.answer(404, b"<html>no such file</html>")
            elif isinstance(content, tuple):
                self.answer(200, content[0], length=content[1])
                self.close_connection = True
            else:
                self.answer(200, content)

    with _serving(Handler) as address:
        yield address, asked


@contextmanager
def hub(repositories):
    """Serves {repository: {file: bytes}} as huggingface_hub asks for it."""
    asked = []

    class Handler(_Quiet):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0].lstrip("/")
            asked.append(f"{self.command} {path}")
            repository, _, name = path.partition("/resolve/main/")
            if repository not in repositories:
                error = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
                self.answer(404, json.dumps({"error": "not found"}).encode(), error)
            elif name not in repositories[repository]:
                error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                self.answer(404, b"", {**error, "X-Repo-Commit": COMMIT})
            else:
                content = repositories[repository][name]
                etag = hashlib.sha256(content).hexdigest()
                self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    with _serving(Handler) as address:
        yield address, asked
