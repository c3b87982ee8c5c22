"""The project's exceptions.

    XrealError                 a user can fix it: found, wanted, hint
    |- RecipeError             the recipe or an override; carries every problem at once
    |- AnatomyError            an organ mask or a mask source
    |- PlacementError          a finding that cannot be placed on this anatomy
    |- BundleError             a model bundle: missing, newer, wrong hash, unsafe file
    |  `- NotFiniteError       a model's numbers overflow, or its device is at fault
    |- ConversionError         a foreign checkpoint
    |- StorageError            a place that cannot be read or written
    |- DatasetError            a dataset folder that is broken or belongs to another recipe
    |- TrainingError           training data or configuration
    `- EngineError             nothing could start (no actor, no model)

Our own bugs raise AssertionError and are not caught.
"""

from __future__ import annotations

import copyreg
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class XrealError(Exception):
    """A mistake or a state of the world that the user can fix.

    `found` is what was met, `wanted` what was expected, `hint` what to do.
    """

    def __init__(self, *, found: str, wanted: str = "", hint: str = "", where: str = "") -> None:
        self.found = found
        self.wanted = wanted
        self.hint = hint
        self.where = where
        super().__init__(self.message())

    def message(self) -> str:
        """The text that a user sees: where and what was found, then what was wanted, then the hint, a line each."""
        head = f"{self.where}: {self.found}" if self.where else self.found
        return "\n".join([head, *_advice(self.wanted, self.hint)])

    def __reduce__(self) -> tuple[object, ...]:
        """Across processes as it is: `__init__` takes no positional arguments."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]  # pickle's own


def _advice(wanted: str, hint: str) -> list[str]:
    return [f"  {name:<7} {text}" for name, text in (("wanted:", wanted), ("hint:", hint)) if text]


def faults(error: ValidationError, whole: str = "") -> str:
    """What is wrong with which fields; `whole` names what has no field's name."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}" for e in error.errors())


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a recipe, with its path in the file (`findings[1].labels[0].size`)."""

    path: str
    found: str
    wanted: str = ""
    hint: str = ""

    def __str__(self) -> str:
        advice = [f"  {line}" for line in _advice(self.wanted, self.hint)]
        return "\n".join([f"{self.path or '(recipe)'}: {self.found}", *advice])


class RecipeError(XrealError):
    """Everything that is wrong with a recipe, at once."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        assert problems, "a RecipeError needs at least one problem"
        self.source = source
        self.problems = tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(found=f"{source}: {count}")

    def message(self) -> str:
        """Every problem of the recipe, indented below a line that counts them."""
        return "\n".join([self.found, *(f"  {problem}".replace("\n", "\n  ") for problem in self.problems)])


class AnatomyError(XrealError):
    """An organ mask that is not one, or a mask source that cannot be read."""


class PlacementError(XrealError):
    """A finding that cannot be placed on an anatomy under the recipe's limits."""


class BundleError(XrealError):
    """A model bundle that is missing, newer than this code, altered or unsafe."""


class NotFiniteError(BundleError):
    """Numbers that are not finite where images should be: by the bundle's doing, if another device agrees."""


class ConversionError(XrealError):
    """A foreign checkpoint that does not have the layout it should have."""


class StorageError(XrealError):
    """A place that cannot be read or written."""


class DatasetError(XrealError):
    """A dataset folder that is broken, or holds another recipe's dataset."""


class TrainingError(XrealError):
    """Training data or a training configuration that cannot be used."""


class EngineError(XrealError):
    """A run that could not start or could not go on."""
