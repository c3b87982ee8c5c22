"""A store in memory for runs whose images nobody makes: records are marks, logs are counted, the rest is kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from xreal_synth.dataset.names import LOGS, RECORDS, record_key, stem_of
from xreal_synth.errors import StorageError
from xreal_synth.opening import MAX_FILE


class MarkStore:
    """`published(shard)` stands for tar, table and record; operations are counted by name."""

    def __init__(self, name: str, shards: int) -> None:
        self._name = name
        self._published = bytearray(shards)
        self._files: dict[str, bytes] = {}
        self.operations: Counter[str] = Counter()
        self.log_bytes: dict[str, int] = {}
        self.again = 0

    @property
    def uri(self) -> str:
        return "memory://simulated"

    @property
    def local_path(self) -> Path | None:
        return None

    def published(self, shard: int) -> None:
        self.again += self._published[shard]
        self._published[shard] = 1

    def has(self, shard: int) -> bool:
        return bool(self._published[shard])

    @property
    def records(self) -> int:
        return sum(self._published)

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        self.operations["size"] += 1
        data = self._files.get(key)
        return None if data is None else len(data)

    def read_bytes(self, key: str, limit: int = MAX_FILE) -> bytes:
        self.operations["read"] += 1
        if key not in self._files:
            raise StorageError(found=f"no {key}")
        return self._files[key]

    def read_range(self, key: str, start: int, stop: int) -> bytes:
        data = self.read_bytes(key)[start:stop]
        if len(data) != stop - start:
            raise StorageError(found=f"{key} ends too early")
        return data

    def chunks(self, key: str, limit: int | None = None) -> Iterator[bytes]:
        yield self.read_bytes(key)

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        if key in self._files:
            return False
        self.replace(key, data)
        return True

    def replace(self, key: str, data: bytes | Path) -> None:
        self.operations["write"] += 1
        content = data if isinstance(data, bytes) else data.read_bytes()
        if key.startswith(f"{LOGS}/"):
            self.log_bytes[key] = len(content)
        else:
            self._files[key] = content

    def delete(self, key: str) -> None:
        self.operations["delete"] += 1
        self._files.pop(key, None)

    def list(self, prefix: str) -> list[str]:
        self.operations["list"] += 1
        if prefix == RECORDS:
            return [record_key(stem_of(self._name, k)) for k, there in enumerate(self._published) if there]
        return sorted(key for key in self._files if key.rpartition("/")[0] == prefix)

    def stats(self, prefix: str) -> dict[str, tuple[int, float]]:
        return {key: (len(self._files.get(key, b"")), 0.0) for key in self.list(prefix)}

    def sweep(self, older_than_s: float = 3600.0) -> int:
        return 0
