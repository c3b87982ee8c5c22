"""Options that `evaluate DATASET` and `evaluate compare` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RealSplitOption = Annotated[
    str, typer.Option(help="The manifest's split to measure by; best images that no network has seen.")
]
BesideOption = Annotated[
    str | None,
    typer.Option(
        help="The split whose real images stand beside made ones in distances.",
        show_default="train, or half of the split's patients",
    ),
]
InceptionOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The FID's Inception weights (pytorch-fid's or torch-fidelity's file): adds FID and KID.",
        show_default="none: no FID",
    ),
]
MostOption = Annotated[
    int, typer.Option("-n", min=2, help="Images at most; of more, whole shards drawn at random.")
]
MOST = 10_000
