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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import CaseReader, Report
from xreal_synth.evaluation.dataset_figures import Sets, rows_of
from xreal_synth.evaluation.dataset_images import ChosenShards, choose, open_real
from xreal_synth.evaluation.dataset_record import FORMAT
from xreal_synth.evaluation.evaluators import Evaluators, load_evaluators
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.kept import as_read
from xreal_synth.evaluation.measurements import GivenImage, ImageSet, measure
from xreal_synth.evaluation.real_side import PairFinder, RealRows, check_size, measure_real, real_rows
from xreal_synth.findings import NO_FINDING, TXRV18
from xreal_synth.types import Role, SampleMeta

LABEL_SET: Final = "txrv18"


@dataclass(slots=True)
class _Passing:
    """Counts images on their way to the evaluators, and leaves out those that are a patient's own."""

    pairs: PairFinder
    real_images: int = 0
    groups: set[int] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)

    def seen(self, chosen: ChosenShards, report: Report) -> Iterator[GivenImage]:
        for sample in chosen.samples():
            report("looking at the dataset", 1, chosen.images)
            meta = sample.meta
            if meta.source is not None and meta.member == Role.healthy:
                self.real_images += 1
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


@dataclass(slots=True)
class Bench:
    """Evaluators and real images, ready; the real images are looked at once, for the first dataset that needs it.

    `most` images are looked at of a dataset; `machine` says where this runs.
    """

    real: RealRows
    evaluators: Evaluators
    inception: InceptionFeatures | None
    most: int
    machine: str
    _sides: tuple[ImageSet, ImageSet] | None = None

    def networks(self) -> dict[str, Any]:
        """What evaluation.json says of the networks that measured: their hashes."""
        record: dict[str, Any] = {"evaluators": self.evaluators.sha256}
        if self.inception is not None:
            record["inception"] = self.inception.sha256
            record["inception_published"] = self.inception.published
        return record

    def check(self, chosen: ChosenShards) -> None:
        """Raises our errors for a dataset that cannot be judged by these networks beside these images."""
        asked, shown = chosen.asked, {name for row in self.real.rows for name in row.labels}
        for words, known, hint in (
            (
                "the evaluator classifier knows",
                set(self.evaluators.findings),
                "train evaluators on these findings and give them with --evaluators",
            ),
            ("the real images show", shown, "name another split or manifest, with images that show these findings"),
        ):
            if asked and not asked & known:
                raise DatasetError(
                    where=chosen.source.store.uri,
                    found=f"a dataset of {', '.join(sorted(asked))}, none of which {words}: "
                    f"{', '.join(sorted(known)) or 'nothing'}",
                    wanted="a finding in common, or the images' labels cannot be judged",
                    hint=hint,
                )
        check_size(self.real, chosen.size)

    def identity(self, chosen: ChosenShards) -> dict[str, Any]:
        """What the figures of this dataset hang on; those of the same identity need not be computed again."""
        head, real = chosen.source.head, self.real
        record: dict[str, Any] = as_read({
            "format": FORMAT,
            "dataset": {"digest": head.digest, "bundle_hash": head.bundle.hash},
            "tars": [record.tar.sha256 for record in chosen.source.records],
            "real": {"manifest_sha256": real.manifest_sha256, "split": real.split, "second": real.second},
            "networks": self.networks(),
            "images_at_most": self.most,
        })  # fmt: skip
        return record

    def measure(self, chosen: ChosenShards, report: Report) -> dict[str, Any]:
        """The record of evaluation.json; raises our errors, as where there is no generated image to judge."""
        began = time.monotonic()
        real, head = self.real, chosen.source.head
        reader = CaseReader(real.store, chosen.size)
        if self._sides is None:
            self._sides = measure_real(self.evaluators, real, reader, self.inception, report)
        reference, second = self._sides
        passing = _Passing(PairFinder(reader, real.rows))
        made = measure(self.evaluators, passing.seen(chosen, report), inception=self.inception, diversity=True)
        if len(made) < 2:
            raise DatasetError(
                where=chosen.source.store.uri,
                found=f"{len(made)} generated images (and {passing.real_images} real ones as they are)",
                wanted="two generated images or more",
                hint="evaluate a dataset with made or edited images",
            )
        sets = Sets(made, reference, second, chosen.size)
        rows, unflagged = rows_of(sets, self.evaluators.findings, passing.asked, chosen.gate)
        faulty = len(real.rows) + len(real.second_rows) - len(reference) - len(second)
        return {
            "of": self.identity(chosen),
            "dataset": {
                "name": head.name, "digest": head.digest, "bundle": head.bundle.name,
                "bundle_hash": head.bundle.hash, "control": chosen.control, "size": chosen.size,
                "images": len(made), "groups": len(passing.groups), "flagged": int(made.flagged.sum()),
                "asked": dict(sorted(passing.asked.items())),
            },
            "real": {
                "split": real.split, "manifest_sha256": real.manifest_sha256, "images": len(reference),
                "second": real.second, "second_images": len(second), "faulty": faulty,
            },
            "networks": self.networks(),
            "machine": self.machine,
            "command": shlex.join(["xreal-synth", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - began, 1),
            "notes": _notes(chosen, passing, faulty, self.inception),
            "rows": rows,
            "rows_unflagged": unflagged,
        }  # fmt: skip


def open_bench(
    datasets: Sequence[str],
    most: int,
    real: tuple[str, str, str | None],
    evaluators: Path | None,
    inception: Path | None,
    device: str,
    machine: str,
) -> tuple[Bench, list[ChosenShards]]:
    """Datasets, real images (manifest, split, and the second split) and networks, checked.

    Raises our errors before any image is read, also where datasets have images of different sizes.
    """
    chosen = [choose(uri, most) for uri in datasets]
    if len({one.size for one in chosen}) > 1:
        raise DatasetError(
            found="images of different sizes: "
            + ", ".join(f"{one.source.store.uri} {one.size} pixels" for one in chosen),
            wanted="datasets of one size: sharpness and MS-SSIM of different sizes cannot be compared",
            hint="compare datasets of the same size",
        )
    manifest, split, beside = real
    rows = real_rows(open_real(manifest), split, beside)
    loaded = load_evaluators(evaluators, device)
    deep = None if inception is None else InceptionFeatures(inception, device)
    bench = Bench(rows, loaded, deep, most, machine)
    for one in chosen:
        bench.check(one)
    return bench, chosen


def _notes(chosen: ChosenShards, passing: _Passing, faulty: int, inception: InceptionFeatures | None) -> list[str]:
    """What a reader must know of this very evaluation."""
    pairs, some = passing.pairs, chosen.images < chosen.images_in_all
    told: tuple[tuple[object, str], ...] = (
        (some, f"{chosen.images} of {chosen.images_in_all} images were looked at: whole shards, at random."),
        (chosen.unfinished, f"{chosen.unfinished} shards are not finished and left out."),
        (passing.real_images, f"{passing.real_images} images of the dataset are real ones as they are, and left out."),
        (pairs.pairs, f"MS-SSIM is of {pairs.pairs} images that have a real image of the split beside them."),
        (
            pairs.augmented,
            f"{pairs.augmented} images were made from masks of the split that were changed (anatomy.augment): "
            "they have no real image beside them.",
        ),
        (faulty, f"{faulty} real images could not be used."),
        (chosen.control == "images", "The images were edited from real ones, and keep most of their pixels."),
        (chosen.control == "none", "control: none does not promise that images follow their masks."),
        (
            inception is not None and not inception.published,
            "FID and KID: the weights have Inception's layout, but the file is not the published one by its "
            "hash; whose weights they are cannot be known here.",
        ),
    )
    return [words for holds, words in told if holds]
