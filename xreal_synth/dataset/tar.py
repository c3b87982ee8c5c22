"""Shards as USTAR files whose bytes depend on the samples alone, and their checked reader.

A sample's members lie side by side in the order of `names.SUFFIXES`; mtime, owner and mode are fixed.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from xreal_synth.dataset.meta import meta_json, parse_meta
from xreal_synth.dataset.names import ANATOMY, CHANGE, IMAGE, META, PATHOLOGY, SUFFIXES, parse_key
from xreal_synth.dataset.png import decode_png, encode_png
from xreal_synth.errors import DatasetError
from xreal_synth.opening import UnreadableError, open_file, open_tar
from xreal_synth.types import Sample, SampleMeta, Split

MAX_MEMBER_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class TableRow:
    """A sample's row of the table, beside its meta data; `sha256` is `content_sha256` of its members."""

    meta: SampleMeta
    split: Split
    sha256: str


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample's members as bytes, in the order of `names.SUFFIXES`, and its row of the table."""

    row: TableRow
    members: tuple[bytes, ...]

    @property
    def key(self) -> str:
        """The sample's key, which its members' names begin with."""
        return self.row.meta.key


@dataclass(frozen=True, slots=True, eq=False)
class TarSample:
    """A sample read from a tar, with its members' bytes in the order of `names.SUFFIXES`.

    Its split stands in the table, so `sample.split` is "train" here.
    """

    sample: Sample
    sha256: str
    members: tuple[bytes, ...]

    def member(self, suffix: str) -> bytes:
        """The bytes of its file of this suffix."""
        return self.members[SUFFIXES.index(suffix)]


def encode_sample(sample: Sample) -> EncodedSample:
    """Encodes the PNGs and the JSON: pure, so that it may run in a thread beside the sampler."""
    meta = sample.meta
    parts = (sample.image, sample.anatomy, sample.pathology, sample.change)
    assert all(part.shape == meta.image_size for part in parts), meta.key
    image, *masks = map(encode_png, parts)
    members = (image, meta_json(meta), *masks)
    return EncodedSample(TableRow(meta, sample.split, content_sha256(members)), members)


def content_sha256(members: Iterable[bytes]) -> str:
    """sha256 over each member's length (8 bytes, little-endian) and bytes, in the order of SUFFIXES."""
    digest = hashlib.sha256()
    for content in members:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.hexdigest()


class TarWriter:
    """Writes samples one by one into a temporary file; the caller publishes the file once it is closed.

    Left by an exception it closes the file without the tar's end, so that what stays is never a valid tar.
    """

    def __init__(self, file: Path) -> None:
        self.rows: list[TableRow] = []
        self._keys: set[str] = set()
        self._file: IO[bytes] = file.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def __enter__(self) -> TarWriter:
        return self

    def add(self, encoded: EncodedSample) -> None:
        """Appends the sample's members and keeps its row; a key comes once."""
        assert encoded.key not in self._keys, encoded.key
        self._keys.add(encoded.key)
        for suffix, content in zip(SUFFIXES, encoded.members, strict=True):
            add_member(self._tar, f"{encoded.key}.{suffix}", content)
        self.rows.append(encoded.row)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._tar.close()

    def abandon(self) -> None:
        """Closes the file without the tar's end."""
        self._file.close()


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Appends a file whose header says nothing of who wrote it, and when."""
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), 0, 0o644
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    tar.addfile(member, io.BytesIO(content))


def read_tar(source: Path | bytes, where: str = "") -> Iterator[Sample]:
    """Every sample of a tar, in order; raises DatasetError at the first thing that is wrong.

    The split stands in the table alone, so it is "train" for every sample read here.
    """
    return (read.sample for read in read_samples(source, where))


def read_samples(
    source: Path | bytes, where: str = "", wants: Callable[[str], bool] | None = None
) -> Iterator[TarSample]:
    """As `read_tar`, with each sample's `content_sha256`; only those keys that `wants` says are decoded.

    Raises DatasetError.
    """
    where = where or (str(source) if isinstance(source, Path) else "tar")
    seen: set[str] = set()
    for key, members in raw_samples(source, where):
        place = f"{where}:{key}"
        if key in seen:
            raise DatasetError(where=place, found="this key stands twice in the tar")
        seen.add(key)
        if wants is not None and not wants(key):
            continue
        contents = tuple(members.values())
        yield TarSample(decode_sample(key, members, place), content_sha256(contents), contents)


def decode_sample(key: str, members: dict[str, bytes], where: str) -> Sample:
    """The sample in these members (suffix -> content). Raises DatasetError where they are not one."""
    meta = parse_meta(members[META], f"{where}.{META}")
    if meta.key != key:
        raise DatasetError(where=f"{where}.{META}", found=f"its key is {meta.key}", wanted=key)
    image, anatomy, pathology, change = parts = [
        decode_png(members[suffix], f"{where}.{suffix}") for suffix in (IMAGE, ANATOMY, PATHOLOGY, CHANGE)
    ]
    if any(part.shape != meta.image_size for part in parts):
        shapes = [list(np.shape(part)) for part in parts]
        raise DatasetError(
            where=where, found=f"image and masks of shapes {shapes}", wanted=f"{list(meta.image_size)} each"
        )
    return Sample(image, anatomy, pathology, meta, "train", change)


def raw_samples(source: Path | bytes, where: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, suffix -> content in the order of SUFFIXES) for every run of members, not decoded.

    Raises DatasetError.
    """
    members: dict[str, bytes] = {}
    current = ""
    for name, content in _members(source, where):
        key, _, suffix = name.partition(".")
        parse_key(key, f"{where}:{name[:120]}")
        if len(members) % len(SUFFIXES) == 0:
            current, members = key, {}
        wanted = f"{current}.{SUFFIXES[len(members)]}"
        if name != wanted:
            raise DatasetError(where=where, found=f"member {name[:120]!r}", wanted=f"{wanted!r} at this place")
        members[suffix] = content
        if len(members) == len(SUFFIXES):
            yield key, members
    if len(members) % len(SUFFIXES):
        raise DatasetError(where=where, found=f"sample {current} is cut off after {list(members)}")


def _members(source: Path | bytes, where: str) -> Iterator[tuple[str, bytes]]:
    try:
        with open_file(source) if isinstance(source, Path) else io.BytesIO(source) as file, open_tar(file) as tar:
            end = 0
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has read
                content = _content(tar, member, where)
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                yield member.name, content
            _check_end(file, end, where)
    except (tarfile.TarError, OSError, EOFError, UnreadableError) as error:
        raise DatasetError(where=where, found=f"cannot be read as a tar ({error})") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> bytes:
    if not member.isreg() or member.sparse is not None or member.pax_headers:
        raise DatasetError(
            where=where, found=f"{member.name[:120]!r} is not a plain file", wanted="plain USTAR members"
        )
    if member.size > MAX_MEMBER_BYTES:
        raise DatasetError(
            where=where, found=f"{member.name[:120]!r} of {member.size} bytes", wanted=f"at most {MAX_MEMBER_BYTES}"
        )
    content = tar.extractfile(member)
    assert content is not None
    return content.read()


def _check_end(file: IO[bytes], end: int, where: str) -> None:
    """A whole tar ends in two or more empty blocks that fill its last record."""
    file.seek(end)
    rest = file.read(2 * tarfile.RECORDSIZE)
    whole = len(rest) >= 2 * tarfile.BLOCKSIZE and len(rest) <= tarfile.RECORDSIZE + tarfile.BLOCKSIZE
    if not whole or any(rest) or (end + len(rest)) % tarfile.RECORDSIZE:
        raise DatasetError(where=where, found="the tar's end is missing or altered", wanted="a whole tar file")
