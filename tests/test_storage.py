from __future__ import annotations

import errno
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xreal_synth.errors import StorageError
from xreal_synth.storage import (
    TEMPORARY_PREFIX,
    LocalStore,
    RemoteStore,
    Store,
    checked_key,
    open_store,
    scheme_of,
    sha256_bytes,
    sha256_file,
    sha256_of,
)

BIG = bytes(range(256)) * 5000  # more than one chunk


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "root")
    if request.param == "s3":
        request.getfixturevalue("object_store")
        return RemoteStore(f"s3://sets/{tmp_path.name}/root")
    return RemoteStore(f"memory://{tmp_path}/root")


def test_put_read_replace_delete(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_bytes(BIG)
    assert not store.exists("a/b.bin")
    assert store.size("a/b.bin") is None
    assert store.put_if_absent("a/b.bin", file)
    assert not store.put_if_absent("a/b.bin", b"second")
    assert store.exists("a/b.bin")
    assert store.size("a/b.bin") == len(BIG)
    assert store.read_bytes("a/b.bin") == b"".join(store.chunks("a/b.bin")) == BIG
    assert store.read_range("a/b.bin", 250, 1000) == BIG[250:1000]
    with pytest.raises(StorageError, match="too early"):
        store.read_range("a/b.bin", len(BIG) - 5, len(BIG) + 5)
    assert sha256_of(store, "a/b.bin") == sha256_bytes(BIG) == sha256_file(file)
    store.replace("a/b.bin", b"third")
    assert store.read_bytes("a/b.bin") == b"third"
    store.replace("a/b.bin", file)
    assert store.read_bytes("a/b.bin") == BIG
    store.delete("a/b.bin")
    store.delete("a/b.bin")
    assert not store.exists("a/b.bin")
    assert store.put_if_absent("a/b.bin", b"")
    assert store.size("a/b.bin") == 0
    assert store.read_bytes("a/b.bin") == b""
    store.replace("a/b.bin", BIG)
    for read in (lambda: store.read_bytes("a/b.bin", 1000), lambda: list(store.chunks("a/b.bin", 1000))):
        with pytest.raises(StorageError, match="more than 1000 bytes"):
            read()


def test_missing_files_are_our_error(store: Store) -> None:
    with pytest.raises(StorageError):
        store.read_bytes("nothing")
    assert store.list("") == []
    assert store.list("nowhere") == []


def test_listing_is_sorted_and_one_level(store: Store) -> None:
    for key in ("b/2", "b/10", "a", "b/c/3"):
        store.put_if_absent(key, b"x")
    assert store.list("") == ["a"]
    assert store.list("b") == store.list("b/") == ["b/10", "b/2"]
    assert {key: size for key, (size, _) in store.stats("b").items()} == {"b/10": 1, "b/2": 1}
    assert store.stats("nowhere") == {}


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a\\b", "a\0b"])
def test_keys_cannot_leave_the_store(store: Store, key: str) -> None:
    for use in (store.exists, store.size, store.read_bytes, store.delete, checked_key):
        with pytest.raises(StorageError, match="unsafe"):
            use(key)
    for put in (store.put_if_absent, store.replace):
        with pytest.raises(StorageError, match="unsafe"):
            put(key, b"x")


@given(st.text())
def test_a_checked_key_stays_below_its_root(key: str) -> None:
    root = Path("/root/of/store")
    try:
        path = Path(os.path.normpath(root / checked_key(key)))
    except StorageError:
        return
    assert path.is_relative_to(root)


def contend(put: Callable[[int], bool], executor: ThreadPoolExecutor | ProcessPoolExecutor, n: int) -> list[int]:
    return [i for i, won in enumerate(executor.map(put, range(n))) if won]


class Put:
    """One contender's put of its own content (picklable)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, contender: int) -> bool:
        return LocalStore(self.root).put_if_absent("records/x.json", bytes([contender]) * 300_000)


def test_one_of_many_threads_wins(tmp_path: Path) -> None:
    for attempt in range(5):
        root = tmp_path / str(attempt)
        with ThreadPoolExecutor(8) as threads:
            winners = contend(Put(root), threads, 16)
        assert len(winners) == 1
        assert LocalStore(root).read_bytes("records/x.json") == bytes(winners) * 300_000
        assert [path.name for path in (root / "records").iterdir()] == ["x.json"]


def test_one_of_many_processes_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    with ProcessPoolExecutor(4, mp_context=context) as processes:
        winners = contend(Put(tmp_path), processes, 12)
    assert len(winners) == 1
    assert LocalStore(tmp_path).read_bytes("records/x.json") == bytes(winners) * 300_000


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.replace("x", b"0" * 200_000)
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(lambda: [store.replace("x", bytes([48 + i % 10]) * 200_000) for i in range(60)])
        seen = 0
        while not writing.done():
            data = store.read_bytes("x")
            assert data == data[:1] * 200_000
            seen += 1
        writing.result()
    assert seen > 0


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    for put in (store.put_if_absent, store.replace):
        with pytest.raises(FileNotFoundError):
            put("a/b", tmp_path / "missing")
    assert list((tmp_path / "root" / "a").iterdir()) == []


def test_only_old_temporary_files_are_swept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_if_absent("shards/x.tar", b"x")
    old, young = (tmp_path / "shards" / f"{TEMPORARY_PREFIX}{name}" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(tmp_path / "shards/x.tar", (time.time() - 7200,) * 2)
    assert store.list("shards") == ["shards/x.tar"]
    assert store.sweep() == 1
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [young.name, "x.tar"]


def test_places_open_by_their_scheme(tmp_path: Path) -> None:
    assert open_store(str(tmp_path)).local_path == tmp_path
    assert open_store(f"file://{tmp_path}").uri == str(tmp_path)
    remote = open_store("memory://bucket/folder/")
    assert (remote.uri, remote.local_path) == ("memory://bucket/folder", None)
    assert (scheme_of("s3://b/x"), scheme_of("/a/b"), scheme_of("out/a:b")) == ("s3", "", "")
    with pytest.raises(StorageError, match="cannot open nosuch"):
        open_store("nosuch://x")


def test_a_relative_place_is_fixed_when_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("out/x")
    monkeypatch.chdir("/")
    store.put_if_absent("a", b"x")
    assert (tmp_path / "out/x/a").read_bytes() == b"x"


def test_put_if_absent_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("os.link", refuse)
    store = LocalStore(tmp_path)
    assert store.put_if_absent("a/b", b"first")
    assert not store.put_if_absent("a/b", b"second")
    assert store.read_bytes("a/b") == b"first"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
