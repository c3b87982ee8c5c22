"""Devices: what does not fit, what is sound, and what a GPU's switches and facts are. GPUs are played where none is."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from xreal_synth.errors import EngineError
from xreal_synth.models.devices import (
    device_facts,
    does_not_fit,
    is_sound,
    no_gpu_for_torch,
    open_device,
    resolve_compile,
)


@pytest.mark.parametrize(
    ("error", "fits_not"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_every_failure_to_allocate_says_that_it_does_not_fit(error: Exception, fits_not: bool) -> None:
    assert does_not_fit(error) == fits_not


def test_a_device_that_computes_wrongly_or_not_at_all_is_not_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_sound("cpu")
    assert not is_sound("cuda:99")
    whole = torch.eye
    monkeypatch.setattr(torch, "eye", lambda *a, **k: whole(*a, **k).index_fill(0, torch.tensor([7]), 0.0))
    assert not is_sound("cpu")


@pytest.fixture
def careless() -> Iterator[None]:
    """torch's switches as nobody should leave them, put back afterwards."""
    flags = (
        (torch.backends.cudnn, "allow_tf32"), (torch.backends.cuda.matmul, "allow_tf32"),
        (torch.backends.cudnn, "deterministic"), (torch.backends.cudnn, "benchmark"),
    )  # fmt: skip
    before = [getattr(module, name) for module, name in flags]
    for module, name in flags:
        setattr(module, name, name != "deterministic")
    yield
    for (module, name), value in zip(flags, before, strict=True):
        setattr(module, name, value)


@pytest.mark.usefixtures("careless")
def test_a_gpu_s_arithmetic_is_set_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91300)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *device: SimpleNamespace(multi_processor_count=132))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    assert device_facts("cuda", "graphs")["tf32"] == "on"
    open_device("cuda", 0.25)
    open_device("cuda")
    assert shares == [0.25]
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    facts = device_facts("cuda", "graphs")
    assert facts.items() >= {"multiprocessors": "132", "tf32": "off", "compile": "graphs"}.items()
    assert facts.keys() == {"cuda", "cudnn", "multiprocessors", "tf32", "compile", "first_stage"}
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    assert device_facts("cuda", "graphs")["tf32"] == "on"


def test_a_cpu_s_switches_and_fingerprint_are_left_alone() -> None:
    before = torch.backends.cudnn.allow_tf32
    open_device("cpu", 0.5)
    assert torch.backends.cudnn.allow_tf32 == before
    assert device_facts("cpu", "none") == {}
    assert device_facts("cpu", "inductor") == {"compile": "inductor"}


def test_a_gpu_that_torch_does_not_see_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(EngineError, match="Ray sees GPUs, torch none: the driver is missing here, or older"):
        open_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in no_gpu_for_torch().found


def test_graphs_are_the_way_on_a_gpu_where_the_denoiser_is_suited() -> None:
    assert resolve_compile("auto", "cuda", suited=True) == "graphs"
    assert resolve_compile("auto", "cuda", suited=False) == "none"
    assert resolve_compile("auto", "cpu", suited=True) == "none"
    assert resolve_compile("inductor", "cpu", suited=True) == "inductor"
    with pytest.raises(EngineError, match="another layout"):
        resolve_compile("graphs", "cuda", suited=False)
