"""The contents of a report's page, put together from what was counted and read: rows, sheets, charts, words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.summary import DatasetSummary, LabelTally
from xreal_synth.quality.catalogue import SCORES
from xreal_synth.report.card import AskedRow, asked_rows
from xreal_synth.report.drawing import Picture, heat_picture
from xreal_synth.report.figures import Extreme, Histogram, Line, histogram_svg, number
from xreal_synth.report.picks import NO_FINDING, PAINTED_OVER
from xreal_synth.report.streamed import PaintedFinding, Refusals, Streamed, StreamedScore
from xreal_synth.report.strips import GreyImages, MeanAnatomy, Strip

End = Literal["low", "high"]

_DONE: Final = {"reject": "refused", "warn": "flagged"}


def words_for(name: str) -> str:
    """A score's meaning with a capital; empty for one that no check of this version has."""
    words = SCORES.get(name, (True, ""))[1]
    return words[:1].upper() + words[1:]


def worst_end(name: str) -> End:
    """Where the worst images of a score are; of one that is not known the lowest."""
    return "low" if SCORES.get(name, (True, ""))[0] else "high"


def bound_of(head: DatasetHead, name: str) -> Line | None:
    """The bound of a score, at `quality.checks.FAMILY` of the digested settings, and what is done beyond it."""
    family, _, score = name.partition(".")
    check = head.setting("quality", "checks", family)
    if not isinstance(check, dict):
        return None
    value = check.get(score)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    side = "below" if worst_end(name) == "low" else "above"
    return Line(float(value), f"{_DONE.get(str(check.get('action')), 'beyond')} {side}")


_HEATS: Final = 8
"""Findings whose boxes are drawn, the most frequent."""
_WORST: Final = 4


@dataclass(frozen=True, slots=True)
class RowMade:
    """A findings row: what was asked for and what came of it. `asked` groups is None where not known."""

    asked_row: AskedRow
    share: float
    asked: float | None
    made_share: float
    refused: int
    dropped: int


@dataclass(frozen=True, slots=True)
class FindingAccepted:
    """Attempts at groups that ask for a finding, as the gate counted them."""

    name: str
    tried: int
    accepted: int

    @property
    def share(self) -> float:
        """Accepted over tried, 0 where nothing was tried."""
        return self.accepted / self.tried if self.tried else 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A strip, the name that its pictures begin with, and a caption."""

    strip: Strip
    name: str
    caption: str


@dataclass(frozen=True, slots=True, eq=False)
class Sheet:
    """Images of one kind of finding."""

    title: str
    images: int
    shown: tuple[Shown, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreShown:
    """A score's chart and the worst images by it."""

    name: str
    words: str
    chart: Markup
    histogram: Histogram
    flagged: int
    worst: tuple[Shown, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ShownFinding:
    """A painted finding's figures; `heat` names its picture, "" where its region is an organ."""

    finding: PaintedFinding
    groups: int
    asked: float | None
    heat: str
    sizes: Markup | None


def healthy_rows(head: DatasetHead) -> frozenset[int]:
    """Numbers of the findings rows that paint nothing."""
    rows = head.settings.get("findings")
    paints = ("labels", "variants", "edit")
    return frozenset(
        number
        for number, row in enumerate(rows if isinstance(rows, list) else [])
        if isinstance(row, Mapping) and not any(row.get(key) for key in paints)
    )


def worst_of(score: StreamedScore) -> tuple[Extreme, ...]:
    """The delivered images nearest to being refused."""
    return (score.lowest if worst_end(score.name) == "low" else score.highest)[:_WORST]


def pictures_of(streamed: Streamed, images: GreyImages) -> dict[str, Picture]:
    """Every picture of the page once, by name."""
    found: dict[str, Picture] = {}
    for key, strip in images.strips.items():
        found[f"{key}-image"] = strip.image
        for kind in ("twin", "change", "sham"):
            picture = getattr(strip, kind)
            if picture is not None:
                found[f"{key}-{kind}"] = picture
    mean = images.mean.image
    if mean is not None:
        found["mean"] = mean
        for number, one in enumerate(_heated(streamed)):
            assert one.share is not None
            found[f"heat-{number}"] = heat_picture(mean, one.share)
    return found


def _heated(streamed: Streamed) -> list[PaintedFinding]:
    return [one for one in streamed.findings if one.share is not None][:_HEATS]


def rows_made(
    head: DatasetHead, summary: DatasetSummary, refused: Refusals, asked: int | None
) -> tuple[RowMade, ...]:
    """The recipe's rows with their share asked for and made, and what was refused and dropped of each."""
    rows = asked_rows(head, summary)
    weights = sum(float(row.weight) for row in rows) or 1.0
    made = sum(row.groups for row in rows) or 1
    return tuple(
        RowMade(
            row,
            float(row.weight) / weights,
            None if asked is None else asked * float(row.weight) / weights,
            row.groups / made,
            refused.attempts.get(number, 0),
            refused.dropped.get(number, 0),
        )
        for number, row in enumerate(rows)
    )


def _row_findings(head: DatasetHead) -> list[set[str]]:
    """The findings that each row of the recipe names."""
    rows = head.settings.get("findings")
    found = []
    for row in rows if isinstance(rows, list) else []:
        kinds = [row, *(row.get("variants") or [])] if isinstance(row, Mapping) else []
        labels = [label for kind in kinds for label in (kind.get("labels") or [])]
        found.append({str(label.get("name")) for label in labels if isinstance(label, Mapping)})
    return found


def findings_shown(
    streamed: Streamed, rows: tuple[RowMade, ...], head: DatasetHead, mean: MeanAnatomy
) -> list[ShownFinding]:
    """The findings with the groups asked for and made, their heat map's name and their histogram of sizes."""
    named = _row_findings(head)
    heated = {one.name: f"heat-{number}" for number, one in enumerate(_heated(streamed)) if mean.count}
    shown = []
    for one in streamed.findings:
        mine = [row for row, names in zip(rows, named, strict=False) if one.name in names]
        asked = [row.asked for row in mine if row.asked is not None]
        sizes = (
            histogram_svg(one.sizes, f"{one.name}: box area over lung area, mean {number(one.sizes.mean)}")
            if one.sizes
            else None
        )
        groups = sum(row.asked_row.groups for row in mine)
        shown.append(
            ShownFinding(one, groups, sum(asked) if asked else None, heated.get(one.name, ""), sizes)
        )
    return shown


def gate_shown(summary: DatasetSummary) -> list[FindingAccepted]:
    """Acceptance by finding, the most tried first; nothing without a gate."""
    gate = summary.gate
    if gate is None:
        return []
    tried = sorted(gate.tried.items(), key=lambda item: (-item[1], item[0]))
    return [FindingAccepted(name, count, gate.accepted.get(name, 0)) for name, count in tried]


def scores_shown(
    head: DatasetHead, streamed: Streamed, worst: Mapping[str, Iterable[Extreme]], images: GreyImages
) -> list[ScoreShown]:
    """Each score of the gate with its histogram, its bound if it has one, and its worst images."""
    shown = []
    for score in streamed.scores:
        bound, histogram = bound_of(head, score.name), score.histogram
        label = (
            f"{score.name} of {histogram.count} images: mean {number(histogram.mean)}, from "
            f"{number(histogram.low)} to {number(histogram.high)}"
        )
        images_of = tuple(
            Shown(images.strips[one.key], one.key, f"{score.name} {number(one.value)}")
            for one in worst[score.name]
        )
        chart = histogram_svg(histogram, label, () if bound is None else (bound,))
        shown.append(
            ScoreShown(score.name, words_for(score.name), chart, histogram, score.flagged, images_of)
        )
    return shown


def ratios_chart(streamed: Streamed) -> Markup | None:
    """The histogram of cardiothoracic ratios with a line at 0.5; None where no mask has one."""
    found = streamed.ratios
    if found is None:
        return None
    label = f"cardiothoracic ratio of {found.count} masks: mean {number(found.mean)}"
    return histogram_svg(found, label, (Line(0.5, "0.5"),))


def sheets_of(streamed: Streamed, images: GreyImages, *, real: bool) -> list[Sheet]:
    """The images picked to be shown, a sheet a kind, with how many images there are of the kind."""
    sheets: dict[str, list[Shown]] = {}
    counts: Counter[str] = Counter()
    for pick in streamed.picks:
        strip = images.strips[pick.key]
        sheets.setdefault(pick.kind, []).append(Shown(strip, pick.key, _caption(strip)))
        counts[pick.kind] = pick.images
    titles = {NO_FINDING: "Images as they are", PAINTED_OVER: "Findings painted over"} if real else {}
    return [Sheet(titles.get(kind, kind), counts[kind], tuple(shown)) for kind, shown in sheets.items()]


def _caption(strip: Strip) -> str:
    reported = []
    for finding in strip.meta.findings:
        where = " ".join(word for word in (finding.side, finding.zone) if word not in ("any", ""))
        reported.append(f"{finding.name} ({where})" if where else finding.name)
    source = strip.meta.source
    if source is not None:
        reported += [f"{own.name} painted over" for own in source.findings if own.removed is not None]
        reported.append(f"image {source.id}")
    return ", ".join(reported)


def label_sets(labels: Iterable[LabelTally]) -> dict[str, list[LabelTally]]:
    """Per label set, the labels that are not 0 everywhere, the most frequent first."""
    reported: dict[str, list[LabelTally]] = {}
    for tally in sorted(labels, key=lambda one: (-one.positive, one.unknown, one.column)):
        mine = reported.setdefault(tally.column.partition(".")[0], [])
        if tally.positive or tally.unknown:
            mine.append(tally)
    return dict(sorted(reported.items(), reverse=True))
