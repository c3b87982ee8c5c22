"""The network of the Frechet Inception Distance, from a file of the user's: nothing is fetched.

Wanted are the weights that Heusel et al.'s FID used (TensorFlow's Inception of 2015-12-05, 1008 classes), in the
layout that pytorch-fid and torch-fidelity publish: torchvision's names, no auxiliary classifier. torchvision's own
ImageNet weights (1000 classes) give another distance and are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torchvision.models import inception as tv

from xreal_synth.errors import BundleError, ConversionError
from xreal_synth.models.convert.checkpoints import load_whole, read_checkpoint
from xreal_synth.storage import sha256_file
from xreal_synth.types import GreyImage

SIDE: Final = 299
WIDTH: Final = 2048
CLASSES: Final = 1008
PUBLISHED: Final = "6726825d"
"""How the sha256 of the published files begins (it stands in their names)."""


class InceptionFeatures:
    """Images in, the 2048 features of the last pooling out; `sha256` is the file's."""

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self._network = load_inception(path).to(device)
        self._device = torch.device(device)
        self.sha256 = sha256_file(path.expanduser())

    @property
    def published(self) -> bool:
        """Whether the file is the published one, by its hash; of another (a conversion) one cannot know."""
        return self.sha256.startswith(PUBLISHED)

    @torch.inference_mode()
    def of(self, images: Sequence[GreyImage]) -> npt.NDArray[np.float32]:
        """The features [B, 2048] of images uint8 [H, W] of one size."""
        x = torch.from_numpy(np.stack(images)).to(self._device)
        return np.asarray(self._network(prepared(x)).cpu().numpy())


def prepared(images_BHW: Tensor) -> Tensor:
    """uint8 images -> [B, 3, 299, 299] in about -1..1, resized as TensorFlow 1 did: no half-pixel centres."""
    x = images_BHW.to(torch.float32)
    rows, columns = (_interpolation(side).to(x.device) for side in x.shape[1:])
    x = rows @ x @ columns.T
    return ((x - 128) / 128)[:, None].expand(-1, 3, -1, -1)


def load_inception(path: Path) -> nn.Module:
    """The network with the file's weights, ready; raises ConversionError or BundleError.

    The file is safetensors, or a torch state dict, which is opened with weights_only.
    """
    weights = {name: tensor.to(torch.float32) for name, tensor in read_checkpoint(path).tensors.items()}
    network = fid_inception()
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            weights.setdefault(name, value)
    try:
        load_whole(str(path), network, weights)
    except ConversionError as error:
        imagenet = "fc.weight" in weights and weights["fc.weight"].shape == (1000, WIDTH)
        raise BundleError(
            where=str(path),
            found=("torchvision's ImageNet weights: " if imagenet else "") + error.found,
            wanted="the FID's own Inception weights (2015-12-05, 1008 classes, torchvision's names, no AuxLogits)",
            hint="give the file that pytorch-fid or torch-fidelity publish (..inception-2015-12-05-6726825d.pth), or "
            "leave --inception out: the Frechet distance in the evaluator classifier's features is there without it",
        ) from error
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def fid_inception() -> nn.Module:
    """torchvision's Inception with the pooling of the FID's network, which differs in nine blocks.

    TensorFlow leaves the padding out of the average; the last block takes the maximum.
    """
    average = partial(functional.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
    maximum = partial(functional.max_pool2d, kernel_size=3, stride=1, padding=1)
    a, c, e = (_pooling(kind, average) for kind in (tv.InceptionA, tv.InceptionC, tv.InceptionE))
    blocks = [tv.BasicConv2d, a, tv.InceptionB, c, tv.InceptionD, e, tv.InceptionAux]
    network: nn.Module = tv.Inception3(CLASSES, aux_logits=False, inception_blocks=blocks, init_weights=False)
    network.Mixed_7c = _pooling(tv.InceptionE, maximum)(2048)
    return network


def _pooling(kind: Any, pool: Callable[[Tensor], Tensor]) -> Any:
    """A block whose last branch, the pooled one, is computed with `pool`."""

    def forward(block: Any, x: Tensor) -> Tensor:
        return torch.cat([*block._forward(x)[:-1], block.branch_pool(pool(x))], 1)

    return type(kind.__name__, (kind,), {"forward": forward})


def _interpolation(side: int) -> Tensor:
    """[299, side]: each output pixel's weights of the input's, linear between i * side / 299's neighbours."""
    place = torch.arange(SIDE, dtype=torch.float32) * (side / SIDE)
    low, pixels = place.floor().long(), torch.eye(side)
    share = (place - low)[:, None]
    return (1 - share) * pixels[low] + share * pixels[(low + 1).clamp(max=side - 1)]
