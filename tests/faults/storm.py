"""A remote place with bad weather: `storm://ERRORS-DELAY/PATH` is the folder PATH seen as an object store.

As with object stores an object appears when it is complete. Every ERRORS-th call of a process fails as a busy
server does (0: none), every call takes DELAY milliseconds. The scheme exists in processes that have imported this
module: an actor imports it with the backend `InStorm`.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.spec import AbstractFileSystem

from tests.doubles.fake_backend import FakeImages, wait_for_go
from xreal_synth import uris
from xreal_synth.engine.backend import Backend
from xreal_synth.run.resources import ActorShape

if TYPE_CHECKING:
    from xreal_synth.run.setup import Run

SCHEME = "storm"
_calls = itertools.count(1)
_still: list[tuple[str, Path]] = []


@dataclass(frozen=True, slots=True)
class InStorm(FakeImages):
    """The fake backend of a run whose output is in a storm. The writing of the object `still` waits in the folder
    `hold` as a held group does."""

    still: str = ""

    def open(self, run: Run, shape: ActorShape) -> Backend:
        if self.still and self.hold is not None:
            _still.append((self.still, Path(self.hold)))
        return FakeImages.open(self, run, shape)


def storm_uri(folder: Path, *, errors: int = 0, delay_ms: int = 0) -> str:
    return f"{SCHEME}://{errors}-{delay_ms}{folder.absolute()}"


class StormFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec carries no types
    """What the stores use of fsspec, over a local folder."""

    protocol = SCHEME
    cachable = False

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        return self._entry(path, self._place(path))

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        place = self._place(path)
        if not place.exists():
            raise FileNotFoundError(path)
        entries = [self._entry(f"{path.rstrip('/')}/{one.name}", one) for one in sorted(place.iterdir())]
        return entries if detail else [entry["name"] for entry in entries]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        target = self._place(path)
        for folder in [folder for name, folder in _still if name == target.name]:
            wait_for_go(folder, target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        whole = target.parent / f".tmp-{uuid.uuid4().hex}"
        whole.write_bytes(value)
        try:
            if mode == "create":
                os.link(whole, target)
            else:
                os.replace(whole, target)
        finally:
            whole.unlink(missing_ok=True)

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **kwargs: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), mode)

    def rm_file(self, path: str) -> None:
        self._place(path).unlink()

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        assert mode == "rb", "objects are written whole"
        return io.BytesIO(self._place(path).read_bytes())

    def _place(self, path: str) -> Path:
        """The local path, after the weather has had its turn."""
        weather, _, place = self._strip_protocol(path).partition("/")
        errors, _, delay = weather.partition("-")
        time.sleep(int(delay) / 1000)
        if int(errors) and next(_calls) % int(errors) == 0:
            raise OSError(errno.EIO, "503 Slow Down")
        return Path(f"/{place}")

    def _entry(self, name: str, place: Path) -> dict[str, Any]:
        if not place.exists():
            raise FileNotFoundError(name)
        kind = "directory" if place.is_dir() else "file"
        return {"name": name, "type": kind, "size": place.stat().st_size}


fsspec.register_implementation(SCHEME, StormFileSystem, clobber=True)
uris.SCHEMES = (*uris.SCHEMES, SCHEME)  # type: ignore[misc,assignment]
