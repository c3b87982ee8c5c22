"""report.html: one self-contained page that says what was asked, what was made, how good it is, and what is not there.

No script and no address: pictures are data URIs, charts inline SVG, zoom is HTML's popover. What comes from
users (names, reasons, recipe) is escaped by the template. The same dataset gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import jinja2

from xreal_synth.dataset.check import local_copy
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import (
    QUARANTINE,
    RECORDS,
    REJECTED,
    SAMPLES,
    SHARDS,
    quarantine_key,
    shards_in,
    stem_of,
)
from xreal_synth.dataset.note import read_note
from xreal_synth.dataset.seal import unsealed
from xreal_synth.dataset.summary import DatasetSummary
from xreal_synth.errors import DatasetError, RecipeError, StorageError
from xreal_synth.escaping import without_places
from xreal_synth.models.describe import BundleInfo
from xreal_synth.recipe.load import in_todays_words, recipe_from_text
from xreal_synth.report.card import TEMPLATES, sizes_in_words
from xreal_synth.report.drawing import BUDGET, FULL_CHANGE, within_budget
from xreal_synth.report.figures import number, organ_outlines
from xreal_synth.report.measured import measured
from xreal_synth.report.picks import MOST_SHARDS, Picker
from xreal_synth.report.streamed import refusals, stream
from xreal_synth.report.strips import MEAN_GROUPS, read_strips
from xreal_synth.report.view import (
    findings_shown,
    gate_shown,
    healthy_rows,
    label_sets,
    pictures_of,
    ratios_chart,
    rows_made,
    scores_shown,
    sheets_of,
    worst_of,
)
from xreal_synth.storage import Store

_CHANGES: Final = {
    "rotate_deg": "turned up to {:g}°", "shift": "shifted up to {:.0%}", "scale": "resized up to {:.0%}",
    "elastic": "warped up to {:.0%}",
}  # fmt: skip
_CONTROL: Final = {
    "xreal": "held to the organ mask through a rough image in the first steps (XReal)",
    "controlnet": "led by the organ mask through a ControlNet",
    "none": "not made to follow the organ mask",
}
_MODE: Final = {
    "branch": "a finding's image branches off from its healthy twin's",
    "reference": "as the authors' released code computes",
    "paper": "Algorithm 1 as printed",
    "joint": "one trajectory an image, the findings asked for from its first step",
}


def recipe_in_words(head: DatasetHead) -> list[tuple[str, str]]:
    """(what, words) for the main settings; what a dataset's settings do not tell is left out."""
    reported = [
        ("Anatomies", _anatomy(_part(head.settings, "anatomy"))),
        ("Places of findings", _placement(_part(head.settings, "placement"), head.real_images)),
        ("Images of a group", _pairs(_part(head.settings, "pairs"), head.real_images)),
        ("Sampling", _sampling(_part(head.settings, "sampling"), head.real_images)),
        ("Labels nobody asked for", _labels(_part(head.settings, "labels"), head.real_images)),
        ("Checks", _quality(_part(head.settings, "quality"))),
        ("Seed", str(head.settings.get("seed", ""))),
    ]
    return [(what, words) for what, words in reported if words]


def _anatomy(anatomy: Mapping[str, Any]) -> str:
    source = anatomy.get("source")
    if isinstance(source, Mapping) and "images" in source:
        return "real images: findings are painted in or over on each image itself"
    if isinstance(source, Mapping) and "masks" in source:
        drawn = "organ masks from a folder"
    elif source == "bank":
        drawn = "organ masks drawn from the bundle's shape model"
    else:
        return ""
    change = _part(anatomy, "augment")
    reported = [form.format(change[key]) for key, form in _CHANGES.items() if change.get(key)]
    if isinstance(change.get("heart_scale"), list):
        low, high = change["heart_scale"]
        reported.append(f"hearts {low:g} to {high:g} times as large")
    return f"{drawn}, {', '.join(reported)}" if reported else drawn


def _placement(placement: Mapping[str, Any], real: bool) -> str:
    if not placement:
        return ""
    least = placement.get("min_overlap")
    drawn = "boxes drawn where radiologists boxed such findings on NIH and RSNA images"
    if least is None:
        return drawn
    masks = "" if not real else ", where an image has an organ mask"
    return f"{drawn}; at least {least:.0%} of a box inside organs where the finding can live{masks}"


def _pairs(pairs: Mapping[str, Any], real: bool) -> str:
    if not pairs:
        return ""
    variants = pairs.get("variants", 1)
    one = "edit" if real else "image"
    reported = [f"{variants} {one}{'s' if variants != 1 else ''} with findings on each anatomy"]
    if pairs.get("twin"):
        reported.append(
            "the image as it was" if real else "its healthy twin, equal outside the finding's region"
        )
    if pairs.get("sham"):
        reported.append(f"sham edits (same region, healthy prompt) for {pairs['sham']:.0%} of the groups")
    if pairs.get("edit_negatives"):
        reported.append("groups without findings edited likewise, to no effect")
    return "; ".join(reported)


def _sampling(sampling: Mapping[str, Any], real: bool) -> str:
    if "steps" not in sampling:
        return ""
    reported = [f"{sampling['steps']} steps, guidance {sampling.get('guidance', 1):g}"]
    mode, control = str(sampling.get("mode", "")), str(sampling.get("control", ""))
    if not real and control in _CONTROL:
        reported.append(_CONTROL[control])
    if mode in _MODE and not real:
        reported.append(_MODE[mode])
    return "; ".join(reported)


def _labels(labels: Mapping[str, Any], real: bool) -> str:
    if real:
        return "images keep their own labels; what nobody read an image for is null (unknown)"
    return {
        "negative": "0, by the recipe and not by anyone's reading",
        "unknown": "null (unknown)",
        "checked": "0 where the healthy twin passes the classifier's check, else null",
    }.get(str(labels.get("unrequested")), "")


def _quality(quality: Mapping[str, Any]) -> str:
    profile = quality.get("profile")
    if profile is None:
        return ""
    if profile == "none":
        return "none: no image was looked at before it was delivered (quality.profile: none)"
    tries = f"up to {quality.get('max_attempts', 1)} tries with new noise, then with new anatomy"
    checks = quality.get("checks")
    reported = checks if isinstance(checks, Mapping) else {}
    actions = ", ".join(f"{name} {check.get('action')}" for name, check in reported.items())
    return f"profile {profile} ({actions}); {tries}"


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}


LISTED: Final = 20

State = Literal["complete", "partial", "unknown"]


@dataclass(frozen=True, slots=True)
class FailedShard:
    """A shard in quarantine, with its reason."""

    shard: str
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """`asked` groups, None where nobody told; `planned` shards of them. `failed` lists the first LISTED of
    `quarantined`; `unmade` shards have no record for another reason."""

    state: State
    asked: int | None
    planned: int | None
    quarantined: int
    failed: tuple[FailedShard, ...]
    unmade: int

    @property
    def words(self) -> str:
        """The state as the page's headline says it."""
        return "as far as made" if self.state == "unknown" else self.state


def status_of(store: Store, head: DatasetHead, summary: DatasetSummary, recipe_text: str) -> Status:
    """What is done against what the last run asked for, or recipe.yaml where no run has told.

    recipe.yaml is the file as given: `--set anatomies=..` may have changed it, so that less than it asks for
    is told as unknown.
    """
    done = set(shards_in(store, RECORDS, head.name))
    quarantined = sorted(set(shards_in(store, QUARANTINE, head.name)) - done)
    begun = set(shards_in(store, SHARDS, head.name)) | set(quarantined) | done
    covered = summary.groups + summary.dropped
    note = read_note(store)
    asked, sure = (note.groups if note else summary.asked), True
    if asked is None or asked < covered:
        asked, sure = _in_recipe(recipe_text), False
    if asked is not None and asked < covered:
        asked = None
    planned = -(-asked // head.shard_samples) if asked is not None and sure else None
    wanted = set(range(planned if planned is not None else max(begun, default=-1) + 1))
    unmade = len(wanted - done - set(quarantined))
    failed = tuple(_failed(store, head, shard) for shard in quarantined[:LISTED])
    state: State = "unknown"
    if quarantined or unmade or (sure and asked is not None and covered < asked):
        state = "partial"
    elif asked == covered:
        state = "complete"
    reported = asked if sure or state == "complete" else None
    return Status(state, reported, planned, len(quarantined), failed, unmade)


def _failed(store: Store, head: DatasetHead, shard: int) -> FailedShard:
    key = quarantine_key(stem_of(head.name, shard))
    try:
        reason = str(unsealed(store.read_bytes(key), key).get("reason", ""))
    except (DatasetError, StorageError) as error:
        reason = error.found
    return FailedShard(stem_of(head.name, shard), reason)


def _in_recipe(text: str) -> int | None:
    try:
        return recipe_from_text(in_todays_words(text)).anatomies
    except RecipeError:
        return None


RECIPE_SHOWN: Final = 60_000
"""Characters of the recipe's text."""


def report_html(
    store: Store, head: DatasetHead, summary: DatasetSummary, recipe_text: str, *, bundle: BundleInfo | None
) -> bytes:
    """The page's bytes, from the dataset's finished tables and a few of its tars.

    Raises DatasetError, StorageError where those cannot be read.
    """
    shards = shards_in(store, RECORDS, head.name)
    picker = Picker(shards, healthy_rows(head))
    with local_copy(store, SAMPLES) as path:
        streamed = stream(path, picker)
    with local_copy(store, REJECTED) as path:
        refused = refusals(path)
    worst = {score.name: worst_of(score) for score in streamed.scores}
    wanted = [(pick.shard, pick.key) for pick in streamed.picks]
    wanted += [(one.shard, one.key) for images in worst.values() for one in images]
    images = read_strips(store, head, wanted, picker.shards if summary.samples else ())
    status = status_of(store, head, summary, recipe_text)
    pictures, width = within_budget(pictures_of(streamed, images))
    rows = rows_made(head, summary, refused, status.asked)
    page = _environment().get_template("report.html.j2")
    text = page.render(
        head=head, summary=summary, status=status, bundle=bundle, recipe=_shortened(recipe_text),
        words=recipe_in_words(head), rows=rows, refused=refused, streamed=streamed,
        label_sets=label_sets(summary.labels), findings=findings_shown(streamed, rows, head, images.mean),
        gate=gate_shown(summary), profile=head.setting("quality", "profile") or "none",
        scores=scores_shown(head, streamed, worst, images),
        ratios=ratios_chart(streamed), sheets=sheets_of(streamed, images, real=head.real_images),
        pictures=pictures, width=width, picture_bytes=sum(len(one.uri) for one in pictures), budget=BUDGET,
        mean=images.mean, mean_outlines=organ_outlines(dict(images.mean.organs)),
        spread=len(picker.shards), most_shards=MOST_SHARDS, mean_groups=MEAN_GROUPS, full_change=FULL_CHANGE,
        measured=measured(store, head), sizes=sizes_in_words(summary), control=head.setting("sampling", "control"),
        images_digest=head.setting("anatomy", "source", "images", "content"),
        masks_path=without_places(head.setting("anatomy", "source", "masks", "path") or ""),
        masks_digest=head.setting("anatomy", "source", "masks", "content"),
        unrequested=head.setting("labels", "unrequested"),
        reading=streamed.findings[0].name if streamed.findings else "Pneumonia",
    )  # fmt: skip
    return text.encode()


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"n": _thousands, "pct": _percent, "num": number, "size": _bytes, "time": _time}
    environment.filters["figure"] = _figure
    return environment


def _shortened(recipe: str) -> str:
    recipe = without_places(recipe.rstrip())
    if len(recipe) <= RECIPE_SHOWN:
        return recipe
    return f"{recipe[:RECIPE_SHOWN]}\n# cut here: the whole is in recipe.yaml"


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if 0 < value < 0.0995 or 0.9 < value < 1 else f"{value:.0%}"


def _figure(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else number(value)


def _bytes(value: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value} bytes"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
