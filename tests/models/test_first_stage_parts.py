"""First stage and controller in parts that fit into memory, and channels last: the same images."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from xreal_synth.models.describe import describe
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle, in_parts, joined, rows_at_once

pytestmark = pytest.mark.numeric

GOLDEN = 1e-4
"""What the golden arrays are held to; a random controller takes .6 of it, all else a tenth."""


@pytest.mark.parametrize(("rows", "most", "sizes"), [(6, 4, [3, 3]), (8, 8, [8]), (7, 4, [1] * 7), (32, 16, [16, 16])])
def test_parts_are_equal_and_at_most_so_large(rows: int, most: int, sizes: list[int]) -> None:
    x = torch.arange(rows)[:, None]
    parts = in_parts(most, x, 10 * x)
    assert [len(part) for part, _ in parts] == sizes
    assert torch.equal(joined([one + other for one, other in parts]), 11 * x)


def test_a_first_stage_of_the_paper_s_size_makes_few_images_at_once_and_the_small_ones_many() -> None:
    paper = {"block_out_channels": [128, 256, 512]}
    assert rows_at_once(paper, 256) == 8
    assert rows_at_once(paper, 4096) == 1
    assert rows_at_once({"refiner_width": 64}, 256) == 32


@pytest.mark.parametrize("bundle", ["xreal-tiny", "xreal-mini"])
def test_neither_parts_nor_layout_change_an_image(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = describe(bundle)
    plain, other = load_bundle(info), load_bundle(info)
    other._at_once = 2
    for part in (other._vae, other._controller):
        part.to(memory_format=torch.channels_last)
    for ours, theirs in zip(_made(plain), _made(other), strict=True):
        assert torch.allclose(ours, theirs, atol=GOLDEN)


def _made(model: LoadedBundle) -> list[Any]:
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(4, *model.latent_shape, generator=generator)
    shape = model.decoder_noise_shape
    image = model.decode(z, None if shape is None else torch.randn(4, *shape, generator=generator))
    codes = torch.randint(0, 5, (4, model.image_size, model.image_size), generator=generator, dtype=torch.uint8)
    return [image, *model.encode(image), model.control(codes)]
