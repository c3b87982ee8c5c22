"""`evaluate DATASET`: a finished dataset's images, streamed from its shards, measured beside real images.

The images come from the caller, one by one. What is kept of each is what the evaluators saw of it.

Gated and ungated: images that a gate refused are stored nowhere, so they cannot be judged. `rows` are of all
delivered images, flagged ones among them; `rows_unflagged` of those without flags, where any image has one;
the share accepted is counted from the records. What a gate changes is seen by making the dataset twice, with
`quality.profile: none` and with the gate, and `evaluate compare`.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import CaseReader
from xreal_synth.evaluation.dataset_figures import DIVERSITY, DatasetRow, Sets, findings_of, rows_of
from xreal_synth.evaluation.dataset_images import ChosenShards, choose, open_real
from xreal_synth.evaluation.dataset_record import FORMAT
from xreal_synth.evaluation.evaluators import Evaluators, load_evaluators
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.kept import as_read
from xreal_synth.evaluation.measurements import GivenImage, measure_set
from xreal_synth.evaluation.real_side import (
    PairFinder,
    RealRows,
    RealSide,
    check_size,
    measure_real,
    real_rows,
)
from xreal_synth.evaluation.request import Report
from xreal_synth.findings import NO_FINDING, TXRV18
from xreal_synth.storage import Store
from xreal_synth.types import Role, Sample, SampleMeta

LABEL_SET: Final = "txrv18"


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
    chosen: ChosenShards,
    real: RealSide,
    pairs: PairFinder,
    inception: InceptionFeatures | None,
    report: Report,
) -> DatasetFigures:
    """Looks at the images and works out every figure; raises DatasetError if there is no generated image to judge."""
    passing = _Passing(pairs)

    def on_image(done: int) -> None:
        report("looking at the dataset", done, chosen.images)

    made = measure_set(
        evaluators, passing.seen(chosen.samples(), on_image), inception=inception, on_image=on_image
    )
    if len(made) < 2:
        raise DatasetError(
            where=chosen.source.store.uri,
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
        rows=tuple(rows_of(sets, evaluators.findings, findings, chosen.gate)),
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


@dataclass(slots=True)
class Bench:
    """Evaluators and real images, ready; the real images are looked at once, for the first dataset that needs it."""

    store: Store
    real: RealRows
    evaluators: Evaluators
    inception: InceptionFeatures | None
    threads: int
    machine: Callable[[str], str]
    _side: RealSide | None = None

    def networks(self) -> dict[str, Any]:
        """What evaluation.json says of the networks that measured: their hashes."""
        record: dict[str, Any] = {"evaluators": self.evaluators.sha256}
        if self.inception is not None:
            record["inception"] = self.inception.sha256
            record["inception_published"] = self.inception.published
        return record

    def check(self, chosen: ChosenShards) -> None:
        """Raises our errors for a dataset that cannot be judged by these networks beside these images."""
        check_labels(chosen.asked, self.evaluators.findings, self.real.labels, chosen.source.store.uri)
        check_size(self.real, self.store, chosen.size)

    def identity(self, chosen: ChosenShards, most: int) -> dict[str, Any]:
        """What the figures of this dataset hang on; those of the same identity need not be computed again."""
        head, real = chosen.source.head, self.real
        record: dict[str, Any] = as_read({
            "format": FORMAT,
            "dataset": {"digest": head.digest, "bundle_hash": head.bundle.hash},
            "tars": [record.tar.sha256 for record in chosen.source.records],
            "real": {"manifest_sha256": real.manifest_sha256, "split": real.split, "second": real.second},
            "networks": self.networks(),
            "images_at_most": most,
        })  # fmt: skip
        return record

    def measure(self, chosen: ChosenShards, most: int, report: Report) -> dict[str, Any]:
        """The record of evaluation.json; raises our errors."""
        began = time.monotonic()
        reader = CaseReader(self.store, chosen.size)
        side = self._real_side(reader, report)
        pairs = PairFinder(reader, self.real.rows)
        figures = measure_dataset(self.evaluators, chosen, side, pairs, self.inception, report)
        head = chosen.source.head
        return {
            "of": self.identity(chosen, most),
            "dataset": {
                "name": head.name, "digest": head.digest, "bundle": head.bundle.name,
                "bundle_hash": head.bundle.hash, "control": chosen.control, "size": chosen.size,
                "images": figures.images, "groups": figures.groups, "flagged": figures.flagged,
                "asked": figures.asked,
            },
            "real": {
                "split": self.real.split, "manifest_sha256": self.real.manifest_sha256,
                "images": len(side.reference), "second": self.real.second, "second_images": len(side.second),
                "faulty": side.faulty,
            },
            "networks": self.networks(),
            "machine": f"{self.machine(self.evaluators.device.type)}, {self.threads} thread(s)",
            "command": shlex.join(["xreal-synth", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - began, 1),
            "notes": _notes(chosen, figures, side, self.inception),
            "rows": [row.record() for row in figures.rows],
            "rows_unflagged": [row.record() for row in figures.rows_unflagged],
        }  # fmt: skip

    def _real_side(self, reader: CaseReader, report: Report) -> RealSide:
        if self._side is None:
            total = len(self.real.rows) + len(self.real.second_rows)
            self._side = measure_real(
                self.evaluators, self.real, reader, self.inception,
                lambda done: report("looking at real images", done, total),
            )  # fmt: skip
        return self._side


def open_bench(
    real: str,
    split: str,
    beside: str | None,
    evaluators: Path | None,
    inception: Path | None,
    threads: int,
    machine: Callable[[str], str],
) -> Bench:
    """Manifest and networks, checked; raises our errors before any image is read. `machine` names the one a device
    (cpu, cuda) is of."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = open_real(real)
    rows = real_rows(store, split, beside)
    loaded = load_evaluators(evaluators, device)
    features = None if inception is None else InceptionFeatures(inception, device)
    return Bench(store, rows, loaded, features, threads, machine)


def open_datasets(uris: Sequence[str], most: int) -> list[ChosenShards]:
    """The datasets' shards; raises DatasetError, also where datasets have images of different sizes."""
    chosen = [choose(uri, most) for uri in uris]
    if len({one.size for one in chosen}) > 1:
        raise DatasetError(
            found="images of different sizes: "
            + ", ".join(f"{one.source.store.uri} {one.size} pixels" for one in chosen),
            wanted="datasets of one size: sharpness and MS-SSIM of different sizes cannot be compared",
            hint="compare datasets of the same size",
        )
    return chosen


def _notes(
    chosen: ChosenShards, figures: DatasetFigures, side: RealSide, inception: InceptionFeatures | None
) -> list[str]:
    """What a reader must know of this very evaluation."""
    notes = []
    if chosen.images < chosen.images_in_all:
        notes.append(
            f"{chosen.images} of {chosen.images_in_all} images were looked at: whole shards, at random."
        )
    if chosen.unfinished:
        notes.append(f"{len(chosen.unfinished)} shards are not finished and left out.")
    if figures.real_images:
        notes.append(f"{figures.real_images} images of the dataset are real ones as they are, and left out.")
    if figures.pairs:
        notes.append(f"MS-SSIM is of {figures.pairs} images that have a real image of the split beside them.")
    if figures.augmented:
        notes.append(
            f"{figures.augmented} images were made from masks of the split that were changed (anatomy.augment): "
            "they have no real image beside them."
        )
    if side.faulty:
        notes.append(f"{side.faulty} real images could not be used.")
    if chosen.control == "images":
        notes.append("The images were edited from real ones, and keep most of their pixels.")
    if chosen.control == "none":
        notes.append("control: none does not promise that images follow their masks.")
    if inception is not None and not inception.published:
        notes.append(
            "FID and KID: the weights have Inception's layout, but the file is not the published one by its "
            "hash; whose weights they are cannot be known here."
        )
    return notes
