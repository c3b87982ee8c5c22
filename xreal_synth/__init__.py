"""Labelled synthetic chest X-rays with controlled anatomy and pathology, from a recipe."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xreal_synth.export.txrv import SyntheticDataset

__version__ = "0.1.0"
__all__ = ["SyntheticDataset", "__version__"]


def __getattr__(name: str) -> object:
    """SyntheticDataset on first use alone: it brings torch, which nothing else here needs."""
    if name == "SyntheticDataset":
        from xreal_synth.export.txrv import SyntheticDataset

        return SyntheticDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
