"""dataset.json: whose dataset a folder holds. Written first, put-if-absent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from xreal_synth.dataset.names import DATASET, LOGS, PROGRESS, RECIPE, RECORDS, SHARDS, is_name
from xreal_synth.dataset.seal import sealed, unsealed, validated
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store
from xreal_synth.types import FileStamp

FORMAT_VERSION = 1
_BEFORE = (LOGS, PROGRESS, "lost+found")
"""What a run writes before dataset.json, and what a disk has of its own."""

Differences = Callable[[dict[str, object], dict[str, object]], list[str]]


@dataclass(frozen=True, slots=True)
class BundleRef:
    """The bundle a dataset was made with."""

    name: str
    hash: str


@dataclass(frozen=True, slots=True)
class DatasetHead:
    """The contents of dataset.json.

    `settings` are the digested settings in full, `fingerprint` the environment of the first run (each
    record has its own), `shard_samples` the groups of a whole shard, `prompts` the file of prompts that
    an earlier version encoded for this dataset alone (None now), `unchecked` the checks of the quality profile
    that could not run, with the reason, `canary` the hash of the image that the first actor on a GPU made to be held
    against other actors'.
    """

    digest: str
    settings: dict[str, object]
    bundle: BundleRef
    fingerprint: dict[str, str]
    name: str
    shard_samples: int
    format_version: int = FORMAT_VERSION
    prompts: FileStamp | None = None
    unchecked: dict[str, str] = field(default_factory=dict)
    canary: str = ""

    def setting(self, *path: str) -> Any:
        """The digested setting at this path; None where there is none."""
        value: object = self.settings
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    @property
    def real_images(self) -> bool:
        """Whether the images are real ones, as they are or edited."""
        return self.setting("anatomy", "source", "images") is not None

    @property
    def follows_masks(self) -> bool:
        """Whether the images follow their organ masks: real ones do, made ones but for `control: none`."""
        return self.real_images or self.setting("sampling", "control") != "none"


def head_bytes(head: DatasetHead) -> bytes:
    """dataset.json's bytes, with their own checksum; of a canary only where there is one."""
    fields = dataclasses.asdict(head)
    if not head.canary:
        del fields["canary"]
    return sealed(fields)


def parse_head(data: bytes, where: str) -> DatasetHead:
    """The head in a dataset.json; raises DatasetError if it is damaged or of a newer format."""
    fields = unsealed(data, where)
    version = fields.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DatasetError(
            where=where, found=f"dataset format {version}", wanted=f"format {FORMAT_VERSION} or older",
            hint="install a newer xreal-synth",
        )  # fmt: skip
    if not is_name(str(fields.get("name"))):
        raise DatasetError(where=where, found="no dataset's name", wanted="lower-case letters, digits, . _ -")
    return validated(DatasetHead, fields, where, "a dataset head")


def read_head(store: Store) -> DatasetHead:
    """The head of the dataset at this place; raises DatasetError if there is none."""
    if not store.exists(DATASET):
        raise DatasetError(
            where=store.uri, found=f"no {DATASET} here", wanted="a dataset's folder", hint="check the path"
        )
    return parse_head(store.read_bytes(DATASET), f"{store.uri}/{DATASET}")


def check_place(store: Store, head: DatasetHead, differences: Differences) -> DatasetHead | None:
    """The head already at this place, None if it is free; writes nothing. Raises as `open_dataset`."""
    if not store.exists(DATASET):
        return None
    found = read_head(store)
    if found.digest != head.digest:
        reported = differences(found.settings, head.settings)
        if found.bundle != head.bundle:
            reported.append(
                f"bundle: {found.bundle.name} ({found.bundle.hash[:12]}) there, "
                f"{head.bundle.name} ({head.bundle.hash[:12]}) here"
            )
        reported = reported or [f"digest: {found.digest[:12]} there, {head.digest[:12]} here"]
        raise DatasetError(
            where=store.uri, found="this folder holds another recipe's dataset: " + "; ".join(reported),
            wanted="an empty folder, or the dataset of this very recipe",
            hint="give another place with --output, or undo these changes",
        )  # fmt: skip
    if found.name != head.name or found.shard_samples != head.shard_samples:
        raise DatasetError(
            where=store.uri, found=f"this folder's dataset is {found.name} in shards of {found.shard_samples}",
            wanted=f"{head.name} in shards of {head.shard_samples}",
            hint="keep the recipe's name and output.shard_samples, or give another place with --output",
        )  # fmt: skip
    return found


def require_free(store: Store) -> None:
    """Raises DatasetError where there is no dataset, and files or folders that are not a dataset's: what a run
    writes would be taken for theirs, or theirs replaced."""
    if store.list(SHARDS) or store.list(RECORDS):
        raise DatasetError(
            where=store.uri, found=f"shards but no {DATASET}", wanted="an empty folder, or a whole dataset's",
            hint=f"restore {DATASET}, or give another place with --output",
        )  # fmt: skip
    folder = store.local_path
    names = [path.name for path in folder.iterdir()] if folder is not None and folder.is_dir() else store.list("")
    odd = sorted(name for name in names if not name.startswith(".") and name not in _BEFORE)
    if odd:
        raise DatasetError(
            where=store.uri, found=f"{', '.join(odd[:5])}{' and more' if len(odd) > 5 else ''}, and no {DATASET}",
            wanted="an empty folder, or the dataset of this very recipe",
            hint="give another place with --output, or a folder of its own below this one",
        )  # fmt: skip


def open_dataset(store: Store, head: DatasetHead, recipe_text: str, differences: Differences) -> DatasetHead:
    """Claims the place for this dataset, or joins the one that is there, and leaves the recipe beside it.

    `differences(there, here)` names the settings that differ. Returns the head in force, whose
    fingerprint may be another environment's. Raises DatasetError if the place holds another dataset.
    """
    store.put_if_absent(DATASET, head_bytes(head))
    found = check_place(store, head, differences)
    assert found is not None
    text = recipe_text.encode()
    if not store.put_if_absent(RECIPE, text) and store.read_bytes(RECIPE) != text:
        store.replace(RECIPE, text)
    return found
