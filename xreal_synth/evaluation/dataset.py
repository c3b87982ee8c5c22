"""`evaluate DATASET`: a finished dataset's images, streamed from its shards, measured beside real images.

The images come from the caller, one by one. What is kept of each is what the evaluators saw of it.

Gated and ungated: images that a gate refused are stored nowhere, so they cannot be judged. `rows` are of all
delivered images, flagged ones among them; `rows_unflagged` of those without flags, where any image has one;
the share accepted is counted from the records. What a gate changes is seen by making the dataset twice, with
`quality.profile: none` and with the gate, and `evaluate compare`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.dataset_figures import (
    DIVERSITY,
    DatasetRow,
    GateCounts,
    Sets,
    findings_of,
    rows_of,
)
from xreal_synth.evaluation.evaluators import Evaluators
from xreal_synth.evaluation.image_sets import GivenImage, measure_set
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.real_side import PairFinder, RealSide
from xreal_synth.findings import NO_FINDING, TXRV18
from xreal_synth.types import Role, Sample, SampleMeta

LABEL_SET: Final = "txrv18"

Report = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class DatasetFigures:
    """Figures of a dataset. `images` counts made ones, `real_images` those of the dataset that are a patient's own."""

    rows: tuple[DatasetRow, ...]
    rows_unflagged: tuple[DatasetRow, ...]
    images: int
    groups: int
    real_images: int
    flagged: int
    pairs: int
    augmented: int
    asked: dict[str, int]


@dataclass(slots=True)
class _Passing:
    """Counts images on their way to the evaluators, and leaves out those that are a patient's own."""

    pairs: PairFinder
    real_images: int = 0
    groups: set[int] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)

    def seen(self, samples: Iterable[Sample], on_image: Callable[[int], None]) -> Iterator[GivenImage]:
        for sample in samples:
            meta = sample.meta
            if meta.source is not None and meta.member == Role.healthy:
                self.real_images += 1
                on_image(1)
                continue
            self.groups.add(meta.group)
            self.asked.update({finding.name for finding in meta.findings})
            positive, unknown = _names(meta)
            yield GivenImage(
                image=sample.image,
                mask=sample.anatomy if sample.anatomy.any() else None,
                group=self.pairs.unit(meta),
                positive=positive,
                unknown=unknown,
                paired=self.pairs.ms_ssim(sample),
                flagged=meta.quality is not None and bool(meta.quality.flags),
            )


def _names(meta: SampleMeta) -> tuple[frozenset[str], frozenset[str]]:
    """What is positive and what is not known of an image, in names of NAMES.

    An image made without findings counts as one of No Finding, also where its heart is large.
    """
    labels = meta.labels[LABEL_SET]
    positive = {name for name in TXRV18 if labels[name] == 1}
    unknown = {name for name in TXRV18 if labels[name] is None}
    if meta.labels["chexpert14"][NO_FINDING] == 1 or not (positive or meta.source):
        positive.add(NO_FINDING)
    elif not positive:
        unknown.add(NO_FINDING)
    return frozenset(positive), frozenset(unknown)


def measure_dataset(
    evaluators: Evaluators,
    samples: Iterable[Sample],
    total: int,
    real: RealSide,
    pairs: PairFinder,
    gate: GateCounts | None,
    inception: InceptionFeatures | None,
    report: Report,
    where: str,
) -> DatasetFigures:
    """Looks at the images and works out every figure; raises DatasetError if there is no generated image to judge."""
    passing = _Passing(pairs)

    def on_image(done: int) -> None:
        report("looking at the dataset", done, total)

    made = measure_set(evaluators, passing.seen(samples, on_image), inception=inception, on_image=on_image)
    if len(made) < 2:
        raise DatasetError(
            where=where,
            found=f"{len(made)} generated images (and {passing.real_images} real ones as they are)",
            wanted="two generated images or more",
            hint="evaluate a dataset with made or edited images",
        )
    sets = Sets(made, real.reference, real.second, pairs.reader.size)
    findings = findings_of(made, list(passing.asked))
    kept = ~made.flagged
    unflagged: list[DatasetRow] = []
    if made.flagged.any() and kept.sum() >= 2:
        of_kept = Sets(made.rows(kept), real.reference, real.second, sets.size)
        unflagged = [row for row in rows_of(of_kept, evaluators.findings, findings) if row.name != DIVERSITY]
    return DatasetFigures(
        rows=tuple(rows_of(sets, evaluators.findings, findings, gate)),
        rows_unflagged=tuple(unflagged),
        images=len(made),
        groups=len(passing.groups),
        real_images=passing.real_images,
        flagged=int(made.flagged.sum()),
        pairs=pairs.pairs,
        augmented=pairs.augmented,
        asked=dict(sorted(passing.asked.items())),
    )


def check_labels(asked: Iterable[str], judged: Iterable[str], real: Iterable[str], where: str) -> None:
    """Raises DatasetError where the dataset's findings are none of the evaluators', or no real image has any."""
    asked, judged, real = set(asked), set(judged), set(real)
    if not asked:
        return
    for known, words, hint in (
        (
            judged,
            "the evaluator classifier knows",
            "train evaluators on these findings and give them with --evaluators",
        ),
        (
            real,
            "the real images show",
            "name another split or manifest, with images that show these findings",
        ),
    ):
        if not asked & known:
            raise DatasetError(
                where=where,
                found=f"a dataset of {', '.join(sorted(asked))}, none of which {words}: "
                f"{', '.join(sorted(known)) or 'nothing'}",
                wanted="a finding in common, or the images' labels cannot be judged",
                hint=hint,
            )


def as_record(figures: DatasetFigures) -> dict[str, Any]:
    """The figures as plain data, NaN where there is none."""
    return {
        "rows": [row.record() for row in figures.rows],
        "rows_unflagged": [row.record() for row in figures.rows_unflagged],
    }
