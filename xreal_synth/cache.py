"""Remote folders kept on this machine: fetched once, whole or not at all, by one process at a time.

They lie below XREAL_CACHE, else XDG_CACHE_HOME/xreal-synth, else ~/.cache/xreal-synth; deleting them is safe.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from xreal_synth.errors import StorageError
from xreal_synth.storage import TEMPORARY_PREFIX, Store, checked_key

_READERS: Final = 8
_MAX_FETCHED: Final = 16 << 30
"""Bytes of a file whose size nobody has stated."""
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


def cache_folder() -> Path:
    """Where fetched folders lie."""
    own = os.environ.get("XREAL_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else home_folder() / ".cache") / "xreal-synth"


def home_folder() -> Path:
    """This user's; raises StorageError where neither HOME nor the system names one."""
    try:
        return Path.home()
    except RuntimeError:
        raise StorageError(
            found="no home folder: HOME is not set, and the system does not know this user",
            wanted="a place for what is kept between runs", hint="set HOME, or XREAL_CACHE and XDG_CONFIG_HOME",
        ) from None  # fmt: skip


def kept(kind: str, name: str, fill: Callable[[Path], None], size: int) -> Path:
    """The folder `kind/name` of the cache, which `fill` makes if it is not there.

    It lies in a folder of this user alone; callers hold what they read against its hashes all the same.
    `fill` gets an empty folder that is renamed once it returns: what is there is whole. Processes of one machine
    wait for the first; where a file system has no locks they all fill, and one of them wins. `size` is what
    has to fit, in bytes. Raises StorageError, and whatever `fill` raises.
    """
    folder = cache_folder() / kind
    target = folder / checked_key(name)
    try:
        private_folder(kind)
        if target.is_dir():
            return target
        with _locked(folder / f"{name}.lock"):
            if not target.is_dir():
                _fill(folder, target, fill, size)
    except OSError as error:
        raise StorageError(
            where=str(folder), found=f"cannot be written: {error.strerror or error}",
            wanted="a place for what is fetched", hint="make room, or name another with XREAL_CACHE",
        ) from error  # fmt: skip
    return target


def private_folder(kind: str) -> Path:
    """The folder `kind` of the cache, for this user alone; made if it is not there, and what others may have put there
    is deleted. Raises StorageError, OSError."""
    folder = cache_folder() / kind
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.getuid(), 0):
        raise _not_ours(folder, "a link, or another user's")
    if found.st_mode & (_OTHERS if found.st_uid == os.getuid() else _OTHERS_WRITE):
        folder.chmod(0o700)
        if folder.lstat().st_mode & _OTHERS_WRITE:
            raise _not_ours(folder, "open to other users, and stays so")
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return folder


def forget(kind: str, name: str) -> None:
    """Deletes the folder `kind/name`: what lies in it is not what its name says."""
    shutil.rmtree(cache_folder() / kind / checked_key(name))


def _not_ours(folder: Path, found: str) -> StorageError:
    return StorageError(
        where=str(folder), found=found, wanted="a folder of this user, for this user alone",
        hint="name another place with XREAL_CACHE",
    )  # fmt: skip


def fetch(store: Store, keys: dict[str, int | None], folder: Path, check: Callable[[str, Path], None]) -> None:
    """Copies files of a store below the folder, a few at a time; `keys` name them with their size, if known.

    `check(key, path)` raises for a file that is not the one meant. Raises StorageError.
    """

    def one(key: str) -> None:
        path, wanted = folder / checked_key(key), keys[key]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for chunk in store.chunks(key, _MAX_FETCHED if wanted is None else wanted):
                file.write(chunk)
        if wanted is not None and path.stat().st_size != wanted:
            raise StorageError(
                where=f"{store.uri}/{key}", found=f"{path.stat().st_size} bytes", wanted=f"{wanted} bytes",
                hint="put the folder there again",
            )  # fmt: skip
        check(key, path)

    with ThreadPoolExecutor(_READERS) as readers:
        for done in [readers.submit(one, key) for key in keys]:
            done.result()


def _fill(folder: Path, target: Path, fill: Callable[[Path], None], size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise StorageError(
            where=str(folder), found=f"{free / 1e6:,.0f} MB free", wanted=f"room for {size / 1e6:,.0f} MB",
            hint="make room, or name another place with XREAL_CACHE",
        )  # fmt: skip
    temporary = folder / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    temporary.mkdir(mode=0o700)
    try:
        fill(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:  # whose end is the lock's, too
        with suppress(OSError):  # of a file system that has no locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
