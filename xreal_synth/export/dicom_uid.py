"""UIDs that follow from what they name."""

from __future__ import annotations

import hashlib
import uuid


def uid(*parts: str) -> str:
    """A UID under 2.25, from a UUID made of the sha256 of the parts (RFC 9562, version 8)."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()[:16]
    bits = int.from_bytes(digest, "big")
    bits = bits & ~(0xF << 76) & ~(0x3 << 62) | (8 << 76) | (2 << 62)
    return f"2.25.{uuid.UUID(int=bits).int}"
