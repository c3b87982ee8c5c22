"""Datasets to report on, made by the engine with its fake backend, and a reader of their pages."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from tests.doubles.fake_backend import FakeImages
from tests.doubles.shards import run_shard
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import read_head
from xreal_synth.engine.worker import environment
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.resources import Resources, actor_shape
from xreal_synth.run.setup import claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import ImageQuality, Rejected, Sample

RECIPE = """
version: 1
name: told
seed: 3
anatomies: 12
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 2, labels: [{name: Pneumonia}]}
  - {weight: 1, labels: [{name: Effusion, side: right, zone: lower}, {name: Edema}]}
pairs: {twin: true, sham: 1.0}
sampling: {steps: 5}
quality: {profile: none}
split: {val: 0.3}
output: {uri: unset, shard_samples: 4}
"""
VOID = {"meta", "link", "br", "img", "image", "use", "rect", "path", "line"}

Make = Callable[..., LocalStore]


def make(folder: Path, text: str = RECIPE, shards: int | None = None, asked: int | None = None) -> LocalStore:
    """A run's first `shards` shards, finished as a run that asked for `asked` groups finishes them."""
    run = open_run(LoadedRecipe(recipe_from_text(text), text))
    backend = FakeImages().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    store = LocalStore(folder)
    claim(run, store, environment(backend))
    for shard in range(run.plan.shard_count if shards is None else shards):
        run_shard(run, backend, run.plan.shard(shard), store)
    finish(store, read_head(store), split_of=run.plan.split, asked=asked or run.recipe.anatomies)
    return store


QUALITY: dict[str, object] = {
    "profile": "standard",
    "max_attempts": 3,
    "checks": {"organs": {"action": "reject", "heart": 0.6}},
}
REFUSED = (
    Rejected(0, 0, 1, "Pneumonia: no place after 40 tries", False, findings=("Pneumonia",)),
    Rejected(1, 1, 1, "organs.heart 0.41 is below 0.6", False, "organs.heart", "v0", ("Pneumonia",)),
    Rejected(1, 2, 1, "organs.heart 0.39 is below 0.6", False, "organs.heart", "v0", ("Pneumonia",)),
    Rejected(2, 5, 0, "organs.heart 0.2 is below 0.6", True, "organs.heart", "h", ()),
)


def scored(sample: Sample) -> Sample:
    """With scores that follow from the group's number; images of group 3 are flagged."""
    group, heart = sample.meta.group, 0.6 + 0.03 * sample.meta.group
    scores = {"organs.heart": heart, "change.outside": 0.01 * group, "pixels.blur": 0.5}
    flags = ("pixels.blur",) if group == 3 else ()
    quality = ImageQuality("standard", scores, flags)
    return dataclasses.replace(sample, meta=dataclasses.replace(sample.meta, quality=quality))


@dataclass(frozen=True)
class Tag:
    name: str
    attributes: dict[str, str | None]


class Reader(HTMLParser):
    """Every tag of a page and its text; raises AssertionError where tags do not close in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[Tag] = []
        self.text: list[str] = []
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append(Tag(tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(Tag(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag, f"</{tag}> closes another tag (line {self.getpos()[0]})"

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text.append(data)

    @property
    def words(self) -> str:
        """The page's text, white space as one blank."""
        return " ".join(" ".join(self.text).split())

    def values(self, attribute: str) -> list[str]:
        return [value for tag in self.tags if (value := tag.attributes.get(attribute)) is not None]


def read_page(data: bytes) -> Reader:
    """The page, if it is well-formed."""
    reader = Reader()
    reader.feed(data.decode())
    reader.close()
    assert not reader._open, f"never closed: {reader._open}"
    return reader
