"""Hostile images and archives, made here from a few bytes."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from xreal_synth.anatomy.label_map import decode_mask
from xreal_synth.anatomy.mask_files import mask_files
from xreal_synth.dataset.png import decode_png
from xreal_synth.dataset.tar import read_tar
from xreal_synth.images.files import ImageFiles, decode_image
from xreal_synth.prepare.grey import decode_picture
from xreal_synth.storage import LocalStore

Attack = Callable[[Path], object]
MIB = 1 << 20


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0, data: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")])


def tiff(width: int, height: int, *, next_ifd: int = 0) -> bytes:
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
               (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width)]  # fmt: skip
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + struct.pack("<I", next_ifd)


def saved(kind: str, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def jpeg_header(width: int, height: int) -> bytes:
    plain = saved("JPEG")
    at = plain.index(b"\xff\xc0") + 5
    return plain[:at] + struct.pack(">HH", height, width) + plain[at + 4 :]


BOMB = zlib.compress(bytes(64 * MIB), 9)
IMAGES: dict[str, bytes] = {
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
    b'%ImageData: 64 64 8 1 0 1 1 "x"\nshowpage\n',
    "postscript": b"%!PS-Adobe-3.0\n(x) run\n%%EOF\n",
    "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": b"<html><script>alert(1)</script></html>",
    "gif": saved("GIF"), "bmp": saved("BMP"), "pcx": saved("PCX"), "ico": saved("ICO", 16), "tga": saved("TGA"),
    "ppm": saved("PPM"), "im": saved("IM"), "sgi": saved("SGI"), "webp": saved("WEBP"), "jp2": saved("JPEG2000"),
    "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 30000, 30000, 8, 1) + bytes(64),
    "xpm": b'/* XPM */\nstatic char *x[] = {"9999999 9999999 1 1",\n',
    "empty": b"", "zeros": bytes(4096), "text": b"not an image\n" * 50,
    "png of 10^10 pixels": png(100_000, 100_000, data=zlib.compress(bytes(100))),
    "png of 2^31 wide": png(2**31 - 1, 1, data=zlib.compress(b"")),
    "png of no size": png(0, 0),
    "png at the pixel cap with a bomb": png(16_000, 16_000, data=BOMB),
    "png with a text bomb": png(8, 8, chunk(b"zTXt", b"k\0\0" + BOMB), data=zlib.compress(bytes(72))),
    "png with a profile bomb": png(8, 8, chunk(b"iCCP", b"k\0\0" + BOMB), data=zlib.compress(b"")),
    "png cut off": saved("PNG")[:40],
    "png with a chunk of 4 GiB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR" + bytes(30),
    "png of unknown depth": png(8, 8, depth=77, data=zlib.compress(bytes(72))),
    "jpeg of 4 * 10^9 pixels": jpeg_header(65_500, 65_500),
    "jpeg cut off": saved("JPEG")[:60],
    "tiff of 10^12 pixels": tiff(10**6, 10**6),
    "tiff cut off": tiff(8, 8)[:30],
    "tiff that names its data beyond the end": tiff(4096, 4096),
}  # fmt: skip
DECODERS: dict[str, Callable[[bytes], object]] = {
    "mask": lambda data: decode_mask(data, "m.png"),
    "image": decode_image,
    "image to prepare": decode_picture,
    "dataset's png": lambda data: decode_png(data, "k.png"),
}


def header(kind: bytes, size: int, name: str = "p") -> bytes:
    one = tarfile.TarInfo(name)
    one.type, one.size = kind, size
    return one.tobuf(tarfile.USTAR_FORMAT)


def packed(parts: Iterator[bytes] | list[bytes]) -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as file:
        for part in parts:
            file.write(part)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        one = tarfile.TarInfo(name)
        one.type, one.linkname = kind, link
        tar.addfile(one)
    return buffer.getvalue()


def pax(fields: dict[str, str]) -> bytes:
    one = tarfile.TarInfo("a.png")
    one.pax_headers = fields
    return one.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


def big(kind: bytes) -> bytes:
    return packed([header(kind, 200 * MIB), *[bytes(MIB)] * 200, bytes(1024)])


def chained(count: int) -> bytes:
    body = b"19 comment=aaaaaaa\n".ljust(512, b"\0")
    return b"".join([header(tarfile.XHDTYPE, 19) + body] * count) + header(tarfile.REGTYPE, 0, "a.png") + bytes(1024)


TARS: dict[str, bytes | Callable[[], bytes]] = {
    "pax header of 200 MiB": lambda: big(tarfile.XHDTYPE),
    "global header of 200 MiB": lambda: big(tarfile.XGLTYPE),
    "long name of 200 MiB": lambda: big(tarfile.GNUTYPE_LONGNAME),
    "long link of 200 MiB": lambda: big(tarfile.GNUTYPE_LONGLINK),
    "pax headers one after another": lambda: packed([chained(20_000)]),
    "mask of 8 GiB": lambda: packed([header(tarfile.REGTYPE, 8 * (1 << 30) - 1, "a.png"), bytes(MIB)]),
    "gnu sparse": lambda: packed([header(tarfile.GNUTYPE_SPARSE, 512, "a.png"), bytes(4096)]),
    "pax sparse 1.0": lambda: packed([pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})]),
    "pax sparse 0.1": lambda: packed([pax({"GNU.sparse.map": "0,1," * 900 + "0,1", "GNU.sparse.size": "9"})]),
    "symbolic link": lambda: packed([member("a.png", tarfile.SYMTYPE, "/etc/passwd")]),
    "hard link": lambda: packed([member("a.png", tarfile.LNKTYPE, "/etc/passwd")]),
    "device": lambda: packed([member("a.png", tarfile.CHRTYPE)]),
    "pipe": lambda: packed([member("a.png", tarfile.FIFOTYPE)]),
    "absolute name": lambda: packed([member("/tmp/a.png")]),
    "name with ..": lambda: packed([member("../../a.png")]),
    "name with a backslash": lambda: packed([member("..\\a.png")]),
    "name with a drive": lambda: packed([member("C:/a.png")]),
    "name with an escape": lambda: packed([member("\x1b]0;x\x07a.png")]),
    "one name twice": lambda: packed([header(tarfile.REGTYPE, 0, "a.png") * 2 + bytes(1024)]),
    "not a tar": lambda: packed([b"x" * 2048]),
    "not gzip": b"\x1f\x8b but no more",
    "gzip cut off": lambda: packed([member("a.png")])[:-30],
    "negative size": lambda: packed([header(tarfile.REGTYPE, 0, "a.png")[:124] + b"\xff" * 12 + bytes(876)]),
}


def as_masks(folder: Path, name: str, data: bytes) -> object:
    file = folder / name
    file.write_bytes(data)
    return [mask.load() for mask in mask_files(file)]


def as_plain_tar(folder: Path, kind: bytes) -> object:
    file = folder / "sparse.tar"
    with file.open("wb") as out:
        out.write(header(kind, 400 * MIB))
        out.truncate(400 * MIB + 2048)
    return mask_files(file)


def as_shard(folder: Path, kind: bytes) -> object:
    file = folder / "shard.tar"
    with file.open("wb") as out:
        out.write(header(kind, 400 * MIB))
        out.truncate(400 * MIB + 2048)
    return list(read_tar(file))


def as_image_tar(folder: Path, kind: bytes) -> object:
    as_shard_file = folder / "images.tar"
    with as_shard_file.open("wb") as out:
        out.write(header(kind, 400 * MIB))
        out.truncate(400 * MIB + 2048)
    return ImageFiles(LocalStore(folder)).read("images.tar", "a.png")


def attacks() -> Iterator[tuple[str, Attack]]:
    for name, data in IMAGES.items():
        for reader, decode in DECODERS.items():
            if reader == "mask" or name.startswith(("png", "jpeg", "tiff", "eps")):
                yield f"{name} as {reader}", lambda _, data=data, decode=decode: decode(data)
    for name, tar in TARS.items():
        made = (lambda tar=tar: tar) if isinstance(tar, bytes) else tar
        yield f"tar.gz: {name}", lambda folder, made=made: as_masks(folder, "m.tar.gz", made())
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        yield f"sparse tar of masks, header {kind!r}", lambda folder, kind=kind: as_plain_tar(folder, kind)
        yield f"sparse shard, header {kind!r}", lambda folder, kind=kind: as_shard(folder, kind)
        yield f"sparse tar of images, header {kind!r}", lambda folder, kind=kind: as_image_tar(folder, kind)
