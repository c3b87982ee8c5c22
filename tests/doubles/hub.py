"""A Hugging Face Hub on loopback: as much of its API as pushing a dataset needs, regular files and LFS."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

TOKEN: Final = "hf_canary0d3b5cf2a9e147"
OWNER: Final = "me"


@dataclass
class Hub:
    """`files` and `private` by repository; `refuse` has a status by part of a path, `seen` (method, path)."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    role: str = "write"

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, Any]:
        self.seen.append((method, path))
        for part, status in self.refuse.items():
            if part in path:
                return status, {"error": f"not with {token}"}
        if path.startswith("/lfs/"):
            return self._keep(path.removeprefix("/lfs/"), body)
        if token != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid username or password."}
        match path.strip("/").split("/"):
            case ["api", "whoami-v2"]:
                orgs, auth = [{"name": "ward"}], {"type": "access_token", "accessToken": {"role": self.role}}
                return 200, {"type": "user", "name": OWNER, "orgs": orgs, "auth": auth}
            case ["api", "validate-yaml"]:
                return 200, {"errors": [], "warnings": []}
            case ["api", "repos", "create"]:
                return self._create(json.loads(body))
            case ["api", "datasets", owner, name]:
                return self._info(f"{owner}/{name}")
            case ["api", "datasets", owner, name, "preupload", "main"] if f"{owner}/{name}" in self.files:
                return 200, {"files": [_mode(one["path"]) for one in json.loads(body)["files"]]}
            case ["datasets", owner, git, "info", "lfs", "objects", "batch"]:
                assert f"{owner}/{git.removesuffix('.git')}" in self.files
                return 200, {"objects": [self._upload(one) for one in json.loads(body)["objects"]]}
            case ["api", "datasets", owner, name, "commit", "main"] if f"{owner}/{name}" in self.files:
                return self._commit(f"{owner}/{name}", body)
        return 404, {"error": "no such page"}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked['organization'] or OWNER}/{asked['name']}"
        assert asked["type"] == "dataset"
        status = 409 if repo in self.files else 200
        self.files.setdefault(repo, {".gitattributes": b""})
        self.private.setdefault(repo, asked["visibility"] == "private")
        return status, {"url": f"{self.address}/datasets/{repo}"}

    def _info(self, repo: str) -> tuple[int, Any]:
        if repo not in self.files:
            return 404, {"error": "Repository not found"}
        siblings = [{"rfilename": name} for name in self.files[repo]]
        return 200, {"id": repo, "private": self.private[repo], "siblings": siblings}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.address}/lfs/{asked['oid']}"}}}

    def _keep(self, oid: str, body: bytes) -> tuple[int, Any]:
        assert hashlib.sha256(body).hexdigest() == oid
        self.large[oid] = body
        return 200, {}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any]:
        head, *lines = map(json.loads, body.splitlines())
        assert head["key"] == "header"
        for line in lines:
            value = line["value"]
            self.files[repo][value["path"]] = (
                base64.b64decode(value["content"]) if line["key"] == "file" else self.large[value["oid"]]
            )
        return 200, {"commitUrl": f"{self.address}/datasets/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40}


def _mode(path: str) -> dict[str, Any]:
    large = path.endswith((".parquet", ".png"))
    return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The Hub while the block lasts."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            path = self.path.partition("?")[0]
            status, content = hub.answer(self.command, path, self.headers.get("Authorization", ""), body)
            sent = json.dumps(content).encode()
            self.send_response(status)
            if path.startswith("/api/datasets/") and status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = reply  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield hub
        finally:
            server.shutdown()
