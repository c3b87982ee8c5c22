"""`xreal-synth verify DATASET`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from xreal_synth.cli.options import BundlePlaceOption, DatasetArgument, ImagesPlaceOption, JsonOption
from xreal_synth.cli.output import note, notes, told
from xreal_synth.dataset.signature import SIGNATURE, signature_problems
from xreal_synth.dataset.signature import sign as sign_dataset
from xreal_synth.dataset.verify import VerifyProblem
from xreal_synth.dataset.verify import verify as run_verify
from xreal_synth.engine.progress import PARTIAL
from xreal_synth.engine.replay import forged_images
from xreal_synth.storage import open_store

EXAMPLES = ("xreal-synth verify out/quickstart", "xreal-synth verify out/big --quick --json")


def verify(
    dataset: DatasetArgument,
    quick: Annotated[bool, Option("--quick", help="Hashes and counts only; no image is decoded.")] = False,
    replay: Annotated[
        int,
        Option(
            min=0,
            help="Makes so many images again, drawn at random, and holds them against those stored: hashes agree with "
            "what a forger wrote, images do not. --bundle and --images are for this alone.",
        ),
    ] = 0,
    bundle: BundlePlaceOption = None,
    images: ImagesPlaceOption = None,
    signed_by: Annotated[
        Path | None, Option(help="A public key (PEM, Ed25519): the dataset must be as its owner signed it.")
    ] = None,
    sign: Annotated[
        Path | None,
        Option(
            help="A private key (PEM, Ed25519): signs the dataset's records, if everything agrees, into signature.json."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Checks every hash, and that images, masks, boxes, labels and tables agree. Exit code 3 if not."""
    store = open_store(dataset)
    with notes.status("verifying") as status:
        report = run_verify(
            store, deep=not quick, on_shard=lambda done, total: status.update(f"verifying shard {done} of {total}")
        )
    if signed_by is not None:
        reported = signature_problems(store, signed_by)
        report = report.with_problems([VerifyProblem(SIGNATURE, text, None) for text in reported])
    if replay and report.ok:
        with notes.status(f"making {replay} images again"):
            report = report.with_problems(forged_images(store, replay, bundle, images))
    if sign is not None and report.ok:
        note(f"signed; public key {sign_dataset(store, sign)}")
    problems = [str(problem) for problem in report.problems]
    if not as_json:
        for problem in problems:
            note(problem)
    fields = {"ok": report.ok, "shards": report.shards, "samples": report.samples, "problems": problems}
    state = "everything agrees" if report.ok else f"{len(problems)} problem(s)"
    told(
        as_json, {**fields, "broken_shards": report.broken_shards},
        f"{dataset}: {report.shards} shards, {report.samples:,} images, {state}",
    )  # fmt: skip
    if not report.ok:
        raise typer.Exit(PARTIAL)
