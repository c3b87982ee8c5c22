"""A blind reading of real and synthetic images, as in the paper (section on qualitative evaluation), and its files.

The paper's two radiologists, each alone and blind to where an image came from, ranked real and generated images from 1
(lowest) to 5 (highest) for anatomy, for realism of the pathology, and for image quality. Here each reader gets one
page with the images in an order of their own, under names that say nothing; some images come twice, to see whether the
reader agrees with themselves. Real and synthetic images are drawn with the same findings in the same numbers.

A page is one HTML file with its images in it, which loads nothing and sends nothing: its content security policy allows
its own style and script, by their hashes, and pictures in the file itself. Every image is a PNG of the same size, depth
and encoder; a page knows images by random names alone.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from xreal_synth.dataset.png import encode_png
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.opening import csv_reader, parse_json, read_file
from xreal_synth.seeds import stream
from xreal_synth.types import GreyImage

REAL: Final = "real"
GUESS: Final = "guess"
GUESSES: Final = ("real", "synthetic")
RANKS: Final = ("anatomy", "pathology", "quality")
RANK: Final = range(1, 6)
TEMPLATES: Final = Path(__file__).parent / "templates"
FORMAT: Final = "xreal-synth readers 1"
KEY: Final = "key.json"
MAX_ANSWERS: Final = 64 << 20
_NAMED: Final = 5

_LIKE: Final = ("not like a real image", "like a real image")
_QUESTIONS: Final[dict[str, dict[str, Any]]] = {
    "anatomy": {"text": "Anatomy", "ends": _LIKE},
    "pathology": {"text": "Pathology: %s", "ends": _LIKE},
    "quality": {"text": "Image quality", "ends": ("lowest", "highest")},
    GUESS: {
        "text": "Is this image real or synthetic?",
        "options": [[value, value, value[0]] for value in GUESSES],
        "number": False,
    },
}
"""As pages have them; without `options` the answer is a rank."""

Answers = dict[str, dict[str, int | str]]
"""One reader's: what a page calls an image -> question -> rank or guess."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that could be shown.

    `arm` is "real" or the dataset's name, `source` its file in the manifest or its KEY, `group` its patient or
    anatomy, `findings` what it is labelled with or was asked for, sorted.
    """

    arm: str
    source: str
    group: str
    findings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Showing:
    """An image on a reader's page: its name there, which of the images it is, and whether it comes again."""

    name: str
    image: int
    repeat: bool


@dataclass(frozen=True, slots=True)
class Kit:
    """A study: its images, and for each reader what is shown in which order. `guess` asks real or synthetic too."""

    study: str
    seed: int
    guess: bool
    images: tuple[Candidate, ...]
    readers: dict[int, tuple[Showing, ...]]

    @property
    def questions(self) -> tuple[str, ...]:
        """What readers are asked of an image: three ranks, and with `guess` whether it is real."""
        return (*RANKS, GUESS) if self.guess else RANKS


def choose_images(arms: Mapping[str, Sequence[Candidate]], images: int, seed: int) -> list[Candidate]:
    """As many images of each arm, `images` in all, with the same findings in the same numbers, one of a group at most.

    Sets of findings that an arm lacks are left out; the rest come as often as among the synthetic images, as far as
    every arm has as many. Raises DatasetError where there are too few.
    """
    each, over = divmod(images, len(arms))
    if over or not each:
        raise DatasetError(
            found=f"{images} images for {len(arms)} kinds ({', '.join(arms)})",
            wanted="as many images of each kind",
            hint=f"give --images {len(arms) * max(1, each)} or another multiple of {len(arms)}",
        )
    pools = {arm: _pool(found, seed, arm) for arm, found in arms.items()}
    rooms = {
        kind: min(len(pool.get(kind, ())) for pool in pools.values())
        for kind in sorted({kind for pool in pools.values() for kind in pool})
    }
    wanted = Counter(one.findings for arm, found in arms.items() if arm != REAL for one in found)
    share = _shares(each, rooms, wanted, arms)
    return [image for pool in pools.values() for kind, count in share.items() for image in pool[kind][:count]]


def make_kit(images: Sequence[Candidate], readers: int, repeats: int, seed: int, *, guess: bool = False) -> Kit:
    """Each reader's own order and names; the first `repeats` of it come a second time, in its second half.

    Raises DatasetError where they would be more than a quarter of the images.
    """
    if not 0 <= repeats <= len(images) // 4:
        raise DatasetError(
            found=f"{repeats} repeats of {len(images)} images",
            wanted=f"at most {len(images) // 4}, a quarter, so that others lie between",
            hint="lower --repeats",
        )
    study = stream(seed, 0, 0, "rows", "readers", "study").bytes(6).hex()
    orders = {reader: _showings(len(images), repeats, seed, reader) for reader in range(1, readers + 1)}
    return Kit(study, seed, guess, tuple(images), orders)


def _pool(images: Sequence[Candidate], seed: int, arm: str) -> dict[tuple[str, ...], list[Candidate]]:
    """Images of an arm by their findings, in a random order, the first of each group alone."""
    order = stream(seed, 0, 0, "rows", "readers", arm).permutation(len(images))
    found: dict[tuple[str, ...], list[Candidate]] = {}
    seen = set()
    for image in (images[at] for at in order):
        if image.group not in seen:
            seen.add(image.group)
            found.setdefault(image.findings, []).append(image)
    return found


def _shares(
    each: int, rooms: Mapping[tuple[str, ...], int], wanted: Mapping[tuple[str, ...], int], arms: Mapping[str, object]
) -> dict[tuple[str, ...], int]:
    """How many images of each set of findings an arm shows: one after another to the one furthest behind."""
    if sum(rooms.values()) < each:
        reported = ", ".join(f"{words(kind)} {room}" for kind, room in rooms.items() if room) or "none"
        raise DatasetError(
            found=f"images that each of {', '.join(arms)} has, of patients or anatomies of their own: {reported}",
            wanted=f"{each} of each kind",
            hint="lower --images, or give more images or others",
        )
    total = sum(count for kind, count in wanted.items() if rooms.get(kind))
    given = dict.fromkeys(rooms, 0)
    for _ in range(each):
        open_kinds = [kind for kind, room in rooms.items() if given[kind] < room]
        behind = max(open_kinds, key=lambda kind: (wanted[kind] / total * each - given[kind], kind))
        given[behind] += 1
    return {kind: count for kind, count in given.items() if count}


def words(findings: Sequence[str]) -> str:
    """`Effusion, Pneumonia`, or `no finding`."""
    return ", ".join(findings) or "no finding"


def _showings(images: int, repeats: int, seed: int, reader: int) -> tuple[Showing, ...]:
    """A random order; its first `repeats` images come again, shuffled among those of its second half."""
    rng = stream(seed, reader, 0, "rows", "readers", "order")
    first = [(int(at), False) for at in rng.permutation(images)]
    half = images // 2
    later = [*first[half:], *((at, True) for at, _ in first[:repeats])]
    order = [*first[:half], *(later[at] for at in rng.permutation(len(later)))]
    names: dict[str, None] = {}
    while len(names) < len(order):
        names[rng.bytes(4).hex()] = None
    return tuple(Showing(name, at, repeat) for name, (at, repeat) in zip(names, order, strict=True))


def reader_page(kit: Kit, reader: int, images: Sequence[GreyImage]) -> bytes:
    """The page of a reader; `images` uint8 [S, S] are the kit's, in its order."""
    ranked = {"options": [[str(rank), str(rank)] for rank in RANK], "number": True}
    study = {
        "format": FORMAT,
        "study": kit.study,
        "reader": reader,
        "questions": [{"name": name, **ranked, **_QUESTIONS[name]} for name in kit.questions],
        "images": [
            {
                "name": one.name,
                "findings": words(kit.images[one.image].findings),
                "png": f"data:image/png;base64,{base64.b64encode(encode_png(images[one.image])).decode()}",
            }
            for one in kit.readers[reader]
        ],
    }
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("reader.css", "reader.js"))
    filled = {
        "STYLE_HASH": _hash(style),
        "SCRIPT_HASH": _hash(script),
        "READER": str(reader),
        "STYLE": style,
        "KEYS": " (<kbd>r</kbd> real, <kbd>s</kbd> synthetic)" if kit.guess else "",
        "STUDY": json.dumps(study).replace("<", "\\u003c"),
        "SCRIPT": script,
    }
    page = (TEMPLATES / "reader.html").read_text(encoding="utf-8")
    for name, text in filled.items():
        page = page.replace(f"@@{name}@@", text)
    return page.encode()


def _hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def key_bytes(kit: Kit) -> bytes:
    """key.json's bytes, which tell which images are real: for the one who analyses alone."""
    return json_bytes({"format": FORMAT, **asdict(kit)})


def read_key(folder: Path) -> Kit:
    """The study in a kit's folder; raises DatasetError if its key.json is missing or is not one."""
    path = folder / KEY
    try:
        raw = parse_json(read_file(path))
        if raw.pop("format", None) != FORMAT:
            raise ValueError(f"not of the format {FORMAT!r}")
        kit: Kit = TypeAdapter(Kit).validate_python(raw)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise DatasetError(
            where=str(path),
            found=f"cannot be read: {error}",
            wanted="the key that `evaluate readers make` wrote",
            hint="give the kit's folder; without its key the answers mean nothing",
        ) from error
    return kit


def read_results(kit: Kit, files: Sequence[Path]) -> dict[int, Answers]:
    """Every file's answers, JSON or CSV, by reader, in the order of the readers.

    Raises DatasetError that names everything wrong: another study, a reader twice, images that this reader was not
    shown, answers that are missing or are none of those offered.
    """
    problems, found = list[str](), dict[int, Answers]()
    for path in files:
        try:
            text = read_file(path, MAX_ANSWERS).decode("utf-8-sig")
            study, reader, answers = (_from_csv if path.suffix.lower() == ".csv" else _from_json)(text)
            told = _problems(kit, study, reader, answers)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            problems.append(f"{path}: cannot be read as a reader's answers ({error})")
            continue
        if reader in found:
            told.append(f"reader {reader} again")
        problems += [f"{path}: {one}" for one in told]
        found[reader] = answers
    if problems:
        raise DatasetError(
            found="; ".join(problems),
            wanted=f"whole answers of study {kit.study}, a file for each reader",
            hint="open the reader's page on the machine where it was filled in, complete it, and save again",
        )
    return dict(sorted(found.items()))


def _problems(kit: Kit, study: str, reader: int, answers: Answers) -> list[str]:
    if study != kit.study:
        return [f"of study {study}, not {kit.study}"]
    if reader not in kit.readers:
        return [f"of reader {reader}; the kit has {', '.join(map(str, kit.readers))}"]
    names = [one.name for one in kit.readers[reader]]
    given = {name: answers.get(name, {}) for name in names}
    foreign = [name for name in answers if name not in names]
    missing = [
        str(number)
        for number, own in enumerate(given.values(), start=1)
        if any(own.get(question) in (None, "") for question in kit.questions)
    ]
    wrong = [
        f"{name} {question} {value!r}"
        for name, own in given.items()
        for question, value in own.items()
        if question not in kit.questions or not (value in (None, "") or _offered(question, value))
    ]
    told = {
        f"images that reader {reader} was not shown": foreign,
        f"{len(missing)} of {len(names)} images lack answers": missing,
        "answers that were not offered": wrong,
    }
    return [f"{words}: {_some(found)}" for words, found in told.items() if found]


def _offered(question: str, value: object) -> bool:
    return value in GUESSES if question == GUESS else type(value) is int and value in RANK


def _from_json(text: str) -> tuple[str, int, Answers]:
    raw: Any = parse_json(text)
    if raw["format"] != FORMAT:
        raise ValueError(f"format {raw['format']!r}, wanted {FORMAT!r}")
    answers = {str(name): dict(given) for name, given in raw["answers"].items()}
    return str(raw["study"]), int(raw["reader"]), answers


def _from_csv(text: str) -> tuple[str, int, Answers]:
    rows = list(csv_reader(text))
    if not rows or len({(row["study"], row["reader"]) for row in rows}) != 1:
        raise ValueError("wanted the columns study, reader, image, and one study and reader")
    names = [row["image"] for row in rows]
    if len(set(names)) != len(names):
        raise ValueError("an image stands in two lines")
    questions = [name for name in rows[0] if name not in ("study", "reader", "image")]
    answers: Answers = {
        row["image"]: {q: int(row[q]) if row[q].isdecimal() else row[q] for q in questions if row[q]} for row in rows
    }
    return rows[0]["study"], int(rows[0]["reader"]), answers


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
