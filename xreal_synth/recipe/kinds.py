"""Value kinds of a recipe that pydantic has no plain words for: `auto` or a number, ranges, boxes, names.

Each check raises `PydanticCustomError` with `found`, `wanted` and `hint` in its context, which
`explain.py` passes on unchanged.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from xreal_synth.errors import StorageError
from xreal_synth.findings import ALIASES, FINDINGS, NO_FINDING, canonical
from xreal_synth.uris import refuse_uri


class RecipePart(BaseModel):
    """A group of keys: unknown ones are errors, nothing is converted, nothing changes. What stands below a key is its
    description in the schema and in errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=False,
        use_attribute_docstrings=True,
    )  # fmt: skip


def shown(value: object, limit: int = 60) -> str:
    """A value as it would stand in the YAML, cut to `limit` characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def near(word: str, known: Iterable[str], least: float = 0.6) -> str:
    """`did you mean ...?` for the known words nearest to `word`, at least so alike (0..1), or an empty string."""
    by_fold = {_folded(name): name for name in known}
    hits = [by_fold[hit] for hit in difflib.get_close_matches(_folded(word), list(by_fold), n=2, cutoff=least)]
    return f"did you mean {' or '.join(f'`{hit}`' for hit in hits)}?" if hits else ""


def _folded(word: str) -> str:
    """Without case, and without the dashes before an option, which would make all options alike."""
    return word.lstrip("-").casefold().replace("-", "_").replace(" ", "_")


def number_words(
    what: str, *, ge: float | None = None, gt: float | None = None, le: float | None = None, lt: float | None = None
) -> str:
    """`a number, at least 0 and at most 1`: what is wanted, with its range."""
    limits = {"at least": ge, "above": gt, "at most": le, "below": lt}
    words = [
        f"{word} {limit:{'d' if isinstance(limit, int) else 'g'}}"
        for word, limit in limits.items()
        if limit is not None
    ]
    return f"{what}, {' and '.join(words)}" if words else what


def percent(value: object, limit: object) -> str:
    """The hint for a share that was written in percent, or an empty string."""
    ours = limit == 1 and is_number(value) and 1 < float(str(value)) <= 100
    return f"a share, not percent: {float(str(value)) / 100:g} for {value:g}" if ours else ""


def problem(value: object, *, wanted: str, hint: str = "", found: str = "", at: str = "") -> PydanticCustomError:
    """The error of a value that is not what was wanted; `found` defaults to the value itself.

    `at` names the key that it is about, where a check looks at several.
    """
    context = {"found": found or shown(value), "wanted": wanted, "hint": hint, "at": at}
    return PydanticCustomError("recipe", "{found}", context)


def is_number(value: object) -> bool:
    """Whether the YAML value is a finite number (true and false are not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _auto_or(kind: type[int] | type[float], low: float, high: float, other: str = "") -> Callable[[object], object]:
    word = "a whole number" if kind is int else "a number"
    wanted = f"auto, or {word} from {low:g} to {high:g}{other}"

    def check(value: object) -> object:
        if value == "auto":
            return value
        allowed = int if kind is int else int | float
        if not isinstance(value, allowed) or not is_number(value) or not low <= value <= high:
            raise problem(value, wanted=wanted)
        return kind(value)

    return check


def _gpu_share(value: object) -> object:
    """Several actors may share a GPU; one actor computes on one."""
    if is_number(value) and float(str(value)) > 1:
        raise problem(
            value, wanted="auto, or a share of one GPU from 0 to 1",
            hint="an actor computes on one GPU: write 1, and more actors take the others",
        )  # fmt: skip
    return _auto_or(float, 0, 1)(value)


def rising(low: float, high: float, what: str) -> Callable[[object], object]:
    """A check of two rising numbers, `what` says which, from `low` to `high`."""
    wanted = f"two rising numbers [lowest, highest], {what}"

    def check(value: object) -> object:
        if value is None:
            return value
        if not isinstance(value, list | tuple) or len(value) != 2 or not all(is_number(item) for item in value):
            raise problem(value, wanted=wanted)
        first, last = float(value[0]), float(value[1])
        if first > last:
            raise problem(value, wanted=wanted, hint=f"the lower one first: [{last:g}, {first:g}]")
        if not (low <= first and last <= high):
            raise problem(value, wanted=wanted, hint=percent(last, high))
        return first, last

    return check


def _box(value: object) -> object:
    wanted = "[x0, y0, x1, y1] as shares of the picture: 0 <= x0 < x1 <= 1, 0 <= y0 < y1 <= 1, origin top left"
    if value is None:
        return value
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(is_number(item) for item in value):
        raise problem(value, wanted=wanted, hint="give four numbers")
    x0, y0, x1, y1 = (float(item) for item in value)
    if max(x0, y0, x1, y1) > 1.5:
        raise problem(value, wanted=wanted, hint="these look like pixels: divide by the image's width and height")
    if min(x0, y0, x1, y1) < 0 or max(x0, y0, x1, y1) > 1:
        raise problem(value, wanted=wanted)
    if x0 >= x1 or y0 >= y1:
        raise problem(value, wanted=wanted, hint="the second corner lies below and to the right of the first")
    return x0, y0, x1, y1


def _png_suffix(value: object) -> object:
    if value is None or (isinstance(value, str) and re.fullmatch(r"\.([A-Za-z0-9_-]+\.)*png", value)):
        return value
    raise problem(value, wanted="the end of the masks' names, from a dot on: .png or .anatomy.png")


def finding_name(value: object) -> str:
    """The project's name of a finding; raises the error of a value that is none."""
    wanted = f"a finding this version knows: {', '.join(FINDINGS)}"
    if not isinstance(value, str):
        raise problem(value, wanted=wanted)
    name = canonical(value)
    if name is not None:
        return name
    if value.casefold().replace("_", " ") in {NO_FINDING.casefold(), "none", "normal", "healthy"}:
        raise problem(value, wanted=wanted, hint="a row without findings has an empty list: `labels: []`")
    raise problem(value, wanted=wanted, hint=near(value, [*FINDINGS, *ALIASES]))


def _place(reading: bool) -> Callable[[str], str]:
    def check(value: str) -> str:
        try:
            refuse_uri(value, reading=reading)
        except StorageError as error:
            raise problem(None, found=error.found, wanted=error.wanted, hint=error.hint) from None
        return value

    return check


MAX_SHARD: Final = 10_000
_SMALLEST: Final = 1e-6

MAX_ACTORS: Final = 4096
"""An actor's calls and beats pass through one driver."""

actor_count = _auto_or(int, 1, MAX_ACTORS, ", or a range: {min: 2, max: 16}")
Gpus = Annotated[Literal["auto"] | Annotated[float, Field(ge=0, le=1)], BeforeValidator(_gpu_share)]
Cpus = Annotated[Literal["auto"] | Annotated[float, Field(ge=0.1, le=256)], BeforeValidator(_auto_or(float, 0.1, 256))]
MicroBatch = Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=1024)], BeforeValidator(_auto_or(int, 1, 1024))]
ShardSamples = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=MAX_SHARD)], BeforeValidator(_auto_or(int, 1, MAX_SHARD))
]
SizeRange = Annotated[
    tuple[float, float], BeforeValidator(rising(_SMALLEST, 1.0, "shares of the lung's area, above 0 and up to 1"))
]
LUNGS_SCALE: Final = (0.7, 1.3)
LungsScale = Annotated[
    tuple[float, float], BeforeValidator(rising(*LUNGS_SCALE, "factors from {:g} to {:g}".format(*LUNGS_SCALE)))
]
HeartScale = Annotated[tuple[float, float], BeforeValidator(rising(0.5, 2.0, "factors from 0.5 to 2"))]
Place = Annotated[str, Field(min_length=1), AfterValidator(_place(reading=False))]
BundlePlace = Annotated[str, Field(min_length=1), AfterValidator(_place(reading=True))]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Texts = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Box = Annotated[tuple[float, float, float, float], BeforeValidator(_box)]
PngSuffix = Annotated[str, BeforeValidator(_png_suffix)]
FindingName = Annotated[str, BeforeValidator(finding_name), Field(json_schema_extra={"enum": [*FINDINGS, *ALIASES]})]
