"""Single samples out of a tar."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.fakes import fake_groups
from tests.doubles.tars import build_tar
from xreal_synth.dataset.names import SUFFIXES
from xreal_synth.dataset.offsets import sample_members, sample_offsets
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.errors import DatasetError

SAMPLES = fake_groups(0, 6)
KEYS = tuple(sample.meta.key for sample in SAMPLES)
DATA = build_tar(SAMPLES)


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "one.tar"
    path.write_bytes(DATA)
    return path


def test_every_sample_is_where_its_offset_says(tar: Path) -> None:
    offsets = sample_offsets(tar, "one", KEYS)
    assert len(offsets) == len(SAMPLES) + 1
    for i, sample in enumerate(SAMPLES):
        encoded = encode_sample(sample)
        part = DATA[offsets[i] : offsets[i + 1]]
        members = sample_members(part, encoded.key, encoded.row.sha256, "one")
        assert tuple(members) == SUFFIXES
        assert tuple(members.values()) == encoded.members


@pytest.mark.parametrize(
    ("keys", "found"),
    [(KEYS[:-1], "more members"), ((*KEYS, "0000000009-h"), "the tar's end"), (KEYS[::-1], "-h.png'")],
)
def test_other_keys_are_refused(tar: Path, keys: tuple[str, ...], found: str) -> None:
    with pytest.raises(DatasetError, match=found):
        sample_offsets(tar, "one", keys)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no tar" * 200)
    with pytest.raises(DatasetError, match="cannot be read as a tar"):
        sample_offsets(tmp_path / "x", "x", KEYS)


def test_another_sample_and_other_bytes_are_refused(tar: Path) -> None:
    offsets = sample_offsets(tar, "one", KEYS)
    part, sha256 = DATA[: offsets[1]], encode_sample(SAMPLES[0]).row.sha256
    with pytest.raises(DatasetError, match=KEYS[1]):
        sample_members(part, KEYS[1], sha256, "one")
    with pytest.raises(DatasetError, match=f"{KEYS[0]}, {KEYS[1]}"):
        sample_members(DATA[: offsets[2]], KEYS[0], sha256, "one")
    with pytest.raises(DatasetError, match="cut off"):
        sample_members(part[:-1024], KEYS[0], sha256, "one")
    altered = part.replace(b'"seed":7', b'"seed":8')
    with pytest.raises(DatasetError, match="not those its table's row names"):
        sample_members(altered, KEYS[0], sha256, "one")
