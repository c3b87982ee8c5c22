"""The FID's network from a file: layout, pooling, resizing; random weights in the published layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from safetensors.torch import save_file
from torchvision.models import inception_v3

from xreal_synth.errors import BundleError, ConversionError
from xreal_synth.evaluation.inception import InceptionFeatures, fid_inception, load_inception, prepared


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: tensor.half() for name, tensor in fid_inception().state_dict().items()}


@pytest.fixture(scope="module")
def file(weights: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    kept = {name: tensor for name, tensor in weights.items() if "num_batches" not in name}
    torch.save(kept, path)
    return path


def test_the_layout_is_torchvisions_with_1008_classes_and_no_auxiliary(weights: dict[str, torch.Tensor]) -> None:
    library = inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()
    assert {n: t.shape for n, t in weights.items()} == {n: t.shape for n, t in library.items()}
    assert weights["fc.weight"].shape == (1008, 2048)


def test_features_come_in_order_and_in_batches(file: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64), dtype=np.uint8) for _ in range(3)]
    features = InceptionFeatures(file)
    found = features.of(images)
    assert found.shape == (3, 2048)
    np.testing.assert_allclose(features.of(images[2:])[0], found[2], rtol=1e-4, atol=1e-5)
    assert found.std() > 0
    assert not features.published


def test_pickle_and_safetensors_give_the_same_network(
    file: Path, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(weights, tmp_path / "random.safetensors")
    x = prepared(torch.randint(0, 255, (1, 80, 80), dtype=torch.uint8))
    a, b = (load_inception(path)(x) for path in (file, tmp_path / "random.safetensors"))
    assert torch.equal(a, b)


def test_pooling_leaves_padding_out_and_the_last_block_takes_the_maximum() -> None:
    network = fid_inception().eval()
    x = torch.rand(1, 192, 5, 5)
    ones = torch.ones_like(x)
    count = functional.avg_pool2d(ones, 3, 1, 1)
    block = network.Mixed_5b
    wanted = block.branch_pool(functional.avg_pool2d(x, 3, 1, 1) / count)
    torch.testing.assert_close(block(x)[:, -32:], wanted)
    last, y = network.Mixed_7c, torch.rand(1, 2048, 4, 4)
    wanted = last.branch_pool(functional.max_pool2d(y, 3, 1, 1))
    torch.testing.assert_close(last(y)[:, -192:], wanted)
    assert (network.Mixed_7b(torch.rand(1, 1280, 4, 4)) >= 0).all()


def test_images_are_resized_without_half_pixels() -> None:
    image = torch.arange(0, 250, 2, dtype=torch.uint8).repeat(125, 1)[None]
    x = prepared(image)
    assert x.shape == (1, 3, 299, 299)
    place = torch.arange(299) * 125 / 299
    levels = (2 * place).clamp(max=248)  # a ramp of 2 a pixel; beyond the last pixel it stays
    torch.testing.assert_close(x[0, 1, 17], (levels - 128) / 128, atol=1e-4, rtol=0)


Change = Callable[[dict[str, torch.Tensor]], None]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("Mixed_6c.branch7x7_2.conv.weight"), "Mixed_6c"),
        (lambda w: w.update({"AuxLogits.fc.weight": torch.zeros(3)}), "AuxLogits"),
        (lambda w: w.update({"fc.weight": torch.zeros(1000, 2048)}), "torchvision's ImageNet"),
        (lambda w: w.update({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)}), "Conv2d_1a_3x3"),
    ],
)
def test_another_layout_is_refused(
    weights: dict[str, torch.Tensor], tmp_path: Path, change: Change, named: str
) -> None:
    other = dict(weights)
    change(other)
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(BundleError, match="leave --inception out") as raised:
        load_inception(tmp_path / "other.pth")
    assert named in raised.value.found


def test_a_file_with_code_or_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(ConversionError, match="could run code"):
        load_inception(tmp_path / "code.pth")
    with pytest.raises(ConversionError, match="no such file"):
        load_inception(tmp_path / "none.pth")
