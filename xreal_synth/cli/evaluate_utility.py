"""`xreal-synth evaluate utility`: does a dataset help a classifier that is tested on real films?"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xreal_synth.cli.evaluate_common import ThreadsOption, bars, machine
from xreal_synth.cli.made_films import (
    MadeArgument,
    RealOption,
    check_synthetic,
    made_films,
    made_source,
    open_real,
)
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json
from xreal_synth.errors import TrainingError

if TYPE_CHECKING:
    from xreal_synth.evaluation.run import Report
    from xreal_synth.evaluation.utility import Fit, LabelledFilms, Trained
    from xreal_synth.evaluation.utility_figures import Row
    from xreal_synth.training.study import StudySettings


class Arch(StrEnum):
    small = "small"
    densenet121 = "densenet121"


class StudyPrecision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth evaluate utility out/pneumonia --real films/manifest.csv --finding Pneumonia "
            "--out runs/utility",
            "xreal-synth evaluate utility s3://bucket/big --real films/ --finding Effusion --out runs/effusion "
            "--arch densenet121 --size 224 --steps 4000 --batch 32 --seeds 5",
        )
    )(utility)


def utility(
    dataset: MadeArgument,
    real: RealOption,
    finding: Annotated[str, typer.Option(help="What the classifier learns to see.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(help="Keeps what is done; run again to go on.", show_default=False, metavar="FOLDER"),
    ],
    shares: Annotated[str, typer.Option(help="Parts of the real training patients.")] = "0.1,0.25,1",
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions: other weights, films and order.")] = 3,
    train_split: Annotated[str, typer.Option(help="The manifest's split to train on.")] = "train",
    split: Annotated[str, typer.Option(help="The split to test on, of other patients.")] = "val",
    arch: Annotated[Arch, typer.Option(help="small: three residual stages, for CPUs.")] = Arch.small,
    size: Annotated[int, typer.Option(min=32, max=1024, help="Side of the films it sees.")] = 80,
    steps: Annotated[int, typer.Option(min=2, help="Of the optimiser, the same for all.")] = 600,
    batch: Annotated[int, typer.Option(min=4, help="Films a step, a multiple of 4.")] = 16,
    rate: Annotated[float, typer.Option("--lr", min=1e-6, max=1, help="Of AdamW.")] = 1.5e-3,
    precision: Annotated[StudyPrecision, typer.Option()] = StudyPrecision.bf16,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """The same classifier trained on real and synthetic films, tested on real ones.

    Trained on real films; on synthetic; on both, half of each batch; on
    synthetic for half of the steps and then on real. Batches are balanced
    between films with the finding and without. OUT gets utility.json,
    utility.md, utility.png, and a file for each classifier: what is done is
    not trained again.
    """
    import torch

    from xreal_synth.evaluation.utility import Study, cells_of, phases_of
    from xreal_synth.evaluation.utility_figures import rows_of
    from xreal_synth.training.study import StudySettings

    torch.set_num_threads(threads)
    parts = _shares(shares)
    if batch % 4:
        raise TrainingError(found=f"--batch {batch}", wanted="a multiple of 4", mend="correct it")
    settings = StudySettings(_finding(finding), arch.value, size, steps, batch, rate, precision.value)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with bars() as report:
        made, head = _made(dataset, settings, report)
        training, test, manifest = _real(real, (train_split, split), settings, report)
        study = Study(out, {**head, **manifest, **asdict(settings), "device": device})
        cells = cells_of(parts, seeds)
        for cell in cells:  # what cannot be trained is told before anything is
            phases_of(cell, training, made, steps)
        done: list[Trained] = []
        fit = _fit(settings, test, device, report, len(cells) * steps)
        for cell in cells:
            found = study.done(cell)
            if found is None:
                found = study.train(cell, phases_of(cell, training, made, steps), fit)
            else:
                report("training", steps, len(cells) * steps)
            done.append(found)
    rows = rows_of(done, test)
    where = f"{machine(device)}, {threads} thread(s), {precision.value}"
    told = {
        "dataset": head, "real": {**manifest, "train": _counts(training), "test": _counts(test)},
        "synthetic": _counts(made), "classifier": asdict(settings), "machine": where,
        "training_seconds": round(sum(one.seconds for one in done), 1), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    table = _write(study.folder, rows, told, settings)
    if as_json:
        print_json(_plain(told))
        return
    console.print(table, soft_wrap=True)
    notes.print(f"{out}: utility.json, utility.md, utility.png", soft_wrap=True)


def _fit(settings: StudySettings, test: LabelledFilms, device: str, report: Report, total: int) -> Fit:
    """Trains in the training room and tests on the test films; seconds are CPU seconds on a CPU."""
    import torch

    from xreal_synth.evaluation.utility import TrainingPhase
    from xreal_synth.training.study import Phase, film_set, scores_after

    tested = film_set(test.films, test.positive, settings)
    clock = time.process_time if device == "cpu" else time.perf_counter

    def fit(phases: Sequence[TrainingPhase], seed: int) -> tuple[Any, float]:
        began = clock()
        own = [
            Phase(tuple(film_set(one.films, one.positive, settings) for one in phase.sets), phase.steps)
            for phase in phases
        ]
        logits = scores_after(
            own, tested, settings, seed, torch.device(device), lambda: report("training", 1, total)
        )
        return logits, clock() - began

    return fit


def _made(dataset: str, settings: StudySettings, report: Report) -> tuple[LabelledFilms, dict[str, str]]:
    """The dataset's films whose label is known, of all its splits, and what dataset it is."""
    import hashlib

    import numpy as np

    from xreal_synth.evaluation.utility import LabelledFilms
    from xreal_synth.evaluation.utility_films import resized
    from xreal_synth.vocab import TXRV18

    label_set = "txrv18" if settings.finding in TXRV18 else "chexpert14"
    films, positive, groups, content = [], [], [], hashlib.sha256()
    with made_source(dataset) as source:
        check_synthetic(source, "an edited film may be a test patient's")
        for read in made_films(source, report):
            label = read.sample.meta.labels[label_set][settings.finding]
            if label is None:
                continue
            content.update(f"{read.sample.meta.key} {read.sha256}\n".encode())
            films.append(resized(read.sample.film, settings.size))
            positive.append(label == 1)
            groups.append(str(read.sample.meta.group))
    if not films:
        raise TrainingError(
            where=dataset,
            found=f"no film whose label {settings.finding} is known",
            wanted="films with the finding and without",
            mend="name another --finding",
        )
    head = {"dataset": source.head.name, "digest": source.head.digest, "films_sha256": content.hexdigest()}
    return LabelledFilms(np.stack(films), np.asarray(positive), np.asarray(groups), synthetic=True), head


def _real(
    manifest: str, splits: tuple[str, str], settings: StudySettings, report: Report
) -> tuple[LabelledFilms, LabelledFilms, dict[str, str]]:
    """Training films, test films, and what manifest they are of."""
    from xreal_synth.anatomy.manifest import MANIFEST
    from xreal_synth.evaluation.utility_films import apart, read_labelled
    from xreal_synth.storage import sha256_bytes

    store = open_real(manifest)
    training, test = (
        read_labelled(store, split, settings.finding, settings.size, report) for split in splits
    )
    apart(training, test)
    told = {"manifest_sha256": sha256_bytes(store.read_bytes(MANIFEST)), "splits": "/".join(splits)}
    return training, test, told


def _write(folder: Path, rows: Sequence[Row], told: dict[str, Any], settings: StudySettings) -> str:
    from xreal_synth.evaluation.utility_figures import draw_rows, table_of
    from xreal_synth.storage import LocalStore

    test = told["real"]["test"]
    words = (
        f"{settings.finding}, tested on {test['films']} real films ({test['positive']} with it, "
        f"{test['patients']} patients); {settings.arch} classifier at {settings.size} pixels, {settings.steps} steps "
        f"of {settings.batch} films; {told['machine']}"
    )
    table = f"{words}\n\n{table_of(rows)}"
    store = LocalStore(folder)
    store.replace("utility.md", table.encode())
    store.replace("utility.json", (json.dumps(_plain(told), indent=1) + "\n").encode())
    draw_rows(rows, folder / "utility.png", f"{settings.finding}: what the classifier was trained on")
    return table


def _plain(told: dict[str, Any]) -> Any:
    from xreal_synth.evaluation.nulls import null_for_nan

    return null_for_nan(json.loads(json.dumps(told)))


def _counts(films: LabelledFilms) -> dict[str, int]:
    return {
        "films": len(films),
        "positive": int(films.positive.sum()),
        "patients": len(set(films.patients.tolist())),
    }


def _finding(name: str) -> str:
    from xreal_synth.vocab import FILM_LABELS, NO_FINDING, TXRV18, film_label

    found = film_label(name)
    if found is None or found == NO_FINDING:
        known = ", ".join(one for one in FILM_LABELS if one in TXRV18)
        raise TrainingError(found=f"--finding {name}", wanted=f"one of {known}", mend="correct the name")
    return found


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found) or len(set(found)) != len(found):
        raise TrainingError(
            found=f"--shares {text}",
            wanted="numbers over 0, up to 1, each once",
            mend="write it like 0.1,0.25,1",
        )
    return tuple(sorted(found))
