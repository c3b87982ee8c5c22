"""report.html: one self-contained page that says what was asked, what was made and how good it is.

No script and no address: pictures are data URIs, charts inline SVG, zoom is HTML's popover. What comes from
users (names, reasons, recipe) is escaped by the template. The same dataset gives the same bytes.
"""

from __future__ import annotations

from typing import Final

import jinja2

from xreal_synth.dataset.check import local_copy
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import RECORDS, REJECTED, SAMPLES, shards_in
from xreal_synth.dataset.summary import DatasetSummary
from xreal_synth.escaping import without_places
from xreal_synth.models.describe import BundleInfo
from xreal_synth.report.card import TEMPLATES, sizes_in_words
from xreal_synth.report.measured import measured
from xreal_synth.report.picks import SHARDS, Picker
from xreal_synth.report.pictures import BUDGET, FULL_CHANGE, within_budget
from xreal_synth.report.recipe_words import recipe_in_words
from xreal_synth.report.status import status_of
from xreal_synth.report.streamed import refusals, stream
from xreal_synth.report.strips import MEAN_GROUPS, read_strips
from xreal_synth.report.svg import number, organ_outlines
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

RECIPE_SHOWN: Final = 60_000
"""Characters of the recipe's text."""


def report_html(
    store: Store,
    head: DatasetHead,
    summary: DatasetSummary,
    recipe_text: str,
    *,
    bundle: BundleInfo | None,
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
        spread=len(picker.shards), most_shards=SHARDS, mean_groups=MEAN_GROUPS, full_change=FULL_CHANGE,
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
