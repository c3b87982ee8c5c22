"""A JSON file of lists that is written as they grow, in no more memory than one entry."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO


class JsonLists:
    """A JSON object: the fields of `head`, then lists, each waiting in a file beside it until the block ends.

    `head` is written last, with what has been added to it in the block.

    Lists named in `lists` are there even if empty, others from their first entry on, in that order.
    """

    def __init__(self, path: Path, head: Mapping[str, object], lists: Iterable[str] = ()) -> None:
        self._path, self._head = path, head
        self._waiting: dict[str, IO[str]] = {}
        for name in lists:
            self._open(name)

    def __enter__(self) -> JsonLists:
        return self

    def add(self, name: str, entry: Mapping[str, object]) -> None:
        """Adds an entry to the list called `name`."""
        file = self._waiting.get(name) or self._open(name)
        file.write(",\n" if file.tell() else "\n")
        file.write(json.dumps(entry, separators=(",", ":"), allow_nan=False))

    def __exit__(self, *_: object) -> None:
        with self._path.open("w", encoding="utf-8", newline="\n") as out:
            out.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in self._head.items()))
            for number, (name, file) in enumerate(self._waiting.items()):
                with file:
                    out.write((",\n" if number else "") + f"{json.dumps(name)}: [")
                    file.seek(0)
                    shutil.copyfileobj(file, out)
                    out.write("\n]")
                self._rest(name).unlink()
            out.write("}\n")

    def _rest(self, name: str) -> Path:
        return self._path.with_suffix(f".{name}")

    def _open(self, name: str) -> IO[str]:
        file = self._waiting[name] = self._rest(name).open("w+", encoding="utf-8", newline="\n")
        return file
