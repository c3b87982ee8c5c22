"""The origin of an image: synthetic, edited from a real image, or a real image beside its edited ones."""

from __future__ import annotations

import hmac
import os
import secrets
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Final

from xreal_synth.cache import home_folder
from xreal_synth.errors import StorageError
from xreal_synth.storage import LocalStore
from xreal_synth.types import Role, SampleMeta

KEY_VARIABLE: Final = "XREAL_PSEUDONYM_KEY"
_KEY_FILE: Final = "pseudonyms.key"
IMAGES: Final = "images"
"""The anatomy source whose images are real ones."""


class Origin(StrEnum):
    """The origin of an image's pixels."""

    synthetic = "synthetic"
    edited = "edited from a real film"
    real = "a real film"


NOTICES: Final = {
    Origin.synthetic: "Synthetic chest X-ray, made by a model. For research; not for diagnosis. "
    "It does not show a patient.",
    Origin.edited: "A patient's chest X-ray, edited by a model. For research; not for diagnosis.",
    Origin.real: "A patient's chest X-ray as it is, beside images edited from it. For research; not for diagnosis.",
}


def origin_of(meta: SampleMeta) -> Origin:
    """Synthetic unless the anatomy is a real image; of those, the healthy member is the image itself."""
    if meta.anatomy_source != IMAGES:
        return Origin.synthetic
    return Origin.real if meta.member == Role.healthy else Origin.edited


def subject_id(source: str, anatomy_id: str, digest: str, group: int) -> str:
    """Names whose chest an image shows, never who: images with the same id must not be split apart.

    A made-up anatomy is known by recipe digest and group; a real image, since several groups may be edited from one,
    by a hash of digest and name. Whoever has the digest can try names out: what leaves this machine has `pseudonym`.
    """
    if source == IMAGES:
        return f"IMAGE-{hmac.digest(digest.encode(), anatomy_id.encode(), 'sha256').hex()[:16]}"
    return f"SYNTHETIC-{digest[:8]}-{group:010d}"


def pseudonym(meta: SampleMeta) -> str:
    """`subject_id` of an image, for a real one under this user's own key. Raises StorageError."""
    salt = meta.digest
    if meta.anatomy_source == IMAGES:
        salt = hmac.digest(pseudonym_key(), meta.digest.encode(), "sha256").hex()
    return subject_id(meta.anatomy_source, meta.anatomy_id, salt, meta.group)


@cache
def pseudonym_key() -> bytes:
    """What this user's pseudonyms are made with: XREAL_PSEUDONYM_KEY, or 32 random bytes that are kept, from the
    first use on, in $XDG_CONFIG_HOME/xreal-synth/pseudonyms.key for this user alone. Raises StorageError.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given:
        return given.encode()
    base = os.environ.get("XDG_CONFIG_HOME")
    store = LocalStore((Path(base) if base else home_folder() / ".config") / "xreal-synth")
    try:
        Path(store.uri).mkdir(parents=True, exist_ok=True, mode=0o700)
        store.put_if_absent(_KEY_FILE, secrets.token_bytes(32))
        key = store.read_bytes(_KEY_FILE, 4096)
    except (OSError, StorageError) as error:
        raise StorageError(
            where=store.uri, found=f"no key for pseudonyms of real images: {error}", wanted="a folder of this user's",
            hint=f"make it writable, or set {KEY_VARIABLE} to a secret of your own",
        ) from error  # fmt: skip
    return key
