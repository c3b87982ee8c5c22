from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization as serial
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.head import head_bytes
from xreal_synth.dataset.signature import SIGNATURE, sign, signature_problems
from xreal_synth.errors import DatasetError
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan


def pems(folder: Path, name: str, key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> tuple[Path, Path]:
    """Private and public key as files."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(serial.Encoding.PEM, serial.PrivateFormat.PKCS8, serial.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(serial.Encoding.PEM, serial.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "set")
    store.put_if_absent("dataset.json", head_bytes(fake_head()))
    publish_fakes(store, ShardPlan("fakes", 0, 0, 4), fake_groups(0, 4))
    return store


def test_only_the_owner_of_the_key_signs(store, tmp_path):
    private, public = pems(tmp_path, "mine", ed25519.Ed25519PrivateKey.generate())
    other, others = pems(tmp_path, "other", ed25519.Ed25519PrivateKey.generate())
    assert signature_problems(store, public) == ["not signed"]
    assert len(bytes.fromhex(sign(store, private))) == 32
    assert signature_problems(store, public) == []
    (reported,) = signature_problems(store, others)
    assert "another key's" in reported
    sign(store, other)
    assert signature_problems(store, public) != []


def test_what_changed_since_is_no_longer_signed(store, tmp_path):
    private, public = pems(tmp_path, "mine", ed25519.Ed25519PrivateKey.generate())
    sign(store, private)
    publish_fakes(store, ShardPlan("fakes", 1, 4, 8), fake_groups(4, 8))
    (reported,) = signature_problems(store, public)
    assert "has changed" in reported
    store.replace(SIGNATURE, json.dumps({"signature": "zz"}).encode())
    (reported,) = signature_problems(store, public)
    assert "no signature" in reported


def test_other_keys_are_refused(store, tmp_path):
    private, public = pems(tmp_path, "rsa", rsa.generate_private_key(65537, 2048))
    (tmp_path / "none.pem").write_text("not a key")
    for path in (private, tmp_path / "none.pem", tmp_path / "missing.pem"):
        with pytest.raises(DatasetError, match="Ed25519"):
            sign(store, path)
    with pytest.raises(DatasetError, match="Ed25519"):
        signature_problems(store, public)
    assert not store.exists(SIGNATURE)
