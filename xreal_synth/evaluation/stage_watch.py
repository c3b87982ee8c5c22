"""Seconds of each stage of sampling, measured from outside the sampler."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xreal_synth.models.load import LoadedBundle
from xreal_synth.sampling.noise import NoiseKey, philox
from xreal_synth.seeds import Purpose

_Result = TypeVar("_Result")


class StageWatch:
    """A model that counts the seconds in each of its networks.

    The noise x_T of `noise`, or the controller, begins stage A and the decoder ends it: what is denoised after
    that is stage B.
    """

    def __init__(self, model: LoadedBundle) -> None:
        self._model = model
        self._seconds = {"controller": 0.0, "encode": 0.0, "stage A": 0.0, "stage B": 0.0, "decode": 0.0}
        self._core_seconds = dict(self._seconds)
        self._stage = "stage A"

    @property
    def device(self) -> torch.device:
        return self._model.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self._model.latent_shape

    @property
    def channels(self) -> int:
        return self._model.channels

    @property
    def value_range(self) -> tuple[float, float]:
        return self._model.value_range

    @property
    def scale_factor(self) -> float:
        return self._model.scale_factor

    @property
    def prediction_type(self) -> Literal["epsilon", "v_prediction"]:
        return self._model.prediction_type

    @property
    def alphas_cumprod(self) -> Tensor:
        return self._model.alphas_cumprod

    @property
    def null_prompt(self) -> str:
        return self._model.null_prompt

    def embed(self, prompts: Sequence[str]) -> Tensor:
        return self._model.embed(prompts)

    @property
    def seconds(self) -> dict[str, float]:
        """Spent in each stage so far, by the clock on the wall."""
        return dict(self._seconds)

    @property
    def core_seconds(self) -> dict[str, float]:
        """The same in seconds of all CPU cores together: with one thread, what a core of one's own would take.

        Empty on other devices.
        """
        return dict(self._core_seconds) if self._model.device.type == "cpu" else {}

    def noise(
        self, shape: tuple[int, ...], key: NoiseKey, purpose: Purpose, step: int, repeat: int
    ) -> npt.NDArray[np.float32]:
        """The noise of every dataset, for the sampler that is watched."""
        if purpose == "a.x_T":
            self._stage = "stage A"
        return philox(shape, key, purpose, step, repeat)

    @property
    def region_maps(self) -> tuple[str, ...]:
        return self._model.region_maps

    def denoise(
        self,
        z_BChw: Tensor,
        t_B: Tensor,
        cond_BLD: Tensor,
        hint_BChw: Tensor | None = None,
        maps_BRhw: Tensor | None = None,
    ) -> Tensor:
        return self._timed(
            self._stage, lambda: self._model.denoise(z_BChw, t_B, cond_BLD, hint_BChw, maps_BRhw)
        )

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self._timed("encode", lambda: self._model.encode(x_BCHW))

    @property
    def decoder_noise_shape(self) -> tuple[int, ...] | None:
        return self._model.decoder_noise_shape

    def decode(self, z_BChw: Tensor, decoder_noise: Tensor | None = None) -> Tensor:
        self._stage = "stage B"
        return self._timed("decode", lambda: self._model.decode(z_BChw, decoder_noise))

    def control(self, label_map_BHW: Tensor) -> Tensor:
        self._stage = "stage A"
        return self._timed("controller", lambda: self._model.control(label_map_BHW))

    def detail(self, noise_BChw: Tensor) -> Tensor:
        return self._model.detail(noise_BChw)

    def hint(self, label_map_BHW: Tensor) -> Tensor:
        return self._timed("controller", lambda: self._model.hint(label_map_BHW))

    def _timed(self, stage: str, call: Callable[[], _Result]) -> _Result:
        began, core_began = time.perf_counter(), time.process_time()
        result = call()
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds[stage] += time.perf_counter() - began
        self._core_seconds[stage] += time.process_time() - core_began
        return result
