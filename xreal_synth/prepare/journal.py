"""The journal of what is already prepared: a line an image, so that a stopped run goes on and nothing is made twice."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

from annotated_types import Ge
from pydantic import StringConstraints, TypeAdapter

from xreal_synth.errors import TrainingError
from xreal_synth.opening import UnreadableError, parse_json, read_file
from xreal_synth.storage import LocalStore

JOURNAL: Final = "prepared.jsonl"


@dataclass(frozen=True, slots=True)
class Done:
    """An image whose image and mask are written: its source's width and height, and the mask's certainty.

    `sha256` is of the image file: two images of one are the same image. `content` is of what it was made of, see
    `content_of`. `view`, `age` and `sex` are the image's own (DICOM). `look` is its small picture, see `grey.look_of`.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "strict": True}

    key: Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+$")]
    width: Annotated[int, Ge(1)]
    height: Annotated[int, Ge(1)]
    sha256: str
    score: float | None = None
    view: str = ""
    age: str = ""
    sex: str = ""
    content: str = ""
    look: str = ""


class PrepareJournal:
    """Images done in `folder`, read when opened and appended to; a last line that was cut off does not count.

    A line that is damaged does not count either: `damaged` counts them, and their images are made again. Raises
    TrainingError if the folder holds images prepared with other settings, or with settings that cannot be read, or
    anything else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.done: dict[str, Done] = {}
        self.damaged = 0
        self._folder, self._settings = folder, settings
        path, lines = folder / JOURNAL, list[bytes]()
        if path.exists():
            whole, torn = _checked(path, settings)
            lines = whole.split(b"\n") if whole else []
            if torn:
                os.truncate(path, len(whole) + bool(whole))
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TrainingError(
                found=f"{folder} holds something else than prepared images",
                wanted="a new or empty folder, or one that prepare was stopped in",
                hint="give another --out",
            )
        folder.mkdir(parents=True, exist_ok=True)
        for line in lines[1:]:
            try:
                done = TypeAdapter(Done).validate_json(line)
            except ValueError:
                self.damaged += 1
            else:
                self.done[done.key] = done
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._write({"settings": settings})

    def add(self, done: Done) -> None:
        """Notes a finished image, written through before it returns."""
        self._write(asdict(done))
        self.done[done.key] = done

    def keep(self, keys: Collection[str]) -> None:
        """Forgets all others; the file is replaced whole."""
        self.done = {key: done for key, done in self.done.items() if key in keys}
        lines = [{"settings": self._settings}, *map(asdict, self.done.values())]
        LocalStore(self._folder).replace(JOURNAL, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def close(self) -> None:
        """Closes the file; what was added stays."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _checked(path: Path, settings: dict[str, Any]) -> tuple[bytes, bytes]:
    """The whole lines of a journal of these settings, and what is left of one that was cut off."""
    try:
        whole, _, torn = read_file(path).rpartition(b"\n")
        former = parse_json(whole.partition(b"\n")[0])["settings"] if whole else settings
        changed = [name for name in settings if former.get(name) != settings[name]]
    except (UnreadableError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            where=str(path),
            found=f"what was prepared here cannot be read: its first line holds no settings ({error})",
            wanted="the settings of these images in its first line, and then a line an image",
            hint="give another --out, or empty the folder to prepare all images again",
        ) from error
    if changed:
        reported = "; ".join(f"{name} {former.get(name)!r}, now {settings[name]!r}" for name in sorted(changed))
        raise TrainingError(
            where=str(path.parent),
            found=f"images prepared with other settings: {reported}",
            wanted="the same settings, so that all images are made alike",
            hint="give the former settings, or another --out",
        )
    return whole, torn
