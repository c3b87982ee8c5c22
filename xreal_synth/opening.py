"""Files that may be a stranger's, opened in one way: plain files, below their folder, as large as they may be.

Images, tars, tables and JSON from outside pass through here and nowhere else (a test holds the package to it).
Nothing here starts another program, follows a link out of the folder given, or takes memory that a small file asks
for: what is too large, too deep or no plain file is refused before it is read. Errors are ValueErrors that say
what was met (`UnreadableError`), or the system's own OSErrors; callers name the file.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import stat
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FILE: Final = 4 << 30
"""Bytes of a file that is read into memory."""
MAX_JSON: Final = 256 << 20
MAX_IMAGE: Final = 256 << 20
"""Bytes of one image's file."""
MAX_TABLE: Final = 2 << 30
"""Bytes of a table, unpacked."""
MAX_COLUMNS: Final = 4096
MAX_PIXELS: Final = 128 << 20
MAX_SIDE: Final = 65_535
IMAGE_FORMATS: Final = ("PNG", "JPEG", "TIFF")
"""Others of Pillow's readers are old, rarely tested, or start programs (EPS: ghostscript)."""
MAX_TAR_HEADERS: Final = 1 << 20
"""Bytes of one member's extended headers, and of all global ones."""

_CHUNK: Final = 1 << 20
_BATCH: Final = 1024
_LEAST_BATCH: Final = 64
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
_LINKED_STORES: Final = (".dvc/cache", ".git/annex/objects")
"""Where tools keep files that a folder has as links, below the folder or one above it."""
_MARKERS: Final = ("dataset.json", "manifest.csv", "bundle.json")
"""Files that say what a folder is: where one is a link to its like, the folder mirrors the one that it leads to."""
LINKS_VARIABLE: Final = "XREAL_LINKS"
"""Names further folders, separated as in PATH, that links may lead into."""
_HEADER_KINDS: Final = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class UnreadableError(ValueError):
    """A file that is not what it should be, or more than is read."""


def roots_of(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder may lead: below it (itself it may be a link), and into the store that a hub's
    cache (`snapshots/REVISION` beside `blobs`), DVC or git-annex keeps for it, or that XREAL_LINKS names; a farm of
    links to a dataset, a data folder or a bundle leads into that one."""
    top = folder.resolve()
    above = (top, *top.parents)
    stores = [path.parent / "blobs" for path in above if path.name == "snapshots"]
    stores += [path / name for path in above for name in _LINKED_STORES if (path / name).is_dir()]
    named = [Path(name).resolve() for name in os.environ.get(LINKS_VARIABLE, "").split(os.pathsep) if name]
    marked = [(top / name).resolve() for name in _MARKERS if (top / name).is_symlink()]
    mirrored = [path.parent for path in marked if path.name in _MARKERS and path.is_file()]
    return (top, *stores, *named, *mirrored)


def open_file(path: Path, roots: Sequence[Path] = (), mirrored: set[Path] | None = None) -> IO[bytes]:
    """A plain file, open for reading; with `roots` (see `roots_of`) one that lies in one of them.

    With `mirrored`, links that lead out of them are followed to a file of the same name, as farms of links have them;
    its folder is added there. What was opened is looked at, not the name. Raises UnreadableError, and OSError as
    `open` does.
    """
    _require_plain(path.stat().st_mode)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _require_plain(os.fstat(descriptor).st_mode)
        real = _real_path(descriptor, path)
        if roots and not any(real.is_relative_to(root) for root in roots):
            if mirrored is None or real.name != path.name:
                raise UnreadableError(f"a link that leads out of {roots[0]} ({LINKS_VARIABLE} names further folders)")
            mirrored.add(real.parent)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_file(
    path: Path, limit: int = MAX_FILE, roots: Sequence[Path] = (), mirrored: set[Path] | None = None
) -> bytes:
    """The bytes of a plain file of at most `limit`. Raises as `open_file`."""
    with open_file(path, roots, mirrored) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise _too_large(limit)
        data = file.read(size + 1)
        if len(data) <= size:
            return data
        return b"".join(capped((data, *iter(lambda: file.read(_CHUNK), b"")), limit))


def capped(chunks: Iterable[bytes], limit: int | None) -> Iterator[bytes]:
    """The chunks until they are more than `limit` bytes in all, if there is one: then UnreadableError."""
    taken = 0
    for chunk in chunks:
        taken += len(chunk)
        if limit is not None and taken > limit:
            raise _too_large(limit)
        yield chunk


def hashed_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a file that has this hash. Raises as `open_file`, UnreadableError for another."""
    data = read_file(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise UnreadableError("another file than its hash says")
    return data


@contextmanager
def hashed_copy(path: Path, sha256: str) -> Iterator[Path]:
    """A copy of a file that has this hash, which nobody else can change, for what opens files by name.

    In memory where the system can hold files there. Raises as `hashed_bytes`.
    """
    with open_file(path) as source, _private_file() as (target, name):
        digest = hashlib.sha256()
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
        target.flush()
        if digest.hexdigest() != sha256:
            raise UnreadableError("another file than its hash says")
        yield name


@contextmanager
def _private_file() -> Iterator[tuple[IO[bytes], Path]]:
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("xreal-synth"), "wb") as file:
            yield file, Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.NamedTemporaryFile(prefix="xreal-synth-") as named:
            yield named.file, Path(named.name)


def parse_json(data: bytes | str, limit: int = MAX_JSON) -> Any:
    """The value of a JSON text. Raises ValueError, also for nesting that Python cannot follow."""
    if len(data) > limit:
        raise _too_large(limit)
    try:
        return json.loads(data)
    except RecursionError:
        raise UnreadableError("nested too deeply") from None


def csv_reader(text: str) -> csv.DictReader[str]:
    """Reads a CSV's rows by its header. Raises csv.Error, also for a header of thousands of columns."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if len(reader.fieldnames or ()) > MAX_COLUMNS:
        raise csv.Error(f"more than {MAX_COLUMNS} columns")
    return reader


def unzipped(data: bytes, limit: int = MAX_TABLE) -> bytes:
    """What gzip packed into `data`, at most `limit` bytes. Raises UnreadableError."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(limit + 1)
    except EOFError:
        raise UnreadableError("gzip that ends too early") from None
    except (OSError, zlib.error) as error:
        raise UnreadableError(f"not gzip ({error})") from error
    if len(unpacked) > limit:
        raise _too_large(limit)
    return unpacked


@contextmanager
def open_image(data: bytes, formats: Sequence[str] = IMAGE_FORMATS) -> Iterator[Image]:
    """A PNG, JPEG or TIFF of at most MAX_PIXELS, to be decoded inside the block.

    Raises UnreadableError for another format, a larger image, and whatever decoding it meets in the block.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=list(formats)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
                raise UnreadableError(f"an image of {width} x {height} pixels, at most {MAX_PIXELS:,} are read")
            yield image
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError(f"cannot identify the image, wanted {' or '.join(formats)}") from None
    except (
        OSError, ValueError, SyntaxError, LookupError, TypeError, ArithmeticError, AttributeError, RuntimeError,
        EOFError, MemoryError, struct.error, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise UnreadableError(str(error) or type(error).__name__) from error


def open_tar(source: Path | IO[bytes], mode: str = "r:") -> tarfile.TarFile:
    """A tar to read (`r:`, or `r|gz` as a stream), whose extended headers are held to MAX_TAR_HEADERS and which holds
    no sparse file. Raises tarfile.TarError, here and while members are read, OSError and UnreadableError.
    """
    file = open_file(source) if isinstance(source, Path) else source
    try:
        tar = _Tar.open(fileobj=file, mode=mode)  # type: ignore[call-overload]  # a mode that is not a literal
    except BaseException:
        if isinstance(source, Path):
            file.close()
        raise
    assert isinstance(tar, _Tar)
    tar.own = file if isinstance(source, Path) else None
    return tar


class _Member(tarfile.TarInfo):
    """A header; those before it that say more of it are read by tarfile in one piece, and are refused if large."""

    def _proc_member(self, tar: _Tar) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        if self.type in _HEADER_KINDS:
            tar.headers += tarfile.BLOCKSIZE + max(self.size, 0)
            tar.shared += self.size if self.type == tarfile.XGLTYPE else 0
            if max(tar.headers, tar.shared) > MAX_TAR_HEADERS:
                raise tarfile.ReadError(f"extended headers of more than {MAX_TAR_HEADERS} bytes")
        else:
            tar.headers = 0
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]  # tarfile's own hook, without types

    def _no_sparse(self, *_: object) -> None:
        raise tarfile.ReadError("a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _no_sparse


class _Tar(tarfile.TarFile):
    tarinfo = _Member
    own: IO[bytes] | None = None
    headers = 0
    shared = 0

    def next(self) -> tarfile.TarInfo | None:
        try:
            return super().next()
        except RecursionError:
            raise tarfile.ReadError("extended headers without end") from None

    def close(self) -> None:
        super().close()
        if self.own is not None:
            self.own.close()


def read_parquet(source: Path | bytes, limit: int = MAX_TABLE) -> Any:
    """A pyarrow table of at most `limit` bytes. Raises UnreadableError."""
    import pyarrow as pa

    with open_parquet(source) as file:
        reported = _row_groups(file)
        if sum(reported) > limit:
            raise _too_large(limit)
        rows = max(_LEAST_BATCH, min(_BATCH, limit // max(1, *reported, 1)))
        batches, taken = list[Any](), 0
        for batch in file.iter_batches(batch_size=rows, use_threads=False):
            taken += batch.nbytes
            if taken > limit:
                raise _too_large(limit)
            batches.append(batch)
        return pa.Table.from_batches(batches, file.schema_arrow).combine_chunks()


@contextmanager
def open_parquet(source: Path | bytes) -> Iterator[Any]:
    """A parquet file whose checksums are tested, and no part of which says that it unpacks to more than MAX_TABLE.

    Raises UnreadableError, also for what reading it meets in the block.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened: Any = pa.BufferReader(source) if isinstance(source, bytes) else open_file(source)
    with opened:
        try:
            with pq.ParquetFile(opened, page_checksum_verification=True) as file:
                if max(_row_groups(file), default=0) > MAX_TABLE or file.metadata.num_columns > MAX_COLUMNS:
                    raise _too_large(MAX_TABLE)
                yield file
        except UnreadableError:
            raise
        except (OSError, ValueError, LookupError, TypeError, NotImplementedError, MemoryError) as error:
            raise UnreadableError(str(error) or type(error).__name__) from error


def _row_groups(file: Any) -> list[int]:
    """Bytes of each row group, unpacked, as the file tells them."""
    return [file.metadata.row_group(number).total_byte_size for number in range(file.metadata.num_row_groups)]


def _require_plain(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(mode)), "no plain file")
        raise UnreadableError(f"{kind}, not a plain file")


def _real_path(descriptor: int, path: Path) -> Path:
    """Where an open file lies: by the system where it says so, else by its name."""
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return path.resolve()


def _too_large(limit: int) -> UnreadableError:
    size = f"{limit >> 20} MiB" if limit >> 20 else f"{limit} bytes"
    return UnreadableError(f"more than {size}")
