"""The environment for which a dataset's bytes are promised."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

PACKAGES = ("torch", "diffusers", "numpy", "scipy", "pillow", "xreal-synth")


def fingerprint(
    device: str, precision: str, micro_batch: int, facts: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Device kind, precision, micro-batch and the versions that change bytes.

    `device` is the kind in words, with the instruction set on a CPU ("cpu AVX512", "NVIDIA H100"); `facts` are what
    else changes bytes on it (models/devices.py).
    """
    return {
        "device": device,
        "machine": platform.machine(),
        "precision": precision,
        "micro_batch": str(micro_batch),
        **facts,
        **{name: installed_version(name) for name in PACKAGES},
    }


def fingerprint_differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """One line per entry that differs: "torch: 2.9.1 there, 2.10.0 here"."""
    names = sorted(there.keys() | here.keys())
    return [
        f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here"
        for name in names
        if there.get(name) != here.get(name)
    ]


def installed_version(name: str) -> str:
    """The version of a package as installed; "none" where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
