"""Recordings of the denoiser: what is copied, kept and forgotten. Where there is no GPU a double records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from tests.models.test_fast_unet import inputs, network
from xreal_synth.errors import EngineError
from xreal_synth.models.fast_unet import FastUNet
from xreal_synth.models.recorded import Record, Recorded, Replay, cuda_graphs

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def standing_in(rows: list[int]) -> Record:
    """In the place of CUDA graphs: it reads from the same tensors and writes to the same one, in every run."""

    def record(compute: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        out = torch.full_like(compute(), float("nan"))
        rows.append(len(out))

        def replay() -> None:
            out.copy_(compute())

        return replay, out

    return record


def pair(record: Record, device: str = "cpu", **kind: Any) -> tuple[FastUNet, FastUNet]:
    """The same denoiser, plain and recorded."""
    unet = network(**kind).to(device)
    plain, recorded = FastUNet(unet), FastUNet(unet)
    recorded.compute = Recorded(recorded.compute, record)  # type: ignore[method-assign]
    return plain, recorded


def check_series(plain: FastUNet, recorded: FastUNet, device: str = "cpu") -> None:
    """As a sampling goes: steps with the same tokens, with others, and with twice the rows, in turn."""
    first, second = inputs(3, 1)[2].to(device), inputs(3, 2)[2].to(device)
    twice = torch.cat([first, second])
    for seed, tokens in enumerate((first, first, second, twice, twice, first, twice)):
        z, t, _ = (one.to(device) for one in inputs(3, seed))
        times = len(tokens) // 3
        given = z.repeat(times, 1, 1, 1), t.repeat(times) - seed % 3, tokens
        (wanted,), (found,) = plain(*given), recorded(*given)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", [{}, {"addition_embed_type": "text", "addition_embed_type_num_heads": 4}])
@torch.inference_mode()
def test_a_recording_follows_latents_times_and_tokens(kind: dict[str, Any]) -> None:
    rows: list[int] = []
    plain, recorded = pair(standing_in(rows), **kind)
    check_series(plain, recorded)
    assert rows == [3, 6]
    recorded.release()
    check_series(plain, recorded)
    assert rows == [3, 6, 3, 6]


@torch.inference_mode()
def test_results_stay_when_the_next_is_made() -> None:
    _, recorded = pair(standing_in([]))
    (first,) = recorded(*inputs(3, 0))
    kept = first.clone()
    recorded(*inputs(3, 1))
    assert torch.equal(first, kept)


@torch.inference_mode()
def test_a_controlnet_s_residuals_are_followed() -> None:
    rows: list[int] = []
    plain, recorded = pair(standing_in(rows))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        control: Any = ControlNetModel.from_unet(network(), conditioning_channels=1).eval()
        for layer in (*control.controlnet_down_blocks, control.controlnet_mid_block):
            nn.init.normal_(layer.weight, std=0.1)
    hint = torch.rand(3, 1, 128, 128, generator=torch.Generator().manual_seed(2))
    for seed in range(3):
        given = inputs(3, seed)
        down, middle = control(*given, hint, return_dict=False)
        steer = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        assert torch.equal(recorded(*given, **steer)[0], plain(*given, **steer)[0])
        assert torch.equal(recorded(*given)[0], plain(*given)[0])
    assert rows == [3, 3]


@pytest.mark.parametrize(
    ("said", "kind", "match"),
    [
        ("operation not permitted when stream is capturing", EngineError, "compute.compile: none"),
        ("CUDA error: out of memory", RuntimeError, "out of memory"),
    ],
)
@torch.inference_mode()
def test_what_cannot_be_recorded_is_told_apart_from_what_does_not_fit(
    said: str, kind: type[Exception], match: str
) -> None:
    def refuse(compute: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        raise RuntimeError(said)

    _, recorded = pair(refuse)
    with pytest.raises(kind, match=match):
        recorded(*inputs())


@on_gpu
@torch.inference_mode()
def test_cuda_graphs_give_the_bytes_of_their_kernels() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        plain, recorded = pair(cuda_graphs(), "cuda", dtype=dtype)
        check_series(plain, recorded, "cuda")
