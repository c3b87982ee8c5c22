"""The opener: what it takes, and that nothing else in the package opens what may be a stranger's."""

from __future__ import annotations

import ast
import gzip
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import xreal_synth
from xreal_synth.errors import StorageError
from xreal_synth.opening import UnreadableError, hashed_bytes, hashed_copy, read_file, roots_of, unzipped
from xreal_synth.storage import LocalStore, sha256_bytes

PACKAGE = Path(xreal_synth.__file__).parent
FORBIDDEN = {
    "Image.open", "tarfile.open", "json.load", "json.loads", "pq.read_table", "pq.ParquetFile", "pa.ipc.open_file",
    "gzip.open", "gzip.decompress", "zipfile.ZipFile", "csv.DictReader", "pickle.load", "pickle.loads", "yaml.load",
    "np.load", "pd.read_csv", "pd.read_parquet", "eval", "exec",
}  # fmt: skip
OWN = {
    "opening.py": FORBIDDEN,
    "dataset/tar.py": {"tarfile.open"},  # written, to a file of its own
    "prepare/publish.py": {"tarfile.open"},
    "engine/job_package.py": {"zipfile.ZipFile"},
}


def calls(source: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every call, but for values that are made plain by way of JSON."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            inner = node.args[0] if node.args else None
            if name == "json.loads" and isinstance(inner, ast.Call) and ast.unparse(inner.func) == "json.dumps":
                continue
            yield node.lineno, name


def test_nothing_else_opens_what_may_be_a_strangers():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 250
    found = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path in files
        for line, name in calls(path.read_text(encoding="utf-8"))
        if name in FORBIDDEN - OWN.get(path.relative_to(PACKAGE).as_posix(), set())
    ]
    assert found == []


def test_the_scan_sees_what_it_looks_for():
    text = "import json\nx = json.loads(data)\ny = json.loads(json.dumps(x))\nImage.open(f)\n"
    assert [name for _, name in calls(text) if name in FORBIDDEN] == ["json.loads", "Image.open"]


def linked(tmp_path: Path) -> Path:
    """A folder `given` with links of every kind, beside a file that is not its own."""
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "given"
    (folder / "sub").mkdir(parents=True)
    (folder / "plain").write_bytes(b"plain")
    (folder / "inside").symlink_to("plain")
    (folder / "sub" / "up").symlink_to("../plain")
    (folder / "out").symlink_to("../secret")
    (folder / "far").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("missing")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    return folder


def test_links_inside_a_folder_are_read_and_others_are_not(tmp_path):
    store = LocalStore(linked(tmp_path))
    for key in ("plain", "inside", "sub/up"):
        assert store.read_bytes(key) == b"".join(store.chunks(key)) == b"plain"
        assert store.read_range(key, 1, 3) == b"la"
    for key in ("out", "far", "loop", "nowhere", "pipe", "folder", "folder/secret", "sub"):
        with pytest.raises(StorageError):
            store.read_bytes(key)
        with pytest.raises(StorageError):
            list(store.chunks(key))
        with pytest.raises(StorageError):
            store.read_range(key, 0, 1)
    assert store.list("") == ["far", "inside", "loop", "nowhere", "out", "plain"]
    with pytest.raises(StorageError, match="leads out"):
        store.list("folder")


def test_the_users_own_top_may_be_a_link(tmp_path):
    top = tmp_path / "top"
    top.symlink_to(linked(tmp_path))
    store = LocalStore(top)
    assert store.read_bytes("inside") == b"plain"
    store.replace("sub/new", b"x")
    assert (tmp_path / "given" / "sub" / "new").read_bytes() == b"x"


@pytest.mark.parametrize("kept", ["hub/blobs", "repo/.dvc/cache/files/md5", "repo/.git/annex/objects"])
def test_links_into_a_tools_own_store_are_read(tmp_path, kept):
    blob = tmp_path / kept / "ab12"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"image")
    folder = tmp_path / ("hub/snapshots/main" if kept.startswith("hub") else "repo/data/images")
    folder.mkdir(parents=True)
    (folder / "a.png").symlink_to(os.path.relpath(blob, folder))
    assert LocalStore(folder).list("") == ["a.png"]
    assert LocalStore(folder).read_bytes("a.png") == b"image"


def test_a_store_that_is_itself_a_link_opens_nothing(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_bytes(b"secret")
    folder = tmp_path / "hub" / "snapshots" / "main"
    folder.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").symlink_to(tmp_path / "home")
    (folder / "a.png").symlink_to("../../blobs/secret")
    with pytest.raises(StorageError, match="leads out"):
        LocalStore(folder).read_bytes("a.png")


def test_further_folders_can_be_named(tmp_path, monkeypatch):
    folder = linked(tmp_path)
    monkeypatch.setenv("XREAL_LINKS", str(tmp_path))
    assert LocalStore(folder).read_bytes("out") == b"secret"


@pytest.mark.parametrize("write", ["put_if_absent", "replace", "delete"])
def test_nothing_is_written_or_deleted_through_a_link(tmp_path, write):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "r.tar").write_bytes(b"precious")
    root = tmp_path / "set"
    root.mkdir()
    (root / "shards").symlink_to(victim)
    store = LocalStore(root)
    for key in ("shards/r.tar", "shards/new.tar"):
        with pytest.raises(StorageError, match="link"):
            store.delete(key) if write == "delete" else getattr(store, write)(key, b"x")
    assert [path.name for path in victim.iterdir()] == ["r.tar"]
    assert (victim / "r.tar").read_bytes() == b"precious"


def test_a_link_under_the_final_name_is_replaced_not_followed(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "report.html").symlink_to(tmp_path / "victim")
    LocalStore(tmp_path / "set").replace("report.html", b"report")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "set" / "report.html").is_symlink()


def test_a_file_is_read_up_to_its_limit(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"12345")
    assert read_file(file, 5) == b"12345"
    with pytest.raises(UnreadableError, match="more than 4 bytes"):
        read_file(file, 4)
    with pytest.raises(StorageError, match="more than 4 bytes"):
        LocalStore(tmp_path).read_bytes("x", 4)


def test_what_was_hashed_is_what_is_read(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"weights")
    sha256 = sha256_bytes(b"weights")
    with hashed_copy(file, sha256) as copy:
        file.write_bytes(b"changed")
        assert copy.read_bytes() == b"weights"
    with pytest.raises(UnreadableError, match="another file"):
        hashed_bytes(file, sha256)
    with pytest.raises(UnreadableError, match="another file"), hashed_copy(file, sha256):
        pass


def test_gzip_of_several_members_and_padding_is_whole():
    assert unzipped(gzip.compress(b"a") + gzip.compress(b"b") + b"\0" * 9) == b"ab"
    with pytest.raises(UnreadableError, match="too early"):
        unzipped(gzip.compress(b"abc" * 1000)[:-9])


def test_roots_are_where_a_folder_really_lies(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert roots_of(tmp_path / "link")[0] == tmp_path / "real"


def test_a_log_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_bytes(b"precious\n")
    store = LocalStore(tmp_path / "set")
    with store.append("logs/a.jsonl") as file:
        file.write(b"one\n")
    with store.append("logs/a.jsonl") as file:
        file.write(b"two\n")
    assert store.read_bytes("logs/a.jsonl") == b"one\ntwo\n"
    (tmp_path / "set" / "logs" / "b.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        store.append("logs/b.jsonl")
    assert (tmp_path / "victim").read_bytes() == b"precious\n"
