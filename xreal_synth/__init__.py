"""Labelled synthetic chest X-rays with controlled anatomy and pathology, from a recipe.

`Pipeline` makes single images, `generate` a recipe's dataset, `plan` says what that would be, `Dataset` looks at a
finished one, `SyntheticDataset` trains on it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from xreal_synth.export.txrv import SyntheticDataset
    from xreal_synth.from_recipe import Finding, generate, plan
    from xreal_synth.generated import Dataset, GeneratedImage, GeneratedImages
    from xreal_synth.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = [
    "Dataset", "Finding", "GeneratedImage", "GeneratedImages", "Pipeline", "SyntheticDataset", "__version__",
    "generate", "plan",
]  # fmt: skip

_PLACES: Final = {
    "Dataset": "generated", "GeneratedImage": "generated", "GeneratedImages": "generated",
    "Finding": "from_recipe", "Pipeline": "pipeline", "generate": "from_recipe", "plan": "from_recipe",
    "SyntheticDataset": "export.txrv",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Each name on first use alone: what it needs, torch above all, nothing else here does."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
