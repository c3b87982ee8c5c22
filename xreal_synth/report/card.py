"""README.md of a dataset: a Hugging Face dataset card that says what was asked, what was made and how."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
import yaml
from markupsafe import Markup

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import HUB_SPLITS, SHARDS
from xreal_synth.dataset.record import DatasetSummary, LabelTally
from xreal_synth.escaping import for_markdown, without_places
from xreal_synth.models.describe import BundleInfo
from xreal_synth.report.words import asked_rows

Layout = Literal["shards", "parquet"]
"""What lies beside the card: the dataset itself, or its export as parquet files by split."""

_HUB_LICENCES: Final = ["cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "apache-2.0", "mit"]
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))


def dataset_card(
    head: DatasetHead,
    summary: DatasetSummary,
    recipe_text: str,
    *,
    bundle: BundleInfo | None,
    layout: Layout = "shards",
    sheet: bool = True,
) -> str:
    """The card's Markdown with its YAML front matter; without the bundle its licence is left open.

    `sheet` says that contact_sheet.png lies beside it.
    """
    given = context(head, summary, bundle)
    reading = [one.column for one in given["label_sets"].get("txrv18", ()) if one.positive][:3]
    environment = templates(autoescape=False, keep_trailing_newline=True, finalize=for_markdown)
    return environment.get_template("card.md.j2").render(
        given,
        front_matter=Markup(front_matter(head, summary, bundle, layout)),  # noqa: S704 (YAML)
        recipe=Markup(_fenced(without_places(recipe_text), "yaml")),  # noqa: S704 (in a fence)
        layout=layout,
        sheet=sheet,
        mixed=_mixed(summary),
        first_split=next((name for split, name in HUB_SPLITS.items() if summary.splits.get(split)), "train"),
        reading_labels=[column.partition(".")[2] for column in reading] or ["Pneumonia"],
    )


def context(head: DatasetHead, summary: DatasetSummary, bundle: BundleInfo | None) -> dict[str, Any]:
    """What both the card's and the page's templates are given."""
    return {
        "head": head,
        "summary": summary,
        "bundle": bundle,
        "rows": asked_rows(head, summary),
        "label_sets": label_sets(summary.labels),
        "sizes": " and ".join(f"{width} x {height}" for height, width in summary.image_sizes) or "-",
        "unrequested": head.setting("labels", "unrequested"),
        "control": head.setting("sampling", "control"),
        "profile": head.setting("quality", "profile") or "none",
        "images": head.setting("anatomy", "source", "images", "content"),
        "masks": head.setting("anatomy", "source", "masks", "content"),
    }


def templates(**how: Any) -> jinja2.Environment:
    """The room's templates; `how` is jinja2's."""
    environment = jinja2.Environment(  # noqa: S701 (Markdown; the page escapes)
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **how,
    )
    environment.filters["n"] = thousands
    return environment


def thousands(value: float) -> str:
    """`12,345` or `0.5`."""
    return f"{value:,.0f}" if round(value, 1) == round(value) else f"{value:,.1f}"


def front_matter(
    head: DatasetHead, summary: DatasetSummary, bundle: BundleInfo | None, layout: Layout = "shards"
) -> str:
    """The Hub's YAML block, without its fences."""
    what, kind = ("edited chest X-rays", "edited") if head.real_images else ("synthetic chest X-rays", "synthetic")
    licence = {"license": "other", "license_name": "as-the-images"} if head.real_images else _licence(bundle)
    fields: dict[str, object] = {**licence, "pretty_name": f"{head.name} ({what})"}
    fields["task_categories"] = ["image-classification", "object-detection", "image-segmentation"]
    fields["annotations_creators"] = ["machine-generated"]
    form = ["webdataset"] if layout == "shards" else []
    fields["tags"] = [kind, "medical", "chest-x-ray", *form, "not-for-diagnosis"]
    fields["size_categories"] = [next((name for most, name in _SIZES if summary.samples < most), "n>10M")]
    fields["configs"] = [{"config_name": "default", "data_files": _files(summary, layout)}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000).rstrip()


def _mixed(summary: DatasetSummary) -> bool:
    """Whether a tar may hold images of more than the training split."""
    return bool(set(summary.splits) - {"train"})


def _files(summary: DatasetSummary, layout: Layout) -> list[dict[str, str]]:
    """The tables by split, or the tars: where splits share a tar, what they hold is not called train."""
    if layout == "shards":
        return [{"split": "mixed" if _mixed(summary) else "train", "path": f"{SHARDS}/*.tar"}]
    splits = [name for split, name in HUB_SPLITS.items() if summary.splits.get(split)]
    return [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]


def label_sets(labels: Sequence[LabelTally]) -> dict[str, list[LabelTally]]:
    """Per label set, the labels that are not 0 everywhere, the most frequent first."""
    ranked = sorted(labels, key=lambda one: (-one.positive, one.unknown, one.column))
    shown = [tally for tally in ranked if tally.positive or tally.unknown]
    names = sorted({tally.column.partition(".")[0] for tally in labels}, reverse=True)
    return {name: [tally for tally in shown if tally.column.startswith(f"{name}.")] for name in names}


def _licence(bundle: BundleInfo | None) -> dict[str, object]:
    if bundle is None:
        return {"license": "other", "license_name": "see-the-bundle"}
    known = re.sub(r"[\s_]+", "-", bundle.licence.strip().lower())
    if known in _HUB_LICENCES:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known).strip("-") or "unnamed"}


def _fenced(text: str, language: str) -> str:
    """A fenced block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
