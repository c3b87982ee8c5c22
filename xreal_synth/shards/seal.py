"""Small JSON files that carry their own checksum, so that one altered byte is found."""

from __future__ import annotations

import json

from xreal_synth.errors import DatasetError
from xreal_synth.storage import sha256_bytes

_SEAL = "sha256_of_this"


def sealed(fields: dict[str, object]) -> bytes:
    """Canonical indented JSON of the fields with a checksum over them; NaN is our own bug."""
    assert _SEAL not in fields
    return _canonical({**fields, _SEAL: sha256_bytes(_canonical(fields))})


def unsealed(data: bytes, where: str) -> dict[str, object]:
    """The fields of a sealed file, byte for byte as written; raises DatasetError naming `where`."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise _altered(where, f"not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(_SEAL), str):
        raise _altered(where, f"no field {_SEAL!r}")
    fields = {name: value for name, value in content.items() if name != _SEAL}
    try:
        intact = sealed(fields) == data
    except ValueError:
        intact = False
    if not intact:
        raise _altered(where, "its content does not match its own checksum")
    return fields


def _canonical(fields: dict[str, object]) -> bytes:
    text = json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _altered(where: str, found: str) -> DatasetError:
    return DatasetError(
        where=where, found=found, wanted="the file as it was written", mend="restore it from a copy"
    )
