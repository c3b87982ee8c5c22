from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from tests.doubles.fakes import box_finding, fake, fake_groups
from tests.doubles.tars import build_tar, write_tar
from xreal_synth import findings as vocab
from xreal_synth.dataset.names import SUFFIXES
from xreal_synth.dataset.table import build_table, meta_columns, read_table, sample_schema
from xreal_synth.dataset.tar import TarWriter, encode_sample, read_samples, read_tar
from xreal_synth.errors import DatasetError
from xreal_synth.types import ImageQuality, PlacedFinding, Sample, SampleMeta, ShardPlan, sample_key

SHARD = ShardPlan("fakes", 3, 0, 1000)
text = st.text(st.characters(codec="utf-8"), max_size=12)
number = st.floats(allow_nan=False, allow_infinity=False)


FINDING = (
    b'{"name":"Mass","side":"left","zone":"any","region":"box","size":null,"box_xyxy":[0,0,8,8],'
    b'"box_xyxyn":[0,0,0.25,0.25],"boxes_xyxy":[[0,0,8,8]]}'
)


@st.composite
def boxes(draw: st.DrawFn, height: int, width: int) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))


@st.composite
def findings(draw: st.DrawFn, height: int, width: int) -> PlacedFinding:
    return PlacedFinding(
        name=draw(st.sampled_from(sorted(vocab.FINDINGS))),
        side=draw(text),
        zone=draw(text),
        region=draw(st.sampled_from(["box", "heart", "lungs"])),
        boxes=tuple(draw(st.lists(boxes(height, width), min_size=1, max_size=2))),
        size=draw(st.none() | number),
    )


@st.composite
def qualities(draw: st.DrawFn) -> ImageQuality:
    names = st.sampled_from(["organs.heart", "pixels.blur", "finding.shown", "change.outside"])
    scores = draw(st.dictionaries(names, number))
    flags = draw(st.lists(st.sampled_from(sorted(scores)), unique=True)) if scores else []
    return ImageQuality(draw(text), scores, tuple(flags))


@st.composite
def samples(draw: st.DrawFn, group: int) -> Sample:
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    member = draw(st.sampled_from(["h", "v0", "v12", "s0"]))
    image = arrays(np.uint8, shape)
    placed = tuple(draw(st.lists(findings(*shape), min_size=member == "s0", max_size=3)))
    meta = SampleMeta(
        key=sample_key(group, member), group=group, member=member, attempt=draw(st.integers(0, 9)),
        row=draw(st.integers(0, 99)), digest=draw(text), bundle_name=draw(text), bundle_hash=draw(text),
        seed=draw(st.integers(0, 2**63 - 1)), anatomy_source=draw(text), anatomy_id=draw(text),
        ctr=draw(number), image_size=shape, findings=() if member == "s0" else placed,
        sham=placed if member == "s0" else (),
        labels={
            name: {label: draw(st.sampled_from([0, 1, None])) for label in labels}
            for name, labels in vocab.LABEL_SETS.items()
        },
        prompt=draw(text), sampling=draw(st.dictionaries(text, number | text | st.booleans(), max_size=3)),
        quality=draw(st.none() | qualities()),
    )  # fmt: skip
    split = draw(st.sampled_from(["train", "val", "test"]))
    return Sample(draw(image), draw(image), draw(image), meta, split, draw(image))


shards = st.integers(0, 3).flatmap(lambda n: st.tuples(*(samples(group) for group in range(n))))


@given(shards)
@settings(max_examples=40, deadline=None)
def test_samples_come_back_from_tar_and_table(made: tuple[Sample, ...]) -> None:
    back = list(read_samples(build_tar(made)))
    assert len(back) == len(made)
    for read, sample in zip(back, made, strict=True):
        assert read.sample.meta == sample.meta
        for name in ("image", "anatomy", "pathology", "change"):
            assert np.array_equal(getattr(read.sample, name), getattr(sample, name))
    rows = [encode_sample(sample).row for sample in made]
    table = read_table(build_table(SHARD, rows), "table", sample_schema()).to_pylist()
    for row, sample, read in zip(table, made, back, strict=True):
        expected = {**meta_columns(sample.meta), "split": sample.split, "sha256": read.sha256}
        reported = {name: value for name, value in row.items() if name in expected or value is not None}
        assert reported == {**expected, "shard": 3, "tar": "shards/fakes-000003.tar"}


def test_bytes_depend_on_the_samples_alone(tmp_path: Path) -> None:
    made = fake_groups(0, 6)
    data = build_tar(made)
    write_tar(made, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == data == build_tar(fake_groups(0, 6))
    assert build_table(SHARD, write_tar(made, tmp_path / "b")) == build_table(SHARD, write_tar(made, tmp_path / "c"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members[:5]] == [f"0000000000-h.{suffix}" for suffix in SUFFIXES]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }
    assert data[257:265] == b"ustar\x0000"


def test_an_exception_leaves_no_valid_tar(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TarWriter(tmp_path / "t") as tar:  # noqa: PT012
        tar.add(encode_sample(fake(0, "h")))
        raise RuntimeError
    with pytest.raises(DatasetError, match="end is missing"):
        list(read_tar(tmp_path / "t"))


def test_the_same_key_twice_is_our_bug(tmp_path: Path) -> None:
    with TarWriter(tmp_path / "t") as tar:
        tar.add(encode_sample(fake(0, "h")))
        with pytest.raises(AssertionError):
            tar.add(encode_sample(fake(0, "h")))


def foreign(members: list[tuple[str, bytes]], **fields: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def members_of(sample: Sample) -> list[tuple[str, bytes]]:
    encoded = encode_sample(sample)
    return [(f"{encoded.key}.{suffix}", content) for suffix, content in zip(SUFFIXES, encoded.members, strict=True)]


def grey16() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def test_whatever_comes_from_outside_is_checked() -> None:
    good = members_of(fake(1, "h"))
    image, meta, anatomy, pathology, change = good
    key = "0000000001-h"
    assert len(list(read_tar(foreign(good)))) == 1
    later = (meta[0], meta[1].replace(b'"findings"', b'"x"'))
    cases = {
        "not a sample key": foreign([("../../etc/passwd", b""), *good]),
        "at this place": foreign([image, anatomy, meta, pathology, change]),
        "cut off after": foreign(good[:3]),
        "stands twice": foreign([*good, *good]),
        "'0000000001-h.exe'": foreign([image, meta, anatomy, (f"{key}.exe", b"")]),
        "not a plain file": foreign(good, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "no PNG signature": foreign([(image[0], b"GIF89a"), meta, anatomy, pathology, change]),
        "16 bits": foreign([(image[0], grey16()), meta, anatomy, pathology, change]),
        "findings: Field required": foreign([image, later, *good[2:]]),
        "its key is": foreign([(name.replace("1-h", "2-h"), content) for name, content in good]),
        "of shapes": foreign([members_of(fake(1, "h", size=64))[0], *good[1:]]),
        "cannot be read as a tar": b"not a tar" * 100,
        "the tar's end": foreign(good)[:-512],
        "unexpected end": foreign(good)[:1000],
    }
    for message, data in cases.items():
        with pytest.raises(DatasetError, match=message):
            list(read_tar(data))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"box_xyxy":[8,', b'"box_xyxy":[9,', "do not agree"),
        (b'"box_xyxyn":[0.25,', b'"box_xyxyn":[0.26,', "do not agree"),
        (b'"boxes_xyxy":[[8,', b'"boxes_xyxy":[[99,', "inside the image"),
        (b'"group":1', b'"group":2', "but group 2"),
        (b'"Pneumonia":1', b'"Pneumonia":2', "labels"),
        (b'"Pneumonia":1', b'"Pneumonia":true', "labels"),
        (b'"Hernia":0', b'"Hernias":0', "labels.txrv18"),
        (b'"attempt":0', b'"attempt":"0"', "attempt"),
        (b'"synthetic":true', b'"synthetic":false', "synthetic"),
        (b"{", b"", "JSON"),
    ],
)
def test_a_contradictory_json_is_refused(old: bytes, new: bytes, message: str) -> None:
    image, (name, meta), *masks = members_of(fake_groups(1, 2)[1])
    assert old in meta
    with pytest.raises(DatasetError, match=message):
        list(read_tar(foreign([image, (name, meta.replace(old, new, 1)), *masks])))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b',"sham":[{', b',"shams":[{', "0 sham regions"),
        (b'"of":"Pneumonia"', b'"name":"Pneumonia"', "sham.0.of"),
        (b'"findings":[]', b'"findings":[' + FINDING + b"]", "a sham with findings"),
        (b'"boxes_xyxy":[[8,', b'"boxes_xyxy":[[99,', "inside the image"),
    ],
)
def test_a_contradictory_sham_is_refused(old: bytes, new: bytes, message: str) -> None:
    image, (name, meta), *masks = members_of(fake(1, "s0", sham=[box_finding("Pneumonia", (8, 16, 16, 24))]))
    assert meta.count(old) == 1
    with pytest.raises(DatasetError, match=message):
        list(read_tar(foreign([image, (name, meta.replace(old, new)), *masks])))


def test_fields_of_a_later_version_are_passed_over() -> None:
    sample = fake(1, "h")
    image, (name, meta), *masks = members_of(sample)
    later = meta.replace(b'"seed"', b'"scores":{"dice":0.9},"seed"')
    assert [read.meta for read in read_tar(foreign([image, (name, later), *masks]))] == [sample.meta]


def test_a_wrong_shape_is_our_bug() -> None:
    sample = fake(0, "h")
    with pytest.raises(AssertionError):
        encode_sample(replace(sample, image=sample.image[:-1]))
