"""Convolutions and linear maps for sampling only: weights fixed, residuals added on the way out; the number format that
the denoiser runs in; and what its attention costs.

On a CPU oneDNN multiplies bfloat16 weights in a layout of its own; given plain ones it lays them out anew in every
call. The packed layers do it once, by the operators that torch's own compiler uses for it.

Shapes: B batch, C channels, H and W sides, I and O widths in and out.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import flop_counter


class Linear(nn.Module):
    """x [..., I] -> x W^T + b [..., O], plus `residual` of that shape; `gelu` is applied before it."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, gelu: bool = False) -> None:
        super().__init__()
        self.register_buffer("weight", weight_OI)
        self.register_buffer("bias", bias_O)
        self.gelu = gelu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[.., I] -> [.., O], plus `residual` of that shape."""
        out = functional.linear(x, self.weight, self.bias)
        if self.gelu:
            out = functional.gelu(out)
        return out if residual is None else out + residual


class Conv(nn.Module):
    """x [B, I, H, W] -> its convolution [B, O, H', W'], plus `residual`; channels last in memory."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d | PackedConv) -> None:
        super().__init__()
        weight, bias, self.geometry = _parts(conv)
        self.register_buffer("weight", weight.to(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)

    def forward(self, x_BIHW: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, I, H, W] -> [B, O, h, w], plus `residual` of that shape."""
        padding, stride, dilation, groups = self.geometry
        out = functional.conv2d(x_BIHW, self.weight, self.bias, stride, padding, dilation, groups)
        return out if residual is None else out + residual


class PackedLinear(nn.Module):
    """Linear through oneDNN, its weight laid out once."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None, *, gelu: bool = False) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous())
        self.bias = bias_O
        self.after = "gelu" if gelu else "none"

    def unpacked(self) -> Linear:
        """The same layer with plain weights."""
        return Linear(self.weight.to_dense(), self.bias, gelu=self.after == "gelu")

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[.., I] -> [.., O] by oneDNN, with what comes after it or the residual in the same call."""
        apply = torch.ops.mkldnn._linear_pointwise
        if residual is None:
            out: Tensor = apply(x, self.weight, self.bias, self.after, [], "none")
        else:
            out = apply.binary(x, residual, self.weight, self.bias, "add")
        return out


class PackedConv(nn.Module):
    """Conv through oneDNN, its weight laid out once."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, self.bias, self.geometry = _parts(conv)
        self.weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry)

    def unpacked(self) -> Conv:
        """The same layer with plain weights."""
        return Conv(self)

    def forward(self, x_BIHW: Tensor, residual: Tensor | None = None) -> Tensor:
        """[B, I, H, W] -> [B, O, h, w] by oneDNN, with the residual in the same call."""
        apply = torch.ops.mkldnn._convolution_pointwise
        if residual is None:
            out: Tensor = apply(x_BIHW, self.weight, self.bias, *self.geometry, "none", [], "")
        else:
            out = apply.binary(x_BIHW, residual, self.weight, self.bias, *self.geometry, "add", 1.0, None, [], None)
        return out


def unpack(network: nn.Module) -> None:
    """Puts plain layers in the place of packed ones: the compiler lays weights out itself."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, PackedLinear | PackedConv):
                setattr(module, name, child.unpacked())


def _parts(conv: nn.Conv2d | PackedConv) -> tuple[Tensor, Tensor | None, tuple[Any, ...]]:
    """Weight, bias, and padding, stride, dilation and groups."""
    if isinstance(conv, PackedConv):
        return conv.weight.to_dense(), conv.bias, conv.geometry
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    return conv.weight.detach(), None if conv.bias is None else conv.bias.detach(), geometry


def grouped(norm: nn.GroupNorm, x_BCHW: Tensor) -> Tensor:
    """Group norm, channels last.

    On a CPU torch's bfloat16 kernel takes ten times as long below 1024 positions; there float32 is used.
    """
    if x_BCHW.device.type != "cpu" or x_BCHW.dtype != torch.bfloat16 or x_BCHW[0, 0].numel() >= 1024:
        out: Tensor = norm(x_BCHW)
        return out
    weight, bias = norm.weight.float(), norm.bias.float()
    return functional.group_norm(x_BCHW.float(), norm.num_groups, weight, bias, norm.eps).to(x_BCHW.dtype)


@cache
def packing_works() -> bool:
    """Whether this torch has the packed operators and they compute in bfloat16 what the plain ones do."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 8, 4, 4, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(8, 8, 3, padding=1, bias=False).bfloat16()
    rows, weight = x.permute(0, 2, 3, 1).reshape(16, 8), torch.randn(8, 8, generator=generator).bfloat16()
    conv.weight.data = torch.randn(8, 8, 3, 3, generator=generator).bfloat16()
    try:
        pairs = [
            (PackedConv(conv)(x, x), Conv(conv)(x, x)),
            (PackedLinear(weight)(rows, rows), Linear(weight)(rows, rows)),
            (PackedLinear(weight, gelu=True)(rows), Linear(weight, gelu=True)(rows)),
        ]
    except (RuntimeError, AttributeError, TypeError):
        return False
    return all(torch.allclose(ours.float(), theirs.float(), rtol=0.02, atol=0.2) for ours, theirs in pairs)


Precision = Literal["fp32", "bf16"]
DTYPES: Final[dict[Precision, torch.dtype]] = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device | str = "cpu") -> Precision:
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


_formulas: Any = flop_counter
_aten = torch.ops.aten
CPU_ATTENTION: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **named: _formulas.sdpa_flop_count(
        q, k, v
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *rest, **named: (
        _formulas.sdpa_backward_flop_count(grad, q, k, v)
    ),
}
"""torch's counter knows the attention kernels of GPUs; these are the CPU's, of the same shapes."""
