"""Where a job writes. No Ray here."""

from __future__ import annotations

from pathlib import PurePosixPath

from xreal_synth.errors import EngineError
from xreal_synth.storage import scheme_of


def output_place(uri: str, root: str | None) -> str:
    """Where a job writes: `uri` if it is absolute, else below `root`.

    A job's working directory is each node's temporary copy, so a relative place would be lost.
    Raises EngineError.
    """
    if scheme_of(uri) or PurePosixPath(uri).is_absolute():
        return uri
    if root is None:
        raise EngineError(
            where="output.uri",
            found=f"{uri} is relative, and a job's working directory is a temporary copy on each node",
            wanted="an absolute place that all nodes share",
            hint="give --output-root, e.g. --output-root s3://bucket/datasets or a shared mount",
        )
    if not scheme_of(root) and not PurePosixPath(root).is_absolute():
        raise EngineError(
            where="--output-root", found=f"{root} is relative", wanted="an absolute path or a URI", hint="write it out"
        )
    return f"{root.rstrip('/')}/{PurePosixPath(uri)}"
