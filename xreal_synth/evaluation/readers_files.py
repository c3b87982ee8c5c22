"""The files of a study with readers: a page for each, the answer key, and the answers as pages save them, checked.

A page is one HTML file with its images in it, which loads nothing and sends nothing: its content security policy allows
its own style and script, by their hashes, and pictures in the file itself. Every image is a PNG of the same size, depth
and encoder; a page knows images by random names alone.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from xreal_synth.dataset.png import encode_png
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.evaluation.readers import GUESS, GUESSES, RANK, Kit, words
from xreal_synth.opening import csv_reader, parse_json, read_file
from xreal_synth.types import GreyImage

TEMPLATES: Final = Path(__file__).parent / "templates"
FORMAT: Final = "xreal-synth readers 1"

_QUESTIONS: Final[dict[str, tuple[str, tuple[str, str]]]] = {
    "anatomy": ("Anatomy", ("not like a real image", "like a real image")),
    "pathology": ("Pathology: %s", ("not like a real image", "like a real image")),
    "quality": ("Image quality", ("lowest", "highest")),
}


def reader_page(kit: Kit, reader: int, images: Sequence[GreyImage]) -> bytes:
    """The page of a reader; `images` uint8 [S, S] are the kit's, in its order."""
    showings = kit.readers[reader]
    study = {
        "format": FORMAT,
        "study": kit.study,
        "reader": reader,
        "questions": [_question(name) for name in kit.questions],
        "images": [
            {
                "name": one.name,
                "findings": words(kit.images[one.image].findings),
                "png": f"data:image/png;base64,{base64.b64encode(encode_png(images[one.image])).decode()}",
            }
            for one in showings
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


def _question(name: str) -> dict[str, Any]:
    if name == GUESS:
        options = [[value, value, value[0]] for value in GUESSES]
        return {"name": name, "text": "Is this image real or synthetic?", "options": options, "number": False}
    text, ends = _QUESTIONS[name]
    return {
        "name": name,
        "text": text,
        "options": [[str(rank), str(rank)] for rank in RANK],
        "ends": ends,
        "number": True,
    }


def _hash(text: str) -> str:
    """What a content security policy names an inline style or script by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


KEY: Final = "key.json"
MAX_ANSWERS: Final = 64 << 20
_NAMED: Final = 5

Answers = dict[str, dict[str, int | str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """One reader's whole answers: what a page calls an image -> question -> rank or guess."""

    reader: int
    answers: Answers


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


def read_results(kit: Kit, files: Sequence[Path]) -> list[Reading]:
    """Every file's answers, JSON or CSV, in the order of the readers.

    Raises DatasetError that names everything wrong: another study, a reader twice, images that this reader was not
    shown, answers that are missing or are none of those offered.
    """
    problems, found = list[str](), dict[int, Reading]()
    for path in files:
        try:
            reading, reported = _read(kit, path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            problems.append(f"{path}: cannot be read as a reader's answers ({error})")
            continue
        problems += [f"{path}: {one}" for one in reported]
        if reading is None:
            continue
        if reading.reader in found:
            problems.append(f"{path}: reader {reading.reader} again")
        found[reading.reader] = reading
    if problems:
        raise DatasetError(
            found="; ".join(problems),
            wanted=f"whole answers of study {kit.study}, a file for each reader",
            hint="open the reader's page on the machine where it was filled in, complete it, and save again",
        )
    return [found[reader] for reader in sorted(found)]


def _read(kit: Kit, path: Path) -> tuple[Reading | None, list[str]]:
    text = read_file(path, MAX_ANSWERS).decode("utf-8-sig")
    study, reader, answers = _from_csv(text) if path.suffix.lower() == ".csv" else _from_json(text)
    if study != kit.study:
        return None, [f"of study {study}, not {kit.study}"]
    if reader not in kit.readers:
        return None, [f"of reader {reader}; the kit has {', '.join(map(str, kit.readers))}"]
    return Reading(reader, answers), _problems(kit, reader, answers)


def _problems(kit: Kit, reader: int, answers: Mapping[str, Mapping[str, object]]) -> list[str]:
    names = [one.name for one in kit.readers[reader]]
    reported = []
    if foreign := [name for name in answers if name not in names]:
        reported.append(f"images that reader {reader} was not shown: {_some(foreign)}")
    missing = [
        str(number)
        for number, name in enumerate(names, start=1)
        if any(answers.get(name, {}).get(question) in (None, "") for question in kit.questions)
    ]
    if missing:
        reported.append(f"{len(missing)} of {len(names)} images lack answers: {_some(missing)}")
    wrong = [
        f"{name} {question} {value!r}"
        for name in names
        for question, value in answers.get(name, {}).items()
        if not _offered(question, value, kit.questions)
    ]
    if wrong:
        reported.append(f"answers that were not offered: {_some(wrong)}")
    return reported


def _offered(question: str, value: object, questions: Sequence[str]) -> bool:
    if question not in questions:
        return False
    if value in (None, ""):
        return True
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
        row["image"]: {q: int(row[q]) if row[q].isdecimal() else row[q] for q in questions if row[q]}
        for row in rows
    }
    return rows[0]["study"], int(rows[0]["reader"]), answers


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
