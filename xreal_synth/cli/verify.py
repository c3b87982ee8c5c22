"""`xreal-synth verify DATASET`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.options import BundlePlaceOption, ImagesPlaceOption, JsonOption, note, notes, told

if TYPE_CHECKING:
    from xreal_synth.dataset.verify import VerifyProblem
    from xreal_synth.storage import Store

DatasetArgument = Annotated[str, typer.Argument(help="A dataset folder or URI.", metavar="DATASET", show_default=False)]
PARTIAL = 3

EXAMPLES = ("xreal-synth verify out/quickstart", "xreal-synth verify out/big --quick --json")


def verify(
    dataset: DatasetArgument,
    quick: Annotated[bool, typer.Option("--quick", help="Hashes and counts only; no image is decoded.")] = False,
    replay: Annotated[
        int,
        typer.Option(
            min=0,
            help="Makes so many images again, drawn at random, and holds them against those stored: hashes agree with "
            "what a forger wrote, images do not. --bundle and --images are for this alone.",
        ),
    ] = 0,
    bundle: BundlePlaceOption = None,
    images: ImagesPlaceOption = None,
    signed_by: Annotated[
        Path | None, typer.Option(help="A public key (PEM, Ed25519): the dataset must be as its owner signed it.")
    ] = None,
    sign: Annotated[
        Path | None,
        typer.Option(
            help="A private key (PEM, Ed25519): signs the dataset's records, if everything agrees, into signature.json."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Checks every hash, and that images, masks, boxes, labels and tables agree. Exit code 3 if not."""
    from xreal_synth.dataset.signature import SIGNATURE, signature_problems
    from xreal_synth.dataset.signature import sign as sign_dataset
    from xreal_synth.dataset.verify import VerifyProblem
    from xreal_synth.dataset.verify import verify as run_verify
    from xreal_synth.storage import open_store

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
            report = report.with_problems(_forged(store, replay, bundle, images))
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


def _forged(store: Store, count: int, bundle: str | None, images: str | None) -> Iterator[VerifyProblem]:
    """Of `count` images that nobody could foresee, those that the dataset's settings do not give."""
    from xreal_synth.cli.replay import forged, made_again
    from xreal_synth.dataset.head import read_head
    from xreal_synth.dataset.names import RECORDS, parse_key, shards_in, stem_of, table_key, tar_key
    from xreal_synth.dataset.table import read_table
    from xreal_synth.dataset.verify import VerifyProblem

    head, draw, keys = read_head(store), SystemRandom(), set[str]()
    shards = shards_in(store, RECORDS, head.name)
    draw.shuffle(shards)
    for number, shard in enumerate(shards):
        key = table_key(stem_of(head.name, shard))
        names = read_table(store.read_bytes(key), key).column("key").to_pylist()
        share = -(-(count - len(keys)) // (len(shards) - number))
        keys |= set(draw.sample(names, min(share, len(names))))
        if len(keys) >= count:
            break
    for stored, made, same in made_again(store, sorted(keys), bundle, images) if keys else ():
        if reported := forged(stored, made, same):
            shard = parse_key(stored.meta.key).group // head.shard_samples
            yield VerifyProblem(tar_key(stem_of(head.name, shard)), f"{stored.meta.key}: {reported}", shard)
