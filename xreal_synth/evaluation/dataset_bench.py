"""The bench of `evaluate DATASET` and `evaluate compare`: datasets measured beside the same real images."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xreal_synth.errors import DatasetError
from xreal_synth.evaluation.cases import CaseReader
from xreal_synth.evaluation.dataset import DatasetFigures, as_record, check_labels, measure_dataset
from xreal_synth.evaluation.dataset_images import open_real
from xreal_synth.evaluation.dataset_record import identity
from xreal_synth.evaluation.dataset_source import ChosenShards, choose
from xreal_synth.evaluation.evaluators import Evaluators, load_evaluators
from xreal_synth.evaluation.inception import InceptionFeatures
from xreal_synth.evaluation.real_side import (
    PairFinder,
    RealRows,
    RealSide,
    check_size,
    measure_real,
    real_rows,
)
from xreal_synth.evaluation.request import Report
from xreal_synth.storage import Store


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
        """What the figures of this dataset hang on."""

        head, real = chosen.source.head, self.real
        return identity(
            {"digest": head.digest, "bundle_hash": head.bundle.hash},
            [record.tar.sha256 for record in chosen.source.records],
            {"manifest_sha256": real.manifest_sha256, "split": real.split, "second": real.second},
            self.networks(),
            most,
        )

    def measure(self, chosen: ChosenShards, most: int, report: Report) -> dict[str, Any]:
        """The record of evaluation.json; raises our errors."""

        began = time.monotonic()
        reader = CaseReader(self.store, chosen.size)
        side = self._real_side(reader, report)
        pairs = PairFinder(reader, self.real.rows)
        figures = measure_dataset(
            self.evaluators, chosen.samples(), chosen.images, side, pairs, chosen.gate, self.inception, report,
            chosen.source.store.uri,
        )  # fmt: skip
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
            **as_record(figures),
        }  # fmt: skip

    def _real_side(self, reader: Any, report: Report) -> RealSide:

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
