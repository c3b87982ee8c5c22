"""The studio's server: a socket, a door that asks for the token, and pages that load nothing from elsewhere."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from xreal_synth.errors import EngineError, XrealError
from xreal_synth.opening import MAX_IMAGE

COOKIE: Final = "xreal-studio"
LEAST_TOKEN: Final = 12
"""Characters of a token that somebody chooses."""
_MOST_BODY: Final = 1024
_WRONG_S: Final = 0.5
_POLICY: Final = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; frame-ancestors 'none'"
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()), (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)  # fmt: skip
_FORM: Final = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>xreal-synth studio</title><style>body{font:16px system-ui;margin:15vh auto;width:min(20rem,90vw)}
input,button{font:inherit;width:100%;box-sizing:border-box;padding:.5rem;margin-top:.75rem}</style>
<h1>xreal-synth studio</h1><p>WORDS</p><form method="post" action="/token">
<input name="token" type="password" aria-label="token" autofocus required><button>Enter</button></form>"""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address or name."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Door:
    """Lets requests through to the pages: with a token those that know it, else those that name a loopback address,
    so that no page of another site leads a browser here. Says nothing of the token in any answer. `leaving` tells that
    the server ends: what open pages meet then is not worth a word."""

    def __init__(self, app: App, token: str | None, leaving: Callable[[], bool] = lambda: False) -> None:
        self._app, self._leaving = app, leaving
        self._token = token
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One connection, as ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): text.decode("latin-1") for name, text in scope["headers"]}
        if not self._own_site(headers):
            await _refuse(scope, send, 403, "Another site's page, or another name of this machine.")
        elif self._token is None or self._knows(headers.get("cookie", "")):
            try:
                await self._app(scope, receive, _with_headers(send))
            except asyncio.CancelledError:  # Ctrl-C while a page is open
                pass
            except Exception:
                if not self._leaving():
                    raise
        elif (scope["type"], scope.get("path"), scope.get("method")) == ("http", "/token", "POST"):
            await self._enter(self._token, scope, receive, send)
        else:
            await _refuse(scope, send, 401, "The token that the studio was started with:")

    def _own_site(self, headers: dict[str, str]) -> bool:
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return False
        return self._token is not None or is_loopback(urlsplit(f"//{host}").hostname or "")

    def _knows(self, cookies: str) -> bool:
        pairs = (one.strip().partition("=") for one in cookies.split(";"))
        given = [value for name, _, value in pairs if name == COOKIE]
        return any(hmac.compare_digest(one.encode(), self._session.encode()) for one in given)

    async def _enter(self, token: str, scope: Message, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more and len(body) <= _MOST_BODY:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        given = parse_qs(body[:_MOST_BODY].decode("utf-8", "replace")).get("token", [""])[0]
        if hmac.compare_digest(given.encode(), token.encode()):
            cookie = f"{COOKIE}={self._session}; HttpOnly; SameSite=Strict; Path=/"
            headers = [(b"location", b"/"), (b"set-cookie", cookie.encode())]
            await send({"type": "http.response.start", "status": 303, "headers": headers})
            await send({"type": "http.response.body"})
        else:
            await asyncio.sleep(_WRONG_S)
            await _refuse(scope, send, 401, "Not the token. Once more:")


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending


async def _refuse(scope: Message, send: Send, status: int, words: str) -> None:
    """Closes what is no request, else answers with the form for the token, or in words."""
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    page = (_FORM.replace("WORDS", words) if status == 401 else words).encode()
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", str(len(page)).encode()), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": page})


def checked_token(host: str, token: str | None) -> str | None:
    """The token that a server at `host` asks for: the given one, none on loopback, a new one. Raises XrealError."""
    if token is not None and len(token) < LEAST_TOKEN:
        found, wanted = f"a token of {len(token)} characters", f"at least {LEAST_TOKEN} characters"
        raise XrealError(found=found, wanted=wanted, hint="leave it out for a new one")
    return token or (None if is_loopback(host) else secrets.token_urlsafe(18))


def listening(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises EngineError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise EngineError(
            found=f"{host}:{port}: {error.strerror or error}", wanted="an address of this machine and a free port",
            hint="--port 0 takes a free one",
        ) from error  # fmt: skip


def serve(bundle: str, bound: socket.socket, token: str | None, on_ready: Callable[[str], None]) -> None:
    """Serves the studio until it is interrupted; `on_ready` is told its address.

    Files that are uploaded or shown lie in a folder for this user alone, which goes with the server. Raises XrealError
    without gradio, and as `Pipeline`.
    """
    with bound, tempfile.TemporaryDirectory(prefix="xreal-studio-") as folder, suppress(KeyboardInterrupt):
        server = _server(bundle, folder, token)
        host, port = bound.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        server.run(sockets=[bound])


def _server(bundle: str, folder: str, token: str | None) -> Any:
    os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}  # before gradio is imported
    try:
        import fastapi
        import gradio
        import uvicorn

        from xreal_synth.studio.page import LOOKS, page
    except ImportError as error:
        found = f"the studio needs {error.name}, which is not installed"
        raise XrealError(found=found, hint="pip install 'xreal-synth[studio]'") from error
    from xreal_synth.studio.making import Studio

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None), page(Studio(bundle)), "/", footer_links=[], run_history=False,
        show_error=False, max_file_size=MAX_IMAGE, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, **LOOKS,
    )  # fmt: skip
    door = Door(app, token, leaving=lambda: bool(server.should_exit))
    server = uvicorn.Server(
        uvicorn.Config(door, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False)
    )
    return server
