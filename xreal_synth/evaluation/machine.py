"""The machine as a measurement of speed needs it: clocks, peak speed, peak memory."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import torch

from xreal_synth.models.precision import Precision

Clock = Literal["wall", "cpu"]

BF16_PEAK_TFLOPS: Final = {
    "H200": 989.0,
    "H100 80GB HBM3": 989.0,
    "H100 PCIe": 756.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX A6000": 155.0,
}
"""Dense tensor-core peaks from the makers' data sheets, by a part of torch's name of the device."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def stated_peak(device: torch.device | str, precision: Precision) -> float | None:
    """The maker's TFLOP/s of a known GPU in bf16; None for what is not known."""
    if torch.device(device).type != "cuda" or precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in BF16_PEAK_TFLOPS.items() if part in name), None)


def clock(device: torch.device | str, kind: Clock) -> Callable[[], float]:
    """Seconds: `wall` by the clock, once the device is done; `cpu` the time this process was given.

    On a machine that others use too, `cpu` with one thread is what `wall` would be alone.
    """
    if kind == "cpu":
        return time.process_time
    if torch.device(device).type != "cuda":
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def matmul_tflops(device: torch.device | str, precision: Precision, now: Callable[[], float]) -> float:
    """TFLOP/s of a square matrix product, the best of five: what can be had of this machine."""
    side = 8192 if torch.device(device).type == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    for _ in range(5):
        began = now()
        a @ a
        best = min(best, now() - began)
    return 2 * side**3 / best / 1e12


class PeakMemory:
    """The most memory in use between `begin` and `bytes`, above what was in use at `begin`.

    On a GPU what torch allocated; on Linux the process's resident memory; elsewhere None.
    """

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._before = 0

    def begin(self) -> None:
        """Forgets earlier peaks: from here on they count."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
            return
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            _CLEAR.write_text("5")  # resets VmHWM
            self._before = _resident("VmRSS")
        except (OSError, AttributeError):
            self._before = -1

    def bytes(self) -> int | None:
        """The peak above what was taken at `begin`; None where the system does not tell."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device)) - self._before
        return None if self._before < 0 else max(_resident("VmHWM") - self._before, 0)


def _resident(field: str) -> int:
    lines = _STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
