"""Object storage over the wire: conditional writes, parts, lost answers, failures, credentials."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from object_store import BUCKET, KEY_ID, SECRET, ObjectStore

from xreal_synth import storage
from xreal_synth.errors import StorageError
from xreal_synth.storage import RemoteStore, open_store, scrubbed, sha256_file, sha256_of, with_retries

pytestmark = pytest.mark.usefixtures("object_store")


@pytest.fixture
def store(tmp_path: Path) -> RemoteStore:
    return RemoteStore(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that goes up in parts: 11 MiB in parts of 5, the least that S3 takes."""
    monkeypatch.setattr(storage, "PART_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(11 << 20))
    return path


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before a write sees nothing: as when another writer comes in between."""
    monkeypatch.setattr(RemoteStore, "exists", lambda self, key: False)


def test_the_service_itself_refuses_a_second_write(store, monkeypatch):
    unseen(monkeypatch)
    assert store.put_if_absent("records/a.json", b"first")
    assert not store.put_if_absent("records/a.json", b"second")
    assert store.read_bytes("records/a.json") == b"first"


def test_one_of_many_wins(store, monkeypatch):
    unseen(monkeypatch)

    def put(writer: int) -> bool:
        return store.put_if_absent("dataset.json", bytes([writer]) * 1000)

    with ThreadPoolExecutor(8) as threads:
        won = [writer for writer, first in enumerate(threads.map(put, range(12))) if first]
    assert len(won) == 1
    assert store.read_bytes("dataset.json") == bytes(won) * 1000


def test_a_large_file_goes_up_in_parts_and_only_once(store, large, object_store, monkeypatch):
    unseen(monkeypatch)
    before = object_store.seen("PUT", "partNumber=")
    assert store.put_if_absent("shards/a.tar", large)
    assert object_store.seen("PUT", "partNumber=") - before == 3
    assert sha256_of(store, "shards/a.tar") == sha256_file(large)
    other = large.with_name("other")
    other.write_bytes(os.urandom(11 << 20))
    assert not store.put_if_absent("shards/a.tar", other)
    assert sha256_of(store, "shards/a.tar") == sha256_file(large)
    store.replace("shards/a.tar", other)
    assert sha256_of(store, "shards/a.tar") == sha256_file(other)
    assert store.sweep(older_than_s=-60) == 0, "a refused upload leaves no parts behind"


def test_parts_of_a_killed_writer_are_swept(store):
    import boto3

    client = boto3.client("s3")
    prefix = store.uri.removeprefix(f"s3://{BUCKET}/")
    for key in (f"{prefix}/shards/half.tar", f"{prefix}-other/half.tar"):
        client.create_multipart_upload(Bucket=BUCKET, Key=key)
    assert store.list("shards") == []
    assert store.sweep(older_than_s=1e9) == 0, "moto says of every upload that it began in 2010"
    assert store.sweep() == 1
    (left,) = client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    assert left["Key"] == f"{prefix}-other/half.tar"
    client.abort_multipart_upload(Bucket=BUCKET, Key=left["Key"], UploadId=left["UploadId"])


@pytest.mark.parametrize("key", ["tables/a.parquet", "shards/a.tar"])
def test_a_service_that_fails_is_asked_again(store, large, object_store, key):
    data = large if key.endswith("tar") else b"table"
    with object_store.failing(1, "PUT", key, "unavailable") as hit:
        assert store.put_if_absent(key, data)
    assert len(hit) == 1
    with object_store.failing(1, "GET", key, "unavailable") as hit:
        assert store.read_bytes(key) == (large.read_bytes() if isinstance(data, Path) else data)
    assert len(hit) == 1


def test_a_service_that_stays_away_is_our_error(store, object_store):
    def put() -> bool:
        return store.put_if_absent("records/b.json", b"x")

    with (
        object_store.failing(99, "PUT", "records/b.json", "unavailable") as hit,
        pytest.raises(StorageError, match="writing the record failed") as reported,
    ):
        with_retries("writing the record", put, tries=2, wait_s=0)
    assert len(hit) >= 4
    assert SECRET not in str(reported.value)
    assert not store.exists("records/b.json")
    assert put()
    with object_store.failing(99, "HEAD", "dataset.json", "unavailable"), pytest.raises((StorageError, OSError)):
        store.exists("dataset.json")


def test_a_lost_answer_is_reported_as_there_already(store, object_store):
    """The write happened, its answer did not arrive; the driver's second try finds its own object."""
    with object_store.failing(1, "PUT", "records/c.json", "lost answer") as hit:
        first = store.put_if_absent("records/c.json", b"mine")
    assert len(hit) == 1
    assert first is False
    assert store.read_bytes("records/c.json") == b"mine"


def test_what_another_machine_writes_is_seen_at_once(store):
    other = RemoteStore(store.uri)
    assert store.list("records") == []
    assert not store.exists("records/d.json")
    other.put_if_absent("records/d.json", b"x")
    assert store.exists("records/d.json")
    assert store.list("records") == ["records/d.json"]
    ((_, written),) = store.stats("records").values()
    assert abs(written - time.time()) < 60


@pytest.mark.parametrize(
    "change",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
        {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_PROFILE": None},
    ],
)
def test_no_service_and_no_credentials_are_our_errors(change, monkeypatch, tmp_path):
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name, value in change.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(StorageError, match="wanted: a place that answers") as reported:
            open_store(f"s3://{BUCKET}/x").read_bytes("dataset.json")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    assert SECRET not in str(reported.value)
    assert KEY_ID not in str(reported.value)


@pytest.mark.parametrize("uri", [f"s3://{KEY_ID}:{SECRET}@{BUCKET}/x", f"memory://user:{SECRET}@host/x"])
def test_credentials_in_a_place_are_refused(uri):
    with pytest.raises(StorageError, match="credentials in a") as reported:
        open_store(uri)
    assert SECRET not in str(reported.value)


def test_messages_are_scrubbed_of_the_environments_secrets():
    assert scrubbed(f"denied for {KEY_ID} with {SECRET}!") == "denied for *** with ***!"


def test_a_missing_bucket_is_reported(object_store: ObjectStore):
    place = open_store("s3://no-such-bucket/x")
    assert not place.exists("dataset.json")
    assert place.list("records") == []
    with pytest.raises((StorageError, OSError)):
        place.put_if_absent("dataset.json", b"x")
