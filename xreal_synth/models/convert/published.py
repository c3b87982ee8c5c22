"""Facts of the published models: their own words, and how this project samples them.

No weights of any of them were at hand when this was written: licences and terms are those that the publishers
state; see that they hold for your copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from xreal_synth.models.text.prompts import LABEL_WORDS, NO_WORDS, REPORT_WORDS, PromptTable
from xreal_synth.types import SamplingDefaults

_RESEARCH: Final = "research only; not for diagnosis; images made with it are synthetic and must be marked so"
_MIMIC: Final = "MIMIC-CXR's data use agreement (PhysioNet) applies to what was trained on it"


@dataclass(frozen=True, slots=True)
class Published:
    """A published model's name, terms, and the defaults that its own code samples with."""

    name: str
    licence: str
    use_restriction: str
    training_data: str
    prompts: PromptTable
    defaults: SamplingDefaults


def _defaults(mode: Literal["branch", "reference"], steps: int, guidance: float) -> SamplingDefaults:
    return SamplingDefaults(
        mode=mode, steps=steps, hold=0.5, branch=0.25, guidance=guidance, soft=0.2, eta=1.0
    )


XREAL: Final = Published(
    name="xreal",
    licence="CC-BY-NC-4.0",
    use_restriction=f"non-commercial; {_RESEARCH}; {_MIMIC}",
    training_data="MIMIC-CXR, by the authors of XReal",
    prompts=LABEL_WORDS,
    defaults=_defaults("reference", 100, 7.0),
)
CHEFF_T2I: Final = Published(
    name="cheff-t2i",
    licence="MIT",
    use_restriction=f"{_RESEARCH}; {_MIMIC}",
    training_data="MIMIC-CXR images and reports; the autoencoder on MaCheX, over 650,000 chest X-rays of several "
    "public collections; by the authors of Cheff",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 100, 1.0),
)
CHEFF_UNCONDITIONAL: Final = Published(
    name="cheff-unconditional",
    licence="MIT",
    use_restriction=f"{_RESEARCH}; {_MIMIC}",
    training_data="MaCheX, over 650,000 chest X-rays of several public collections; by the authors of Cheff",
    prompts=NO_WORDS,
    defaults=_defaults("branch", 100, 1.0),
)
ROENTGEN: Final = Published(
    name="roentgen",
    licence="CreativeML-OpenRAIL-M",
    use_restriction=f"research and education; {_RESEARCH}; only for those credentialed for MIMIC-CXR; {_MIMIC}",
    training_data="MIMIC-CXR images and reports, on top of Stable Diffusion 1.4; by the authors of RoentGen",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 75, 4.0),
)
STABLE_DIFFUSION: Final = Published(
    name="stable-diffusion",
    licence="",
    use_restriction=_RESEARCH,
    training_data="not stated",
    prompts=REPORT_WORDS,
    defaults=_defaults("branch", 50, 4.0),
)
