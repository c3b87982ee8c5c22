"""Events as lines of text, for logs without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from xreal_synth.engine.progress import EVENTS, Advanced, Event, RunEnded


class LineLog:
    """Says every event once, progress at most every `every_s` seconds; the end is for others to say."""

    def __init__(
        self, say: Callable[[str], None], every_s: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._every, self._clock = say, every_s, clock
        self._reported_at = clock()

    def on_event(self, event: Event) -> None:
        if isinstance(event, RunEnded):
            return
        if isinstance(event, Advanced):
            if self._clock() - self._reported_at < self._every:
                return
            self._reported_at = self._clock()
        self._say(str(event))


def line_of_logged(line: Mapping[str, object]) -> str:
    """An event of a run's log (dataset/status.py) in one line, with its time."""
    reported: dict[str, Any] = {key: value for key, value in line.items() if key not in ("at", "run", "event")}
    name = str(line["event"])
    try:
        words = _words(name, reported)
    except (TypeError, ValueError, AttributeError, KeyError):  # of another version of this package
        words = f"{name}: {', '.join(f'{key} {value}' for key, value in reported.items())}"
    return f"{str(line['at'])[:19].replace('T', ' ')}  {words}"


def _words(name: str, reported: dict[str, Any]) -> str:
    if name == "run_opened":
        return (
            f"run of xreal-synth {reported['package']} with Ray {reported['ray']} on {reported['host']}, "
            f"digest {reported['digest'][:12]}"
        )
    if name == "run_ended":
        images, seconds = reported["generated_images"], reported["seconds"]
        ended = f"ended with exit code {reported['exit_code']}: {images} images in {seconds:.0f} s"
        message = f"; {reported['message']}" if reported["message"] else ""
        return f"{ended}, {reported['shards_done']} of {reported['shards_total']} shards done{message}"
    if name == "run_failed":
        return f"broken off: {reported['error']}: {reported['message']}"
    kind = EVENTS[name]
    return str(kind(**{one.name: reported[one.name] for one in fields(kind) if one.name in reported}))
