"""`xreal-synth evaluate readers make | analyse`: a blind study with readers, as in the paper."""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import console, notes, told
from xreal_synth.dataset.source import Source, shard_table, without_excluded
from xreal_synth.errors import DatasetError
from xreal_synth.escaping import for_csv
from xreal_synth.evaluation.kept import json_bytes
from xreal_synth.evaluation.readers import (
    KEY,
    REAL,
    Answers,
    Candidate,
    Kit,
    choose_images,
    key_bytes,
    make_kit,
    read_key,
    read_results,
    reader_page,
)
from xreal_synth.export.place import free_path, whole_folder
from xreal_synth.images.manifest import BadImage
from xreal_synth.storage import LocalStore, Store, private_files
from xreal_synth.types import GreyImage

if TYPE_CHECKING:
    from xreal_synth.evaluation.cases import Report
    from xreal_synth.evaluation.readers_figures import Analysis

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
    from xreal_synth.evaluation.dataset_images import open_real

    path = free_path(out)
    private_files()
    drawn = secrets.randbits(32) if seed is None else seed
    with common.bars() as report:
        sources = _sources([dataset, *(beside or [])])
        store = open_real(real)
        arms = _arms(sources, store, split)
        kit = make_kit(
            choose_images(arms, images, drawn), number, images // 10 if repeats is None else repeats, drawn, guess=guess
        )
        shown = _images(kit, sources, store, split, report)
        with whole_folder(path) as folder:
            for reader in kit.readers:
                (folder / f"reader-{reader}.html").write_bytes(reader_page(kit, reader, shown))
                report("writing pages", 1, number)
            (folder / KEY).write_bytes(key_bytes(kit))
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

    study = read_key(kit)
    answers = read_results(study, results)
    analysis: Analysis = figures_of(study, answers)
    reported = asdict(analysis)
    store, table = LocalStore(kit), tables_of(analysis)
    store.replace("analysis.md", table.encode())
    store.replace("analysis.json", json_bytes(reported))
    store.replace("answers.csv", _answers(study, answers))
    told(as_json, reported, table)


def _sources(datasets: Sequence[str]) -> dict[str, Source]:
    """The datasets by their names, which must differ and be other than "real"."""
    from xreal_synth.evaluation.dataset_images import check_synthetic

    found: dict[str, Source] = {}
    for one in datasets:
        with common.made_source(one) as source:
            name = source.head.name
        if name in found or name == REAL:
            raise DatasetError(
                where=one, found=f"the name {name} again", wanted="datasets of different names", hint="give others"
            )
        check_synthetic(source, "an edited image is neither real nor synthetic")
        found[name] = source
    return found


def _arms(sources: Mapping[str, Source], store: Store, split: str) -> dict[str, list[Candidate]]:
    from xreal_synth.evaluation.cases import split_rows

    made: dict[str, list[Candidate]] = {name: [] for name in sources}
    for name, source in sources.items():
        tables = (shard_table(source, record) for record in source.records)
        for table in (without_excluded(source, table) for table in tables if table is not None):
            for row in table.select(["key", "group", "findings"]).to_pylist():
                findings = tuple(sorted({finding["name"] for finding in row["findings"]}))
                made[name].append(Candidate(name, row["key"], str(row["group"]), findings))
    known = {finding for images in made.values() for image in images for finding in image.findings}
    own = [
        Candidate(REAL, row.image, row.patient, tuple(sorted(known & set(row.labels))))
        for row in split_rows(store, split)
        if set(row.labels) <= known | {"No Finding"}
    ]
    return {REAL: own, **made}


def _images(kit: Kit, sources: Mapping[str, Source], store: Store, split: str, report: Report) -> list[GreyImage]:
    """The kit's images, all of the synthetic ones' size."""
    from xreal_synth.evaluation.cases import CaseReader, split_rows
    from xreal_synth.evaluation.dataset_images import images_named

    wanted = {arm: {image.source for image in kit.images if image.arm == arm} for arm in (REAL, *sources)}
    found = {name: images_named(source, wanted[name], report, f"reading {name}") for name, source in sources.items()}
    sizes = {image.shape for images in found.values() for image in images.values()}
    if len(sizes) != 1:
        raise DatasetError(
            found=f"images of the sizes {', '.join(map(str, sorted(sizes)))}",
            wanted="one size: another size would tell the kinds apart",
            hint="give datasets of one size",
        )
    reader, own = CaseReader(store, sizes.pop()[0]), found.setdefault(REAL, {})
    for row in split_rows(store, split):
        if row.image in wanted[REAL]:
            try:
                own[row.image] = reader.image(row)
            except BadImage as bad:
                raise DatasetError(
                    where=store.uri,
                    found=f"{row.image}: {bad}",
                    wanted="images that can be read",
                    hint="see the manifest",
                ) from bad
    return [found[image.arm][image.source] for image in kit.images]


def _answers(kit: Kit, answers: Mapping[int, Answers]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["reader", "kind", "image", "findings", "again", *kit.questions])
    for reader, given in answers.items():
        for showing in kit.readers[reader]:
            image = kit.images[showing.image]
            row = [reader, image.arm, image.source, "|".join(image.findings), int(showing.repeat)]
            row += [given[showing.name][question] for question in kit.questions]
            table.writerow(map(for_csv, row))
    return text.getvalue().encode()
