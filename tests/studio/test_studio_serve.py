"""The studio's door: who is let in, what is refused, and that it says nothing of the token."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xreal_synth.errors import EngineError, XrealError
from xreal_synth.studio.serve import Door, Message, Receive, Send, checked_token, is_loopback, listening, serve

TOKEN = "a-token-of-the-tests"


async def inside(scope: Message, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def ask(door: Door, path: str = "/", body: bytes | None = None, kind: str = "http", **headers: str) -> Any:
    """(status, headers, body) of a request; a close code for a websocket."""
    sent: list[Message] = []
    parts = [{"type": "http.request", "body": body or b""}]

    async def receive() -> Message:
        return parts.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:7860", **headers}
    scope: Message = {
        "type": kind, "path": path, "method": "GET" if body is None else "POST",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }  # fmt: skip
    asyncio.run(door(scope, receive, send))
    if kind != "http":
        return sent[0].get("code", sent[0].get("status"))
    head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], head, b"".join(one.get("body", b"") for one in sent[1:])


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.4", False), ("example.org", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_which_addresses_are_this_machines_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
    token = checked_token(host, None)
    assert (token is None) is loopback
    assert token is None or len(token) >= 20
    assert token is None or token != checked_token(host, None)
    assert checked_token(host, TOKEN) == TOKEN


@pytest.mark.parametrize("token", ["", "short"])
def test_a_short_token_is_refused(token: str) -> None:
    with pytest.raises(XrealError, match="at least 12") as error:
        checked_token("0.0.0.0", token)
    assert not token or token not in str(error.value)


def test_on_loopback_everybody_of_this_machine_is_let_in() -> None:
    door = Door(inside, None)
    status, headers, body = ask(door)
    assert (status, body) == (200, b"inside")
    assert "default-src 'self'" in headers["content-security-policy"]
    assert ask(door, host="localhost:7860", origin="http://localhost:7860")[0] == 200
    assert ask(door, host="[::1]:7860")[0] == 200


@pytest.mark.parametrize(
    "headers",
    [{"host": "evil.example:7860"}, {"origin": "http://evil.example"}, {"origin": "null"}, {"host": ""},
     {"host": "127.0.0.1.evil.example"}, {"origin": "http://127.0.0.1:9999"}],
)  # fmt: skip
def test_pages_of_other_sites_are_refused(headers: dict[str, str]) -> None:
    assert ask(Door(inside, None), **headers)[0] == 403
    assert ask(Door(inside, None), kind="websocket", **headers) == 1008


def test_without_the_token_everything_is_refused() -> None:
    door = Door(inside, TOKEN)
    for path in (
        "/",
        "/config",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/queue/join",
        "/assets/index.js",
        "/token",
    ):
        for cookie in ("", f"xreal-studio={TOKEN}", "xreal-studio=", "other=1"):
            status, _, body = ask(door, path, host="example.org", cookie=cookie)
            assert (status, b"inside" in body) == (401, False), (path, cookie)
    assert ask(door, kind="websocket") == 1008
    assert ask(door, f"/?token={TOKEN}")[0] == 401


def test_the_token_opens_and_a_wrong_one_does_not() -> None:
    door = Door(inside, TOKEN)
    for wrong in (b"token=wrong", b"", b"token=" + b"x" * 5000, b"token=%ff%fe", f"tokens={TOKEN}".encode()):
        status, headers, body = ask(door, "/token", wrong)
        assert (status, "set-cookie" in headers) == (401, False)
        assert b"Not the token" in body
    status, headers, body = ask(door, "/token", f"token={TOKEN}".encode(), host="example.org")
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert ask(door, host="example.org", cookie=cookie.partition(";")[0])[2] == b"inside"
    other = Door(inside, TOKEN)
    assert ask(other, cookie=cookie.partition(";")[0])[0] == 401, "of another start"


def test_a_port_that_is_taken_is_told() -> None:
    with listening("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(EngineError, match=f"127.0.0.1:{port}") as error:
            listening("127.0.0.1", port)
        assert "--port 0" in error.value.hint
    with pytest.raises(EngineError, match="no-such-host"):
        listening("no-such-host.invalid", 0)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with listening("127.0.0.1", 0) as bound, pytest.raises(XrealError, match="gradio") as error:
        serve("xreal-tiny", bound, None, lambda url: None)
    assert "xreal-synth[studio]" in error.value.hint


def test_a_picture_shown_again_is_whole_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pages that show equal pictures, or one that draws its chest again: gradio has one file for them."""
    pytest.importorskip("gradio", reason="gradio is in the studio extra")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from xreal_synth.studio.page import gr, picture

    chest = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8))
    with gr.Blocks(), ThreadPoolExecutor(1) as elsewhere:
        shown = picture("findings")
        file = Path(shown.postprocess(chest).path)
        whole = file.stat().st_size
        again = elsewhere.submit(lambda: [shown.postprocess(chest).path for _ in range(20)])
        sizes = set()
        while not again.done():
            sizes.add(file.stat().st_size)
    assert sizes == {whole}
    assert set(again.result()) == {str(file)}
    assert list(tmp_path.iterdir()) == [file.parent]
