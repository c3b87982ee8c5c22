"""The number format that the denoiser runs in."""

from __future__ import annotations

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]


def resolve_precision(
    wanted: Literal["auto", "fp32", "bf16"], device: torch.device | str = "cpu"
) -> Precision:
    """`auto` is bf16 where the device multiplies bfloat16 natively, else fp32.

    CPU: torch reports amx_bf16 or avx512_bf16; GPU: compute capability 8.0 or newer.
    """
    if wanted != "auto":
        return wanted
    kind = torch.device(device)
    if kind.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(kind) >= (8, 0) else "fp32"
    return "bf16" if kind.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    report = getattr(torch.cpu, "get_capabilities", None)
    if report is not None:
        found = report()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())
