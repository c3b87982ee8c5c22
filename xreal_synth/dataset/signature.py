"""signature.json: who stands for a dataset. Ed25519 over its head and its records, which hold every shard's hashes.

A record can be forged by whoever can write a dataset, with all hashes right; a signature cannot, without the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from xreal_synth.dataset.names import DATASET, RECORDS
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.opening import UnreadableError, parse_json, read_file
from xreal_synth.storage import Store, sha256_bytes

SIGNATURE: Final = "signature.json"
_MAX_KEY: Final = 65_536
_WANTED: Final = (
    "an Ed25519 key in a PEM file (openssl genpkey -algorithm ed25519 -out key.pem; "
    "openssl pkey -in key.pem -pubout -out public.pem)"
)


def sign(store: Store, key: Path) -> str:
    """Signs what is there with the Ed25519 private key in a PEM file; the public key, hex. Raises DatasetError for a
    key that is none, StorageError without the package cryptography."""
    private = _loaded(key, lambda serial, data: serial.load_pem_private_key(data, password=None))
    public = private.public_key().public_bytes_raw().hex()
    content = {"format_version": 1, "public_key": public, "signature": private.sign(_signed(store)).hex()}
    store.replace(SIGNATURE, (json.dumps(content, indent=1) + "\n").encode())
    return str(public)


def signature_problems(store: Store, key: Path) -> list[str]:
    """Why the dataset is not as the owner of this public key, a PEM file, signed it; nothing if it is.

    Raises as `sign`.
    """
    public = _loaded(key, lambda serial, data: serial.load_pem_public_key(data))
    from cryptography.exceptions import InvalidSignature

    if not store.exists(SIGNATURE):
        return ["not signed"]
    try:
        content = parse_json(store.read_bytes(SIGNATURE, _MAX_KEY))
        public.verify(bytes.fromhex(content["signature"]), _signed(store))
    except InvalidSignature:
        return ["not what this key's owner signed: another key's, or the dataset has changed since"]
    except (StorageError, ValueError, KeyError, TypeError) as error:
        return [f"no signature ({error})"]
    return []


def _signed(store: Store) -> bytes:
    """A line for dataset.json and each record: name and sha256."""
    lines = (f"{key} {sha256_bytes(store.read_bytes(key))}\n" for key in (DATASET, *store.list(RECORDS)))
    return f"xreal-synth dataset\n{''.join(lines)}".encode()


def _loaded(path: Path, load: Callable[[Any, bytes], Any]) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise StorageError(
            found="signatures need the package cryptography", hint="pip install 'xreal-synth[sign]'"
        ) from error
    try:
        key = load(serialization, read_file(path, _MAX_KEY))
    except (OSError, UnreadableError, ValueError, TypeError) as error:
        raise DatasetError(where=str(path), found=f"no key: {error}", wanted=_WANTED) from error
    if not isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        raise DatasetError(where=str(path), found=f"a key of another kind ({type(key).__name__})", wanted=_WANTED)
    return key
