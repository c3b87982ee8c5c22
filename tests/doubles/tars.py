"""Samples as a tar, written at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from xreal_synth.dataset.tar import TableRow, TarWriter, encode_sample
from xreal_synth.types import Sample


def write_tar(samples: Iterable[Sample], file: Path) -> list[TableRow]:
    """Writes the samples in the order given; returns their rows of the table."""
    with TarWriter(file) as tar:
        for sample in samples:
            tar.add(encode_sample(sample))
    return tar.rows


def build_tar(samples: Iterable[Sample]) -> bytes:
    """The same bytes in memory."""
    with tempfile.TemporaryDirectory(prefix="xreal-tar-") as folder:
        write_tar(samples, Path(folder, "tar"))
        return Path(folder, "tar").read_bytes()
