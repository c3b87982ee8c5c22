"""`xreal-synth evaluate readers make | analyse`: a blind study with readers, as in the paper."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import console, notes, told
from xreal_synth.dataset.source import Source
from xreal_synth.errors import DatasetError
from xreal_synth.evaluation import readers
from xreal_synth.evaluation.dataset_images import check_synthetic, open_real
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.evaluation.readers_images import answers_csv, candidates, kit_images
from xreal_synth.export.place import free_path, whole_folder
from xreal_synth.storage import LocalStore, private_files

app = typer.Typer(help="A blind study with readers: make its pages, analyse its answers.", no_args_is_help=True)

_NOTE = """\
A blind study of chest X-rays, {study}
{line}

Give each reader one page, `reader-1.html` and so on, and nothing else from this folder. A page is one file: it opens
in any browser, offline, and sends nothing. The reader answers for every image, saves the answers as a file, and sends
that back. Then:

    xreal-synth evaluate readers analyse THIS-FOLDER reader-1-....json reader-2-....json

`key.json` says which images are real. Keep it from the readers. The pages show {real} images of patients: who may see
them is for whoever gave the images to say. For research; not for diagnosis.
"""


@app.command(
    epilog=examples(
        "xreal-synth evaluate readers make out/pneumonia kit/ --real images/manifest.csv",
        "xreal-synth evaluate readers make out/xreal kit/ --beside out/controlnet --real images/ --images 90 "
        "--readers 2 --guess",
    )
)
def make(
    dataset: common.GeneratedArgument,
    out: Annotated[str, Argument(metavar="OUT", help="A new folder: a page for each reader, and the key.")],
    real: common.RealOption,
    beside: Annotated[
        list[str] | None,
        Option(metavar="DATASET", help="Another dataset, as a kind of its own; may be repeated.", show_default="no"),
    ] = None,
    split: Annotated[str, Option(help="The manifest's split to take real images from.")] = "val",
    number: Annotated[int, Option("--readers", min=1, max=50)] = 3,
    images: Annotated[int, Option(min=2, help="Images in all, as many real as of each dataset.")] = 60,
    repeats: Annotated[
        int | None, Option(min=0, help="Images that come a second time.", show_default="a tenth of the images")
    ] = None,
    guess: Annotated[bool, Option("--guess", help="Also asks: real or synthetic? The paper did not.")] = False,
    seed: Annotated[int | None, Option(min=0, help="Which images and orders.", show_default="drawn")] = None,
) -> None:
    """Pages for blind readers, who rank images 1 to 5 for anatomy, pathology and quality.

    Real and synthetic images are shuffled, with the same findings in the same
    numbers, one image a patient or anatomy. A page is one offline HTML file
    that names no image; which are real stays in key.json.
    """
    path = free_path(out)
    private_files()
    drawn = secrets.randbits(32) if seed is None else seed
    with common.bars() as report:
        sources = _sources([dataset, *(beside or [])])
        store = open_real(real)
        arms = candidates(sources, store, split)
        repeated = images // 10 if repeats is None else repeats
        kit = readers.make_kit(readers.choose_images(arms, images, drawn), number, repeated, drawn, guess=guess)
        shown = kit_images(kit, sources, store, split, report)
        with whole_folder(path) as folder:
            for reader in kit.readers:
                (folder / f"reader-{reader}.html").write_bytes(readers.reader_page(kit, reader, shown))
                report("writing pages", 1, number)
            (folder / readers.KEY).write_bytes(readers.key_bytes(kit))
            title = {"study": kit.study, "line": "=" * (34 + len(kit.study)), "real": images // len(arms)}
            (folder / "README.md").write_text(_NOTE.format(**title), encoding="utf-8")
    again = len(kit.readers[1]) - images
    kinds = ", ".join(f"{images // len(arms)} {arm}" for arm in arms)
    console.print(f"{path}: {number} readers, {images} images ({kinds}), {again} of them twice")
    notes.print("give a reader one page and nothing else; key.json tells the images apart")


@app.command(
    epilog=examples(
        "xreal-synth evaluate readers analyse kit/ reader-1-*.json reader-2-*.json",
        "xreal-synth evaluate readers analyse kit/ answers/*.csv --json",
    )
)
def analyse(
    kit: Annotated[Path, Argument(metavar="KIT", help="The folder that `make` wrote.")],
    results: Annotated[list[Path], Argument(metavar="RESULTS...", help="Readers' saved answers, JSON or CSV.")],
    as_json: JsonOption = False,
) -> None:
    """Mean ranks of real and synthetic images, their difference, how far readers agree.

    Writes analysis.md, analysis.json and answers.csv (every answer with its
    image) into the kit's folder. Answers that are missing, foreign or not
    offered are refused, all of them named.
    """
    from xreal_synth.evaluation.readers_figures import analyse as figures_of
    from xreal_synth.evaluation.readers_figures import tables_of

    study = readers.read_key(kit)
    answers = readers.read_results(study, results)
    analysis = figures_of(study, answers)
    reported = asdict(analysis)
    store, table = LocalStore(kit), tables_of(analysis)
    store.replace("analysis.md", table.encode())
    store.replace("analysis.json", json_bytes(reported))
    store.replace("answers.csv", answers_csv(study, answers))
    told(as_json, reported, table)


def _sources(datasets: Sequence[str]) -> dict[str, Source]:
    """The datasets by their names, which must differ and be other than "real"."""
    found: dict[str, Source] = {}
    for one in datasets:
        with common.made_source(one) as source:
            name = source.head.name
        if name in found or name == readers.REAL:
            raise DatasetError(
                where=one, found=f"the name {name} again", wanted="datasets of different names", hint="give others"
            )
        check_synthetic(source, "an edited image is neither real nor synthetic")
        found[name] = source
    return found
