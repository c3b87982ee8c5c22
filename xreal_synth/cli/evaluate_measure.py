"""What `evaluate DATASET` and `evaluate compare` share: datasets measured beside the same real films."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xreal_synth.cli.evaluate_common import machine
from xreal_synth.cli.made_films import open_real
from xreal_synth.errors import DatasetError

if TYPE_CHECKING:
    from xreal_synth.cli.evaluate_source import Chosen
    from xreal_synth.evaluation.dataset import DatasetFigures
    from xreal_synth.evaluation.inception import InceptionFeatures
    from xreal_synth.evaluation.judging import Judges
    from xreal_synth.evaluation.real_side import RealRows, RealSide
    from xreal_synth.evaluation.request import Report
    from xreal_synth.storage import Store

RealSplitOption = Annotated[
    str, typer.Option(help="The manifest's split to measure by; best films that no network has seen.")
]
BesideOption = Annotated[
    str | None,
    typer.Option(
        help="The split whose real films stand beside made ones in distances.",
        show_default="train, or half of the split's patients",
    ),
]
InceptionOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The FID's Inception weights (pytorch-fid's or torch-fidelity's file): adds FID and KID.",
        show_default="none: no FID",
    ),
]
MostOption = Annotated[
    int, typer.Option("-n", min=2, help="Films at most; of more, whole shards drawn at random.")
]
MOST = 10_000


@dataclass(slots=True)
class Bench:
    """Judges and real films, ready; the real films are looked at once, for the first dataset that needs it."""

    store: Store
    real: RealRows
    judges: Judges
    inception: InceptionFeatures | None
    threads: int
    _side: RealSide | None = None

    def networks(self) -> dict[str, Any]:
        record: dict[str, Any] = {"judges": self.judges.sha256}
        if self.inception is not None:
            record["inception"] = self.inception.sha256
            record["inception_published"] = self.inception.published
        return record

    def check(self, chosen: Chosen) -> None:
        """Raises our errors for a dataset that cannot be judged by these networks beside these films."""
        from xreal_synth.evaluation.dataset import check_labels
        from xreal_synth.evaluation.real_side import check_size

        check_labels(chosen.asked, self.judges.findings, self.real.labels, chosen.source.store.uri)
        check_size(self.real, self.store, chosen.size)

    def identity(self, chosen: Chosen, most: int) -> dict[str, Any]:
        """What the figures of this dataset hang on."""
        from xreal_synth.evaluation.dataset_record import identity

        head, real = chosen.source.head, self.real
        return identity(
            {"digest": head.digest, "bundle_hash": head.bundle.hash},
            [record.tar.sha256 for record in chosen.source.records],
            {"manifest_sha256": real.manifest_sha256, "split": real.split, "second": real.second},
            self.networks(),
            most,
        )

    def measure(self, chosen: Chosen, most: int, report: Report) -> dict[str, Any]:
        """The record of evaluation.json; raises our errors."""
        from xreal_synth.evaluation.cases import CaseReader
        from xreal_synth.evaluation.dataset import as_record, measure_dataset
        from xreal_synth.evaluation.real_side import PairFinder

        began = time.monotonic()
        reader = CaseReader(self.store, chosen.size)
        side = self._real_side(reader, report)
        pairs = PairFinder(reader, self.real.rows)
        figures = measure_dataset(
            self.judges, chosen.samples(), chosen.films, side, pairs, chosen.gate, self.inception, report,
            chosen.source.store.uri,
        )  # fmt: skip
        head = chosen.source.head
        return {
            "of": self.identity(chosen, most),
            "dataset": {
                "name": head.name, "digest": head.digest, "bundle": head.bundle.name,
                "bundle_hash": head.bundle.hash, "control": chosen.control, "size": chosen.size,
                "films": figures.films, "groups": figures.groups, "flagged": figures.flagged,
                "asked": figures.asked,
            },
            "real": {
                "split": self.real.split, "manifest_sha256": self.real.manifest_sha256,
                "films": len(side.reference), "second": self.real.second, "second_films": len(side.second),
                "faulty": side.faulty,
            },
            "networks": self.networks(),
            "machine": f"{machine(self.judges.device.type)}, {self.threads} thread(s)",
            "command": shlex.join(["xreal-synth", *sys.argv[1:]]),
            "seconds": round(time.monotonic() - began, 1),
            "notes": _notes(chosen, figures, side, self.inception),
            **as_record(figures),
        }  # fmt: skip

    def _real_side(self, reader: Any, report: Report) -> RealSide:
        from xreal_synth.evaluation.real_side import look_at_real

        if self._side is None:
            total = len(self.real.rows) + len(self.real.second_rows)
            self._side = look_at_real(
                self.judges, self.real, reader, self.inception,
                lambda done: report("looking at real films", done, total),
            )  # fmt: skip
        return self._side


def open_bench(
    real: str, split: str, beside: str | None, judges: Path | None, inception: Path | None, threads: int
) -> Bench:
    """Manifest and networks, checked; raises our errors before any film is read."""
    import torch

    from xreal_synth.evaluation.inception import InceptionFeatures
    from xreal_synth.evaluation.judging import load_judges
    from xreal_synth.evaluation.real_side import real_rows

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    store = open_real(real)
    rows = real_rows(store, split, beside)
    judging = load_judges(judges, device)
    features = None if inception is None else InceptionFeatures(inception, device)
    return Bench(store, rows, judging, features, threads)


def open_datasets(uris: Sequence[str], most: int) -> list[Chosen]:
    """The datasets' shards; raises DatasetError, also where datasets have films of different sizes."""
    from xreal_synth.cli.evaluate_source import choose

    chosen = [choose(uri, most) for uri in uris]
    if len({one.size for one in chosen}) > 1:
        raise DatasetError(
            found="films of different sizes: "
            + ", ".join(f"{one.source.store.uri} {one.size} pixels" for one in chosen),
            wanted="datasets of one size: sharpness and MS-SSIM of different sizes cannot be compared",
            mend="compare datasets of the same size",
        )
    return chosen


def _notes(
    chosen: Chosen, figures: DatasetFigures, side: RealSide, inception: InceptionFeatures | None
) -> list[str]:
    """What a reader must know of this very evaluation."""
    notes = []
    if chosen.films < chosen.films_in_all:
        notes.append(
            f"{chosen.films} of {chosen.films_in_all} films were looked at: whole shards, at random."
        )
    if chosen.unfinished:
        notes.append(f"{len(chosen.unfinished)} shards are not finished and left out.")
    if figures.real_films:
        notes.append(f"{figures.real_films} films of the dataset are real ones as they are, and left out.")
    if figures.pairs:
        notes.append(f"MS-SSIM is of {figures.pairs} films that have a real film of the split beside them.")
    if figures.augmented:
        notes.append(
            f"{figures.augmented} films were made from masks of the split that were changed (anatomy.augment): "
            "they have no real film beside them."
        )
    if side.faulty:
        notes.append(f"{side.faulty} real films could not be used.")
    if chosen.control == "images":
        notes.append("The films were edited from real ones, and keep most of their pixels.")
    if chosen.control == "none":
        notes.append("control: none does not promise that films follow their masks.")
    if inception is not None and not inception.published:
        notes.append(
            "FID and KID: the weights have Inception's layout, but the file is not the published one by its "
            "hash; whose weights they are cannot be known here."
        )
    return notes
