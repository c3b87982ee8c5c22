"""The prompt table that a bundle is made with: which texts are encoded, which finding each stands for, and by what."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from xreal_synth import findings as vocab
from xreal_synth.errors import ConversionError, faults
from xreal_synth.models.bundle_file import NULL_KEY, Prompts

Text = Annotated[str, Field(max_length=2000)]


class PromptTable(BaseModel):
    """Prompts to be encoded: those of bundle.json, joint prompts of up to `combine` findings, and `more`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    null: Text = ""
    healthy: Text
    join: Text = " "
    findings: dict[str, Annotated[Text, Field(min_length=1)]]
    combine: Annotated[int, Field(ge=1, le=4)] = 1
    more: tuple[Annotated[Text, Field(min_length=1)], ...] = ()

    @model_validator(mode="after")
    def _known(self) -> PromptTable:
        unknown = sorted(name for name in self.findings if vocab.canonical(name) != name)
        if unknown:
            raise ValueError(f"findings: {', '.join(unknown)} do not exist; there are {', '.join(vocab.FINDINGS)}")
        if NULL_KEY in self.texts():
            raise ValueError(f"{NULL_KEY!r} is the bundle's own name for the empty prompt")
        return self

    def texts(self) -> list[str]:
        """Every prompt once: null, healthy, single findings, joint ones in the table's order, the rest."""
        texts = [self.null, self.healthy]
        for count in range(1, self.combine + 1):
            texts += [self.join.join(some) for some in combinations(self.findings.values(), count)]
        return list(dict.fromkeys([*texts, *self.more]))

    def for_bundle(self) -> Prompts:
        """What of the table bundle.json keeps: the prompts that have a meaning, not `more`."""
        return Prompts(null=self.null, healthy=self.healthy, join=self.join, findings=self.findings)


LABEL_WORDS: Final = PromptTable(
    healthy="",
    combine=2,
    findings={
        "Atelectasis": "Atelectasis",
        "Cardiomegaly": "Cardiomegaly",
        "Consolidation": "Consolidation",
        "Edema": "Edema",
        "Lung Lesion": "Lung Lesion",
        "Lung Opacity": "Lung Opacity",
        "Effusion": "Pleural Effusion",
        "Pneumonia": "Pneumonia",
        "Pneumothorax": "Pneumothorax",
    },
)
"""XReal's prompts: CheXpert names joined by blanks, in CheXpert's order; the empty text means no finding."""

REPORT_WORDS: Final = PromptTable(
    healthy="No acute cardiopulmonary process.",
    join=" ",
    findings={
        "Atelectasis": "Atelectasis.",
        "Cardiomegaly": "Cardiomegaly.",
        "Consolidation": "Consolidation.",
        "Edema": "Pulmonary edema.",
        "Nodule": "Pulmonary nodule.",
        "Mass": "Lung mass.",
        "Lung Opacity": "Lung opacity.",
        "Effusion": "Pleural effusion.",
        "Pneumonia": "Pneumonia.",
        "Pneumothorax": "Pneumothorax.",
    },
)
"""Prompts in the words of a report's impression, for models trained on reports. A choice of this project."""

NO_WORDS: Final = PromptTable(healthy="", findings={})
"""For a denoiser without prompts."""


def read_prompts(path: Path | None, base: PromptTable) -> PromptTable:
    """`base` with the keys that a YAML file gives in place of its own; raises ConversionError."""
    if path is None:
        return base
    try:
        given = yaml.safe_load(path.expanduser().read_text(encoding="utf-8"))
        if not isinstance(given, dict):
            raise ValueError("not a mapping")
        named = {"null" if key is None else key: value for key, value in given.items()}  # YAML's own null
        return PromptTable.model_validate({**base.model_dump(), **named})
    except ValidationError as error:
        raise _wrong(path, faults(error, path.name)) from error
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise _wrong(path, str(error)) from error


def _wrong(path: Path, found: str) -> ConversionError:
    return ConversionError(
        where=str(path),
        found=found,
        wanted="YAML with any of null, healthy, join, combine, more, and findings: {NAME: PROMPT}",
        hint="correct the file; xreal_synth/models/README.md has an example",
    )
