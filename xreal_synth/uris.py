"""Places as users write them: which are taken, what of them may be told, and credentials that must not be."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from xreal_synth.errors import StorageError

SCHEMES: Final = ("s3", "s3a", "gs", "gcs", "hf", "memory")
"""Storage that is read and written; memory:// lies in this process alone."""
READ_ONLY: Final = ("https",)
"""What a bundle, and nothing else, may be fetched from; http:// from this very machine too."""
LOCAL: Final = ("", "file", "local")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_SECRET_ENDINGS: Final = ("_SECRET_ACCESS_KEY", "_ACCESS_KEY_ID", "_TOKEN", "_PASSWORD", "_SECRET", "_KEY")
_SECRET_LENGTH: Final = 8
_USER: Final = re.compile(r"(?<=://)(?:[^\s/@'\"]*|[^\s/@:'\"]*:[^\s@'\"]*)@")
"""What stands before the host in `://user:password@host`; a password may hold slashes."""
_GRANTS: Final = re.compile(
    r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|x-goog-signature|x-goog-credential|"
    r"signature|sig|token|access_token|password|secret)=|\bauthorization\W{1,4}\w+\s)[^\s&@'\"]+"
)
"""`name=` of a signed query, `Authorization: Bearer `; each with what grants access."""


def scheme_of(uri: str) -> str:
    """`s3` of `s3://bucket/x`, `file` of `file:/x`; an empty string for a path."""
    head, separator, _ = uri.partition("://")
    return head if separator else "file" if uri.startswith("file:/") else ""


def is_remote(uri: str) -> bool:
    """Whether a place is on object storage: neither a path nor a file:// URI."""
    return scheme_of(uri) not in LOCAL


def local_folder(uri: str) -> Path:
    """The path of a place that is not remote; of a file: URI, what `Path.as_uri` was given. Raises StorageError."""
    assert not is_remote(uri), uri
    scheme = scheme_of(uri)
    if not scheme:
        return _expanded(Path(uri))
    rest = uri.removeprefix(f"{scheme}:")
    host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest.removeprefix("/"))
    if host not in ("", "localhost"):
        raise _refused(f"a {scheme}: URI on the host {host}", f"{scheme}:///PATH, or a path")
    return _expanded(Path(f"{slash}{unquote(path)}"))


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise _refused(f"no home folder for {path.parts[0]}", "a path", "write the whole path") from None


def is_loopback(uri: str) -> bool:
    """Whether a URI's host is this machine by a name that no network can answer for."""
    host = uri.partition("://")[2].split("/", 1)[0]
    return (host if host.endswith("]") else host.rpartition(":")[0] or host) in _LOOPBACK


def refuse_uri(uri: str, *, reading: bool = False) -> None:
    """Raises StorageError, which does not say the URI, for one that is not taken; paths are taken as they are.

    Refused are credentials and queries in it (places stand in logs and datasets), chains (`zip://a::http://b`
    have drivers that run what they read), and other schemes; `reading` allows READ_ONLY.
    """
    scheme, rest = scheme_of(uri), uri.partition("://")[2]
    if "::" in uri and rest:
        raise _refused("a chain of URIs (::)", "one place: a folder or a URI")
    if scheme in LOCAL:
        return
    host = rest.partition("/")[0]
    if "@" in host or (":" in host and "@" in rest):
        raise _refused(
            f"credentials in a {_reported(scheme)} URI", "a place without them: it stands in logs and datasets",
            "give them in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or as a role",
        )  # fmt: skip
    if "?" in rest:
        raise _refused(f"a query in a {_reported(scheme)} URI", "a place without one: it may grant access")
    taken = (*SCHEMES, *READ_ONLY) if reading else SCHEMES
    if scheme not in taken and not (reading and scheme == "http" and is_loopback(uri)):
        raise _refused(
            f"cannot open {_reported(scheme)}", f"a folder, or one of {', '.join(f'{one}://' for one in taken)}"
        )
    if not (host or (scheme == "memory" and rest)):
        raise _refused(f"no name after {scheme}://", f"{scheme}://NAME/FOLDER")


def _refused(found: str, wanted: str, hint: str = "") -> StorageError:
    return StorageError(found=found, wanted=wanted, hint=hint)


def _reported(scheme: str) -> str:
    """A scheme, if it is a word: what stands there may be anything."""
    return f"{scheme}://" if re.fullmatch(r"[a-z][a-z0-9+.-]{0,15}", scheme) else "an unknown scheme"


def secrets() -> tuple[str, ...]:
    """The values of the environment's credentials."""
    reported = (value for name, value in os.environ.items() if name.endswith(_SECRET_ENDINGS))
    return tuple(value for value in reported if len(value) >= _SECRET_LENGTH)


def scrubbed(text: str, known: Iterable[str] | None = None) -> str:
    """The text without the values of the environment's credentials (those `known`, if they are given), and without
    what in a URI or a header grants access: user and password, signatures, tokens."""
    for value in secrets() if known is None else known:
        text = text.replace(value, "***")
    return _GRANTS.sub(r"\1***", _USER.sub("***@", text))
