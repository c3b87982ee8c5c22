"""README.md of a dataset: a Hugging Face dataset card that says what was asked, what was made and how."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import jinja2
import yaml
from markupsafe import Markup

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import HUB_SPLITS, SHARDS
from xreal_synth.dataset.summary import DatasetSummary, LabelTally
from xreal_synth.escaping import for_markdown, without_places
from xreal_synth.models.describe import BundleInfo
from xreal_synth.recipe.digest import ON_DISK
from xreal_synth.recipe.edits import EditRule

TEMPLATES: Final = Path(__file__).parent / "templates"

Layout = Literal["shards", "parquet"]
"""What lies beside the card: the dataset itself, or its export as parquet files by split."""

_HUB_LICENCES: Final = (
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0",
    "cc0-1.0",
    "apache-2.0",
    "mit",
)
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"),
                 (10**7, "1M<n<10M"))  # fmt: skip


@dataclass(frozen=True, slots=True)
class AskedRow:
    """One findings row of the recipe beside the groups made of it."""

    weight: str
    labels: str
    groups: int


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
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # noqa: S701 (Markdown)
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=for_markdown,
    )
    return environment.get_template("card.md.j2").render(
        front_matter=Markup(front_matter(head, summary, bundle, layout)),  # noqa: S704 (YAML)
        layout=layout,
        sheet=sheet,
        mixed=_mixed(summary),
        first_split=next((name for split, name in HUB_SPLITS.items() if summary.splits.get(split)), "train"),
        head=head,
        summary=summary,
        bundle=bundle,
        recipe=Markup(_fenced(without_places(recipe_text), "yaml")),  # noqa: S704 (in a fence)
        rows=asked_rows(head, summary),
        label_sets=_reported_labels(summary.labels),
        sizes=sizes_in_words(summary),
        megabytes=summary.bytes / 1e6,
        unrequested=head.setting("labels", "unrequested"),
        control=head.setting("sampling", "control"),
        profile=head.setting("quality", "profile"),
        checks=head.setting("quality", "checks") or {},
        images=head.setting("anatomy", "source", "images", "content"),
        masks=head.setting("anatomy", "source", "masks", "content"),
        fingerprint=dict(sorted(head.fingerprint.items())),
        reading_labels=_reading_labels(summary.labels),
    )


def front_matter(
    head: DatasetHead, summary: DatasetSummary, bundle: BundleInfo | None, layout: Layout = "shards"
) -> str:
    """The Hub's YAML block, without its fences."""
    what, kind = (
        ("edited chest X-rays", "edited") if head.real_images else ("synthetic chest X-rays", "synthetic")
    )
    licence = {"license": "other", "license_name": "as-the-images"} if head.real_images else _licence(bundle)
    fields: dict[str, object] = {**licence, "pretty_name": f"{head.name} ({what})"}
    fields["task_categories"] = ["image-classification", "object-detection", "image-segmentation"]
    fields["annotations_creators"] = ["machine-generated"]
    form = ["webdataset"] if layout == "shards" else []
    fields["tags"] = [kind, "medical", "chest-x-ray", *form, "not-for-diagnosis"]
    fields["size_categories"] = [next((name for most, name in _SIZES if summary.samples < most), "n>10M")]
    fields["configs"] = [{"config_name": "default", "data_files": _files(summary, layout)}]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=1000).rstrip()


def sizes_in_words(summary: DatasetSummary) -> str:
    """`256 x 256 and 512 x 512`, width before height."""
    return " and ".join(f"{width} x {height}" for height, width in summary.image_sizes) or "-"


def _mixed(summary: DatasetSummary) -> bool:
    """Whether a tar may hold images of more than the training split."""
    return bool(set(summary.splits) - {"train"})


def _files(summary: DatasetSummary, layout: Layout) -> list[dict[str, str]]:
    """The tables by split, or the tars: where splits share a tar, what they hold is not called train."""
    if layout == "shards":
        return [{"split": "mixed" if _mixed(summary) else "train", "path": f"{SHARDS}/*.tar"}]
    splits = [name for split, name in HUB_SPLITS.items() if summary.splits.get(split)]
    return [{"split": name, "path": f"data/{name}-*.parquet"} for name in splits]


def asked_rows(head: DatasetHead, summary: DatasetSummary) -> list[AskedRow]:
    """The recipe's findings rows in words, with the groups that were made of each."""
    rows = head.settings.get("findings")
    listed = rows if isinstance(rows, list) else []
    return [
        AskedRow(f"{row.get('weight', 1):g}", _row_in_words(row), summary.rows.get(i, 0))
        for i, row in enumerate(listed)
        if isinstance(row, Mapping)
    ]


def _row_in_words(row: Mapping[str, Any]) -> str:
    reported = [EditRule.model_validate(row["edit"]).words] if row.get("edit") else []
    kinds = [kind.get("labels") for kind in row.get("variants") or []] or [row.get("labels")]
    painted = [" + ".join(_label_in_words(label) for label in labels) for labels in kinds if labels]
    reported += [" / ".join(painted)] if painted else []
    healthy = " (on images without finding)" if row.get(ON_DISK["images"]) == "healthy" else ""
    return (" + ".join(reported) or "no finding") + healthy


def _label_in_words(label: Mapping[str, object]) -> str:
    details = [str(label[key]) for key in ("side", "zone") if label.get(key) not in (None, "any")]
    size, box = label.get("size"), label.get("box")
    if isinstance(size, list):
        details.append(f"{size[0]:.0%} to {size[1]:.0%} of the lung")
    if isinstance(box, list):
        details.append(f"box {', '.join(f'{value:g}' for value in box)}")
    return f"{label.get('name')} ({', '.join(details)})" if details else str(label.get("name"))


def _reported_labels(labels: Sequence[LabelTally]) -> dict[str, list[LabelTally]]:
    """Per label set, the labels that are not 0 everywhere, the most frequent first."""
    reported = sorted(
        (tally for tally in labels if tally.positive or tally.unknown), key=lambda t: -t.positive
    )
    sets = dict.fromkeys(tally.column.split(".")[0] for tally in labels)
    return {name: [tally for tally in reported if tally.column.startswith(f"{name}.")] for name in sets}


def _reading_labels(labels: Sequence[LabelTally]) -> list[str]:
    """Up to three labels worth training on, for the example."""
    columns = [tally for tally in labels if tally.column.startswith("txrv18.") and tally.positive]
    columns.sort(key=lambda tally: -tally.positive)
    return [tally.column.partition(".")[2] for tally in columns[:3]] or ["Pneumonia"]


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
