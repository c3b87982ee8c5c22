"""The label encoder of the authors' weights: a pre-LN transformer over BERT word pieces.

Shapes: B batch, L tokens, D width, A heads x head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class TextShape:
    """Sizes as the reference names them; its own: 32 layers, 1280 wide, 8 heads x 64, 150 positions."""

    num_tokens: int
    max_seq_len: int
    dim: int
    depth: int
    heads: int
    head_dim: int


class Attention(nn.Module):
    """[B, L, D] -> [B, L, D], without a mask."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_k = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_v = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D], each token with all."""
        split = [
            proj(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.to_q, self.to_k, self.to_v)
        ]
        mixed = functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2)
        out: Tensor = self.to_out(mixed)
        return out


class Layer(nn.Module):
    """Attention and feed-forward (4 D, exact GELU), each behind a layer norm and added to its input."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(shape.dim)
        self.attention = Attention(shape.dim, shape.heads, shape.head_dim)
        self.feed_norm = nn.LayerNorm(shape.dim)
        self.feed_in = nn.Linear(shape.dim, 4 * shape.dim)
        self.feed_out = nn.Linear(4 * shape.dim, shape.dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] -> [B, L, D]."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD))
        out: Tensor = x_BLD + self.feed_out(functional.gelu(self.feed_in(self.feed_norm(x_BLD))))
        return out


class TextEncoder(nn.Module):
    """Word-piece ids [B, L] -> tokens [B, L, D]; padding is encoded like any word."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.num_tokens, shape.dim)
        self.positions = nn.Embedding(shape.max_seq_len, shape.dim)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.depth)])
        self.norm = nn.LayerNorm(shape.dim)

    def forward(self, ids_BL: Tensor) -> Tensor:
        """Ids of word pieces [B, L] -> embeddings [B, L, D]."""
        places = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        x_BLD = self.words(ids_BL) + self.positions(places)
        for layer in self.layers:
            x_BLD = layer(x_BLD)
        out: Tensor = self.norm(x_BLD)
        return out
