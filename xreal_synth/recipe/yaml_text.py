"""YAML text => plain values with their lines: the safe core of YAML and nothing else.

Refused, each with its line: tags, anchors and aliases (a few lines of them can stand for gigabytes),
repeated keys, keys that are not words, more than one document, deep nesting. Plain scalars follow YAML
1.2's core rules (true/false/null, decimal numbers, 1e3): `yes`, `010` and `12:30` stay words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import yaml
from yaml import events as ev

from xreal_synth.errors import Problem

KeyPath = tuple[str | int, ...]

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 20
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,4})?")
_WORDS: Final[dict[str, object]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip


@dataclass(slots=True)
class Document:
    """A YAML text as read: its value, the line of every path in it, what is wrong with it, and the paths that overrides
    have set."""

    value: object = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    touched: set[KeyPath] = field(default_factory=set)

    def place(self, path: KeyPath) -> str:
        """Where in the file a path stands, ` (line 12)`, or that `--set` put it there; empty if nowhere."""
        if any(path[: len(one)] == one for one in self.touched):
            return " (set on the command line)"
        at = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in self.lines), None)
        return "" if at is None else f" (line {self.lines[at]})"


def path_text(path: KeyPath) -> str:
    """`("findings", 1, "weight")` as `findings[1].weight`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def parse(text: str) -> Document:
    """The value of a YAML text with every problem found in it; never raises for bad YAML."""
    document = Document()
    if len(text.encode("utf-8", "replace")) > MAX_BYTES:
        document.problems.append(Problem("", f"a text of over {MAX_BYTES} bytes", "a recipe of a few kB"))
        return document
    try:
        _Reader(yaml.parse(text, Loader=yaml.SafeLoader), document).read()
    except yaml.MarkedYAMLError as error:
        document.problems.append(_syntax(error))
    except yaml.YAMLError as error:
        document.problems.append(Problem("", f"not YAML: {error}", "a text file in UTF-8"))
    except _TooDeepError as error:
        document.problems.append(Problem(error.args[0], f"nesting deeper than {MAX_DEPTH} levels"))
    return document


def scalar(text: str) -> object:
    """A plain scalar's value under YAML 1.2's core rules."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text) if not re.match(r"[-+]?0[0-9]", text) else text
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _syntax(error: yaml.MarkedYAMLError) -> Problem:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    found = " ".join(part for part in (error.context, error.problem) if part)
    hint = "check the indentation, the brackets and the quotes just before it"
    if "\\t" in found:
        hint = "indent with spaces, not tabs"
    return Problem(where, f"not YAML: {found}", "YAML as in the recipes folder", hint)


def _line(event: ev.Event) -> int:
    assert event.start_mark is not None
    return event.start_mark.line + 1


class _TooDeepError(Exception):
    pass


class _Reader:
    """Builds values from parser events, noting lines and problems as it goes."""

    def __init__(self, events: Iterator[ev.Event], document: Document) -> None:
        self.events = events
        self.document = document

    def read(self) -> None:
        documents = 0
        for event in self.events:
            if isinstance(event, ev.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.complain((), event, "a second document (`---`)", "one recipe per file")
                    return
            elif isinstance(event, ev.NodeEvent):
                self.document.value = self.node(event, ())

    def complain(self, path: KeyPath, event: ev.Event, found: str, wanted: str = "", hint: str = "") -> None:
        line = _line(event)
        self.document.problems.append(Problem(path_text(path), f"{found} (line {line})", wanted, hint))

    def node(self, event: ev.Event, path: KeyPath) -> object:
        if len(path) > MAX_DEPTH:
            raise _TooDeepError(f"line {_line(event)}")
        self.document.lines[path] = _line(event)
        if isinstance(event, ev.AliasEvent):
            self.complain(path, event, f"the alias `*{event.anchor}`", "values written out",
                          "write the value again in its place")  # fmt: skip
            return None
        assert isinstance(event, ev.ScalarEvent | ev.CollectionStartEvent), event
        if event.anchor is not None:
            self.complain(path, event, f"the anchor `&{event.anchor}`", "values written out", "remove it")
        if event.tag is not None:
            self.complain(path, event, f"the YAML tag `{event.tag}`", "plain YAML without tags", "remove the tag")
        if isinstance(event, ev.ScalarEvent):
            plain = event.style is None
            return scalar(event.value) if plain else event.value
        if isinstance(event, ev.SequenceStartEvent):
            return self.sequence(path)
        return self.mapping(path)

    def sequence(self, path: KeyPath) -> list[object]:
        items: list[object] = []
        for event in self.events:
            if isinstance(event, ev.SequenceEndEvent):
                break
            items.append(self.node(event, (*path, len(items))))
        return items

    def mapping(self, path: KeyPath) -> dict[str, object]:
        found: dict[str, object] = {}
        for event in self.events:
            if isinstance(event, ev.MappingEndEvent):
                break
            key = self.key(event, path)
            here = (*path, key)
            twice = key in found
            value = self.node(next(self.events), here)
            if twice:
                self.complain(here, event, f"the key `{key}` a second time", "each key once", "remove one of them")
            else:
                found[key] = value
                self.document.lines[here] = _line(event)
        return found

    def key(self, event: ev.Event, path: KeyPath) -> str:
        if isinstance(event, ev.ScalarEvent):
            if event.value == "<<" and event.style is None:
                self.complain(path, event, "a merge key `<<`", "values written out")
            if event.tag is not None or event.anchor is not None:
                self.complain(path, event, f"a tag or an anchor on the key `{event.value}`", "plain YAML")
            return event.value
        self.complain(path, event, "a key that is not a word", "`key: value`")
        self.node(event, (*path, "?"))
        return "?"
