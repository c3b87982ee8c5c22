"""Label conditioning of the small bundle: a finite label set, one learned token per label.

Shapes: B batch, L labels (the findings and then "No Finding"), D token width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

NO_FINDING = "No Finding"
FINDINGS = ("Pneumonia", "Infiltration", "Atelectasis", "Effusion", "Edema")

ALL_TOGETHER = 9
AT_ONCE = 3


def prompt_of(positive: Sequence[str], order: Sequence[str] = FINDINGS) -> str:
    """Findings in any order -> their prompt: the names joined by one space in the network's own order."""
    return " ".join(name for name in order if name in positive)


class LabelTokens(ModelMixin, ConfigMixin):
    """Labels [B, L] of 0 and 1 -> tokens [B, L, D]: the label's own token where 1, its null token where 0."""

    @register_to_config
    def __init__(self, findings: Sequence[str] = FINDINGS, width: int = 96) -> None:
        super().__init__()
        self.findings = tuple(findings)
        labels = len(self.findings) + 1
        self.present = nn.Parameter(torch.randn(labels, width))
        self.absent = nn.Parameter(torch.randn(labels, width))

    def forward(self, labels_BL: Tensor) -> Tensor:
        """Labels [B, L] of 0 and 1 -> tokens [B, L, D]."""
        chosen = labels_BL[:, :, None].bool()
        return torch.where(chosen, self.present[None], self.absent[None])

    @torch.no_grad()
    def table(self) -> dict[str, Tensor]:
        """Every prompt of the label set -> tokens [L, D]: null "", "No Finding", the findings' combinations.

        Of more than ALL_TOGETHER findings, only combinations of up to AT_ONCE are named: the rest would be
        thousands.
        """
        count = len(self.findings)
        most = count if count <= ALL_TOGETHER else AT_ONCE
        rows: dict[str, list[bool]] = {}
        for chosen in chain.from_iterable(combinations(range(count), size) for size in range(most + 1)):
            positive = [self.findings[at] for at in chosen]
            rows[prompt_of(positive, self.findings)] = [at in chosen for at in range(count)] + [False]
        rows[NO_FINDING] = [False] * len(self.findings) + [True]
        tokens = self(torch.tensor(list(rows.values()), device=self.present.device))
        return dict(zip(rows, tokens.float().cpu(), strict=True))
