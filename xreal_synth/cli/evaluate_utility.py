"""`xreal-synth evaluate utility`: does a dataset help a classifier, or a detector, that is tested on real images?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import note, told
from xreal_synth.errors import TrainingError
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.findings import IMAGE_LABELS, NO_FINDING, TXRV18, image_label
from xreal_synth.storage import LocalStore

if TYPE_CHECKING:
    from xreal_synth.evaluation.utility import Fit, LabelledImages
    from xreal_synth.evaluation.utility_figures import UtilityRow
    from xreal_synth.training.study import StudySettings


EXAMPLES = {
    "utility": (
        "xreal-synth evaluate utility out/pneumonia --real images/manifest.csv --finding Pneumonia "
        "--finding Effusion --out runs/utility",
        "xreal-synth evaluate utility out/pneumonia --real images/ --finding Pneumonia --task localise "
        "--shares 1 --out runs/places",
        "xreal-synth evaluate utility s3://bucket/big --real images/ --finding Effusion --out runs/effusion "
        "--arch densenet121 --size 224 --steps 4000 --batch 32 --seeds 5",
    )
}


def utility(
    dataset: common.GeneratedArgument,
    real: common.RealOption,
    finding: Annotated[list[str], Option(help="What it learns to see; may be repeated.")],
    out: Annotated[Path, Option(help="Keeps what is done; run again to go on.", metavar="FOLDER")],
    task: Annotated[
        Literal["classify", "localise"], Option(help="localise: a detector, learnt from boxes and tested on real ones.")
    ] = "classify",
    shares: Annotated[str, Option(help="Parts of the real training patients.")] = "0.1,0.25,1",
    seeds: Annotated[int, Option(min=1, help="Repetitions: other weights, images and order.")] = 3,
    train_split: Annotated[str, Option(help="The manifest's split to train on.")] = "train",
    split: Annotated[str, Option(help="The split to test on, of other patients.")] = "val",
    arch: Annotated[Literal["small", "densenet121"], Option(help="small: three residual stages, for CPUs.")] = "small",
    size: Annotated[
        int | None, Option(min=32, max=1024, help="Side of the images it sees.", show_default="80; 160 to localise")
    ] = None,
    steps: Annotated[int, Option(min=2, help="Of the optimiser, the same for all.")] = 600,
    batch: Annotated[int, Option(min=4, help="Images a step, a multiple of 4.")] = 16,
    rate: Annotated[float, Option("--lr", min=1e-6, max=1, help="Of AdamW.")] = 1.5e-3,
    precision: Literal["fp32", "bf16"] = "bf16",
    threads: common.ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """The same classifier trained on real and synthetic images, tested on real ones.

    Trained on real images; on synthetic; on both, half of each batch; on
    synthetic for half of the steps and then on real (not to localise).
    Batches are balanced between images with each finding and with none. To
    localise, images whose finding has no box are left out. OUT gets
    utility.json, utility.md, utility.png, and a file for each network: what
    is done is not trained again.
    """
    from xreal_synth.evaluation import utility as study
    from xreal_synth.evaluation.utility_figures import rows_of
    from xreal_synth.training.study import StudySettings

    device, machine = common.machine_of(threads)
    parts, places = _shares(shares), task == "localise"
    if batch % 4:
        raise TrainingError(found=f"--batch {batch}", wanted="a multiple of 4", hint="correct it")
    side = size or (160 if places else 80)
    settings = StudySettings(_findings(finding), places, arch, side, steps, batch, rate, precision)
    with common.bars() as report:
        with common.made_source(dataset) as source:
            made, head = study.read_generated(source, settings.findings, side, report, places=places)
        splits = train_split, split
        training, test, manifest = study.read_both(real, splits, settings.findings, side, report, places=places)
        cells = study.cells_of(parts, seeds, [study.Arm.real, study.Arm.both] if places else study.BESIDE_SYNTHETIC)

        def on_steps(count: int) -> None:
            report("training", count, len(cells) * steps)

        fit = _fit(settings, test, device, lambda: on_steps(1))
        identity = {**head, **manifest, **asdict(settings), "device": device}
        done = study.run_study(out, identity, cells, training, made, steps, fit, on_steps)
    rows = rows_of(done, test)
    reported = {
        "dataset": head, "real": {**manifest, "train": training.counts(), "test": test.counts()},
        "synthetic": made.counts(), "network": asdict(settings), "machine": f"{machine}, {precision}",
        "training_seconds": round(sum(one.seconds for one in done), 1), "rows": [asdict(row) for row in rows],
    }  # fmt: skip
    table = _write(out, rows, reported, settings)
    told(as_json, reported, table)
    if not as_json:
        note(f"{out}: utility.json, utility.md, utility.png")


def _fit(settings: StudySettings, test: LabelledImages, device: str, on_step: Callable[[], None]) -> Fit:
    """Trains in the training room and tests on the test images; seconds are CPU seconds on a CPU."""
    import torch

    from xreal_synth.evaluation.findings import boxes_found
    from xreal_synth.evaluation.utility import TrainingPhase
    from xreal_synth.training.study import Phase, image_set, scores_after

    def given(one: LabelledImages) -> Any:
        return image_set(one.images, one.labels, settings, one.boxes)

    tested = given(test)
    clock = time.process_time if device == "cpu" else time.perf_counter

    def fit(phases: Sequence[TrainingPhase], seed: int) -> tuple[Any, float]:
        began = clock()
        own = [Phase(tuple(given(one) for one in phase.sets), phase.steps) for phase in phases]
        outputs = scores_after(own, tested, settings, seed, torch.device(device), on_step)
        return boxes_found(outputs) if settings.localise else outputs, clock() - began

    return fit


def _write(folder: Path, rows: Sequence[UtilityRow], reported: dict[str, Any], settings: StudySettings) -> str:
    from xreal_synth.evaluation.utility_figures import draw_rows, table_of

    test = reported["real"]["test"]
    shown = ", ".join(f"{count} {name}" for name, count in test["positive"].items())
    kind = "detector" if settings.localise else "classifier"
    words = (
        f"Tested on {test['images']} real images of {test['patients']} patients "
        f"({shown}{', in boxes' if settings.localise else ''}); {settings.arch} {kind} at {settings.size} pixels, "
        f"{settings.steps} steps of {settings.batch} images; {reported['machine']}"
    )
    table = f"{words}\n\n{table_of(rows)}"
    store = LocalStore(folder)
    store.replace("utility.md", table.encode())
    store.replace("utility.json", json_bytes(reported))
    draw_rows(rows, folder / "utility.png", f"{', '.join(settings.findings)}: what the {kind} was trained on")
    return table


def _findings(names: Sequence[str]) -> tuple[str, ...]:
    found = {name: image_label(name) for name in names}
    for name, label in found.items():
        if label in (None, NO_FINDING):
            known = ", ".join(one for one in IMAGE_LABELS if one in TXRV18)
            raise TrainingError(found=f"--finding {name}", wanted=f"one of {known}", hint="correct the name")
    return tuple(dict.fromkeys(label for label in found.values() if label))


def _shares(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share <= 1 for share in found) or len(set(found)) != len(found):
        raise TrainingError(
            found=f"--shares {text}", wanted="numbers over 0, up to 1, each once", hint="write it like 0.1,0.25,1"
        )
    return tuple(sorted(found))
