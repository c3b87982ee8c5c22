"""Small JSON files that carry their own checksum, so that one altered byte is found."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from xreal_synth.errors import DatasetError
from xreal_synth.opening import parse_json
from xreal_synth.storage import sha256_bytes

_T = TypeVar("_T")
_SEAL = "sha256_of_this"
_OPEN = "0" * 64
"""Stands for the checksum while it is taken."""


def sealed(fields: dict[str, object]) -> bytes:
    """Indented JSON of the fields with a checksum over the whole file; NaN is our own bug."""
    assert _SEAL not in fields
    text = json.dumps({**fields, _SEAL: _OPEN}, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    data = f"{text}\n".encode()
    return data.replace(_line(_OPEN), _line(sha256_bytes(data)))


def unsealed(data: bytes, where: str) -> dict[str, object]:
    """The fields of a sealed file, byte for byte as written; raises DatasetError naming `where`."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise _altered(where, f"not JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get(_SEAL), str):
        raise _altered(where, f"no field {_SEAL!r}")
    seal = content.pop(_SEAL)
    if sha256_bytes(data.replace(_line(seal), _line(_OPEN))) != seal:
        raise _altered(where, "its content does not match its own checksum")
    return content


@lru_cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def validated(kind: type[_T], fields: dict[str, object], where: str, wanted: str) -> _T:
    """The fields as a record of this kind; raises DatasetError."""
    try:
        found: _T = _adapter(kind).validate_python(fields)  # type: ignore[arg-type]
    except ValidationError as error:
        raise DatasetError(where=where, found=first_problem(error), wanted=wanted) from error
    return found


def first_problem(error: ValidationError) -> str:
    """`PATH: WHAT` of the first fault that pydantic has found."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"


def _line(seal: str) -> bytes:
    return f'"{_SEAL}": "{seal}"'.encode()


def _altered(where: str, found: str) -> DatasetError:
    return DatasetError(where=where, found=found, wanted="the file as it was written", hint="restore it from a copy")
