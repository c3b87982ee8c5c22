"""What a device computes with, whether it fits and whether it can be trusted: the one place that sets torch's switches.

On a CPU nothing is set: what changes bytes there is in the fingerprint by name (instruction set, versions).
"""

from __future__ import annotations

import os
from typing import Final, Literal

import torch
from torch.torch_version import TorchVersion

from xreal_synth.errors import EngineError

Compile = Literal["none", "graphs", "inductor"]
"""How the denoiser's kernels are sent: one by one, recorded as CUDA graphs (the same kernels), or compiled."""

TF32_OVERRIDE: Final = "NVIDIA_TF32_OVERRIDE"
NO_ROOM: Final = (
    "out of memory", "ALLOC_FAILED", "ALLOCATION_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED", "32-bit index", "canUse32BitIndexMath", "unable to find an engine",
)  # fmt: skip
"""What CUDA's libraries say where a batch is too large for the memory, or for their indices."""
_SIDE: Final = 256

FIRST_STAGE: Final = "float32, channels last"
"""What first stage and Anatomy Controller compute with on a GPU: the layout in which its convolutions are fastest."""


def open_device(kind: str, share: float = 1.0) -> None:
    """Fixes on a GPU what would change bytes unseen: no TF32, deterministic kernels that are not timed against each
    other. `share` of its memory is the most that this process takes. Raises EngineError where torch sees no GPU."""
    if kind == "cpu":
        return
    if not torch.cuda.is_available():
        raise no_gpu_for_torch()
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if 0 < share < 1:
        torch.cuda.set_per_process_memory_fraction(share)


def no_gpu_for_torch() -> EngineError:
    """For a machine on which Ray counts GPUs and torch sees none."""
    built = torch.version.cuda
    why = f"torch {TorchVersion(torch.__version__)} is built without CUDA"
    if built is not None:
        why = f"the driver is missing here, or older than CUDA {built}, for which torch is built"
    return EngineError(
        found=f"Ray sees GPUs, torch none: {why}",
        wanted="a driver and a torch that fit each other",
        hint="nvidia-smi names the driver's CUDA; install the torch built for it, or set compute.gpus_per_actor: 0",
    )


def device_name(kind: str) -> str:
    """The device in words, with the instruction set on a CPU."""
    if kind == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu {torch.backends.cpu.get_cpu_capability()}"


def device_facts(kind: str, compiled: Compile) -> dict[str, str]:
    """What else changes bytes on this device, for the fingerprint; on a CPU nothing that is not there already."""
    if kind == "cpu":
        return {} if compiled == "none" else {"compile": compiled}
    allowed = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return {
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        "multiprocessors": str(torch.cuda.get_device_properties().multi_processor_count),
        "tf32": "on" if os.environ.get(TF32_OVERRIDE, str(int(allowed))) == "1" else "off",
        "compile": compiled,
        "first_stage": FIRST_STAGE,
    }


def resolve_compile(wanted: Literal["auto", "none", "graphs", "inductor"], kind: str, *, suited: bool) -> Compile:
    """`auto` is graphs on a GPU, none on a CPU; `suited` says whether the denoiser is one that can be compiled.

    Raises EngineError for what is asked of a denoiser that is not.
    """
    if wanted == "auto":
        return "graphs" if kind == "cuda" and suited else "none"
    if wanted != "none" and not suited:
        raise EngineError(
            found=f"compute.compile: {wanted}, and a denoiser of another layout than those that are compiled",
            wanted="auto or none for this bundle",
            hint="leave compute.compile out",
        )
    return wanted


def does_not_fit(error: BaseException) -> bool:
    """Whether an exception says that the memory is too small, or an index too large, for what was asked."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in NO_ROOM)


def is_sound(device: torch.device | str) -> bool:
    """Whether the device still computes: a product with a known answer, exact in float32 and bfloat16."""
    try:
        for dtype in (torch.float32, torch.bfloat16):
            one = torch.eye(_SIDE, device=device, dtype=dtype)
            steps = torch.arange(_SIDE, device=device, dtype=torch.float32).to(dtype)
            found = (one @ steps.expand(_SIDE, _SIDE).T).sum(dim=1, dtype=torch.float32).cpu()
            if not torch.equal(found, _SIDE * torch.arange(_SIDE, dtype=torch.float32)):
                return False
    except RuntimeError:
        return False
    return True
