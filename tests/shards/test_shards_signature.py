from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as serial
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from xreal_synth.errors import DatasetError
from xreal_synth.shards.head import head_bytes
from xreal_synth.shards.phantoms import phantom_groups, phantom_head, publish_phantoms
from xreal_synth.shards.signature import SIGNATURE, sign, signature_problems
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


def pems(folder: Path, name: str, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> tuple[Path, Path]:
    """Private and public key as files."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(
        key.private_bytes(serial.Encoding.PEM, serial.PrivateFormat.PKCS8, serial.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serial.Encoding.PEM, serial.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "set")
    store.put_if_absent("dataset.json", head_bytes(phantom_head()))
    publish_phantoms(store, ShardPlan("phantoms", 0, 0, 4), phantom_groups(0, 4))
    return store


def test_only_the_owner_of_the_key_signs(store, tmp_path):
    private, public = pems(tmp_path, "mine", ed25519.Ed25519PrivateKey.generate())
    other, others = pems(tmp_path, "other", ed25519.Ed25519PrivateKey.generate())
    assert signature_problems(store, public) == ["not signed"]
    assert len(bytes.fromhex(sign(store, private))) == 32
    assert signature_problems(store, public) == []
    (told,) = signature_problems(store, others)
    assert "another key's" in told
    sign(store, other)
    assert signature_problems(store, public) != []


def test_what_changed_since_is_no_longer_signed(store, tmp_path):
    private, public = pems(tmp_path, "mine", ed25519.Ed25519PrivateKey.generate())
    sign(store, private)
    publish_phantoms(store, ShardPlan("phantoms", 1, 4, 8), phantom_groups(4, 8))
    (told,) = signature_problems(store, public)
    assert "has changed" in told
    store.replace(SIGNATURE, json.dumps({"signature": "zz"}).encode())
    (told,) = signature_problems(store, public)
    assert "no signature" in told


def test_other_keys_are_refused(store, tmp_path):
    private, public = pems(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    (tmp_path / "none.pem").write_text("not a key")
    for path in (private, tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(DatasetError, match="Ed25519"):
            sign(store, path)
    with pytest.raises(DatasetError, match="Ed25519"):
        signature_problems(store, public)
    assert not store.exists(SIGNATURE)
