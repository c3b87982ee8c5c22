"""A real S3 API on loopback: moto's server, and a proxy before it that answers wrongly when told to."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest

SECRET = "canary-secret-8c41f0aa92"
KEY_ID = "CANARYKEYID77Q0"
BUCKET = "sets"

Fault = Literal["unavailable", "lost answer"]
_PASSED_ON = {"transfer-encoding", "connection", "content-length"}


@dataclass
class ObjectStore:
    """`requests` are (method, path) as they came; `fault` says what happens to one, None for nothing."""

    address: str = ""
    requests: list[tuple[str, str]] = field(default_factory=list)
    fault: Callable[[str, str], Fault | None] = lambda method, path: None

    @contextmanager
    def failing(self, times: int, method: str, part: str, how: Fault) -> Iterator[list[str]]:
        """The next `times` requests of this method whose path has `part` go wrong; yields those that did."""
        hit: list[str] = []
        lock = threading.Lock()

        def fault(verb: str, path: str) -> Fault | None:
            with lock:
                if verb == method and part in path and len(hit) < times:
                    hit.append(path)
                    return how
            return None

        self.fault = fault
        try:
            yield hit
        finally:
            self.fault = lambda method, path: None

    def seen(self, method: str, part: str) -> int:
        return sum(verb == method and part in path for verb, path in self.requests)

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.address, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "3", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip


def _handler(store: ObjectStore, behind: tuple[str, int]) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            store.requests.append((self.command, self.path))
            body = self._body()
            fault = store.fault(self.command, self.path)
            if fault == "unavailable":
                self._send(503, [("Content-Type", "application/xml")], b"")
                return
            connection = http.client.HTTPConnection(*behind, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _PASSED_ON}
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
            content = answer.read()
            if fault == "lost answer":
                self.close_connection = True
                self.connection.close()
            else:
                self._send(answer.status, answer.getheaders(), content)
            connection.close()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(parts)

        def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            length = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length" and self.command == "HEAD":
                    length = value
                elif name.lower() not in _PASSED_ON:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Proxy


@contextmanager
def serving() -> Iterator[ObjectStore]:
    """Skips where moto is not installed."""
    for module in ("moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"{module} is in the dev extra: pip install 'xreal-synth[dev]'")
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    store = ObjectStore()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(store, (host, port)))
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    store.address = f"http://127.0.0.1:{proxy.server_address[1]}"
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    before = {name: os.environ.get(name) for name in store.environment}
    os.environ.update(store.environment)
    try:
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket=BUCKET)
        yield store
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        s3fs.S3FileSystem.clear_instance_cache()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        server.stop()
