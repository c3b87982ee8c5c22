"""Measurements that others have left in a dataset's folder: leak.json and evaluation.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeVar

from pydantic import AliasChoices, Field, TypeAdapter, ValidationError

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import EVALUATION, LEAK
from xreal_synth.dataset.seal import first_problem
from xreal_synth.errors import StorageError
from xreal_synth.opening import parse_json
from xreal_synth.storage import Store

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class ProbeArea:
    """A probe's AUC of telling sham-edited from unedited images, with its 95% interval."""

    auc: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Leak(ProbeArea):
    """The regression's AUC, the network's where one was trained, over how many images, and each feature's own AUC."""

    n: int
    network: ProbeArea | None = None
    digest: str | None = None
    features: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """A figure of the dataset (of one finding's images, or of all) with its interval, beside what real images reach.

    None where there is none.
    """

    name: str
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    real: float | str | None = None
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class _Compared:
    """The images of one side; older files say films."""

    images: Annotated[int | None, Field(validation_alias=AliasChoices("images", "films"))] = None
    digest: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The rows with a figure, and what they were measured on, by what, where; None where not told."""

    rows: tuple[EvaluationRow, ...]
    dataset: _Compared = field(default_factory=_Compared)
    real: _Compared = field(default_factory=_Compared)
    machine: str | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements found; `problems` names files that are there but cannot be read, or are of another dataset."""

    leak: Leak | None
    evaluation: Evaluation | None
    problems: tuple[str, ...]


def measured(store: Store, head: DatasetHead) -> Measured:
    """Reads both files; either may be missing."""
    problems: list[str] = []
    leak, evaluation = _read(store, LEAK, Leak, problems), _read(store, EVALUATION, Evaluation, problems)
    of = ((LEAK, leak and leak.digest), (EVALUATION, evaluation and evaluation.dataset.digest))
    problems += [
        f"{name} is of another dataset ({digest[:12]}, this one is {head.digest[:12]}): measure again"
        for name, digest in of
        if digest and digest != head.digest
    ]
    return Measured(leak, evaluation, tuple(problems))


def _read(store: Store, name: str, kind: type[_Kind], problems: list[str]) -> _Kind | None:
    if not store.exists(name):
        return None
    try:
        content = parse_json(store.read_bytes(name))
        return TypeAdapter(kind).validate_python({"rows": content} if isinstance(content, list) else content)
    except (ValueError, ValidationError, StorageError) as error:
        why = first_problem(error) if isinstance(error, ValidationError) else str(error).partition("\n")[0]
        problems.append(f"{name} cannot be read: {why}")
        return None
