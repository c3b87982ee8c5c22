"""`xreal-synth evaluate readers make | analyse`: a blind study with readers, as in the paper."""

from __future__ import annotations

import csv
import io
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xreal_synth.cli.evaluate_common import bars
from xreal_synth.cli.made_films import (
    MadeArgument,
    RealOption,
    check_synthetic,
    films_named,
    made_source,
    open_real,
)
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json
from xreal_synth.errors import DatasetError
from xreal_synth.escaping import for_csv

if TYPE_CHECKING:
    from xreal_synth.anatomy.manifest import FilmRow
    from xreal_synth.evaluation.readers import Candidate, Kit
    from xreal_synth.evaluation.readers_figures import Analysis
    from xreal_synth.evaluation.readers_files import Reading
    from xreal_synth.evaluation.run import Report
    from xreal_synth.export.source import Source
    from xreal_synth.storage import Store
    from xreal_synth.types import Film

readers = typer.Typer(
    help="A blind study with readers: make its pages, analyse its answers.", no_args_is_help=True
)

_NOTE = """\
A blind study of chest films, {study}
{line}

Give each reader one page, `reader-1.html` and so on, and nothing else from this folder. A page is one file: it opens
in any browser, offline, and sends nothing. The reader answers for every film, saves the answers as a file, and sends
that back. Then:

    xreal-synth evaluate readers analyse THIS-FOLDER reader-1-....json reader-2-....json

`key.json` says which films are real. Keep it from the readers. The pages show {real} films of patients: who may see
them is for whoever gave the films to say. For research; not for diagnosis.
"""


def register(group: typer.Typer) -> None:
    readers.command(
        epilog=examples(
            "xreal-synth evaluate readers make out/pneumonia kit/ --real films/manifest.csv",
            "xreal-synth evaluate readers make out/xreal kit/ --beside out/controlnet --real films/ --films 90 "
            "--readers 2 --guess",
        )
    )(make)
    readers.command(
        epilog=examples(
            "xreal-synth evaluate readers analyse kit/ reader-1-*.json reader-2-*.json",
            "xreal-synth evaluate readers analyse kit/ answers/*.csv --json",
        )
    )(analyse)
    group.add_typer(readers, name="readers")


def make(
    dataset: MadeArgument,
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT", help="A new folder: a page for each reader, and the key.", show_default=False
        ),
    ],
    real: RealOption,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DATASET",
            help="Another dataset, as a kind of its own; may be repeated.",
            show_default="no",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The manifest's split to take real films from.")] = "val",
    number: Annotated[int, typer.Option("--readers", min=1, max=50)] = 3,
    films: Annotated[int, typer.Option(min=2, help="Films in all, as many real as of each dataset.")] = 60,
    repeats: Annotated[
        int | None,
        typer.Option(min=0, help="Films that come a second time.", show_default="a tenth of the films"),
    ] = None,
    guess: Annotated[
        bool, typer.Option("--guess", help="Also asks: real or synthetic? The paper did not.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which films and orders.", show_default="drawn")
    ] = None,
) -> None:
    """Pages for blind readers, who rank films 1 to 5 for anatomy, pathology and quality.

    Real and synthetic films are shuffled, with the same findings in the same
    numbers, one film a patient or anatomy. A page is one offline HTML file
    that names no film; which are real stays in key.json.
    """
    from xreal_synth.evaluation.readers import choose_films, make_kit
    from xreal_synth.evaluation.readers_files import KEY, key_bytes
    from xreal_synth.evaluation.readers_page import reader_page
    from xreal_synth.export.place import free_path, whole_folder
    from xreal_synth.storage import private_files

    path = free_path(out)
    private_files()
    drawn = secrets.randbits(32) if seed is None else seed
    with bars() as report:
        sources = _sources([dataset, *(beside or [])])
        store = open_real(real)
        arms = _arms(sources, store, split)
        kit = make_kit(
            choose_films(arms, films, drawn),
            number,
            films // 10 if repeats is None else repeats,
            drawn,
            guess=guess,
        )
        shown = _films(kit, sources, store, split, report)
        with whole_folder(path) as folder:
            for reader in kit.readers:
                (folder / f"reader-{reader}.html").write_bytes(reader_page(kit, reader, shown))
                report("writing pages", 1, number)
            (folder / KEY).write_bytes(key_bytes(kit))
            title = {"study": kit.study, "line": "=" * (34 + len(kit.study)), "real": films // len(arms)}
            (folder / "README.md").write_text(_NOTE.format(**title), encoding="utf-8")
    again = len(kit.readers[1]) - films
    kinds = ", ".join(f"{films // len(arms)} {arm}" for arm in arms)
    console.print(f"{path}: {number} readers, {films} films ({kinds}), {again} of them twice")
    notes.print("give a reader one page and nothing else; key.json tells the films apart")


def analyse(
    kit: Annotated[
        Path, typer.Argument(metavar="KIT", help="The folder that `make` wrote.", show_default=False)
    ],
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS...", help="Readers' saved answers, JSON or CSV.", show_default=False),
    ],
    as_json: JsonOption = False,
) -> None:
    """Mean ranks of real and synthetic films, their difference, how far readers agree.

    Writes analysis.md, analysis.json and answers.csv (every answer with its
    film) into the kit's folder. Answers that are missing, foreign or not
    offered are refused, all of them named.
    """
    from xreal_synth.evaluation.nulls import null_for_nan
    from xreal_synth.evaluation.readers_figures import analyse as figures_of
    from xreal_synth.evaluation.readers_figures import tables_of
    from xreal_synth.evaluation.readers_files import read_key, read_results
    from xreal_synth.storage import LocalStore

    study = read_key(kit)
    readings = read_results(study, results)
    analysis: Analysis = figures_of(study, readings)
    told = null_for_nan(json.loads(json.dumps(asdict(analysis))))
    store, table = LocalStore(kit), tables_of(analysis)
    store.replace("analysis.md", table.encode())
    store.replace("analysis.json", (json.dumps(told, indent=1) + "\n").encode())
    store.replace("answers.csv", _answers(study, readings))
    if as_json:
        print_json(told)
        return
    console.print(table, soft_wrap=True)


def _sources(datasets: Sequence[str]) -> dict[str, Source]:
    """The datasets by their names, which must differ and be other than "real"."""
    from xreal_synth.evaluation.readers import REAL

    found: dict[str, Source] = {}
    for one in datasets:
        with made_source(one) as source:
            name = source.head.name
        if name in found or name == REAL:
            raise DatasetError(
                where=one,
                found=f"the name {name} again",
                wanted="datasets of different names",
                mend="give others",
            )
        check_synthetic(source, "an edited film is neither real nor synthetic")
        found[name] = source
    return found


def _arms(sources: Mapping[str, Source], store: Store, split: str) -> dict[str, Sequence[Candidate]]:
    from xreal_synth.evaluation.readers import REAL, Candidate
    from xreal_synth.export.source import shard_table, without_excluded

    made: dict[str, list[Candidate]] = {}
    for name, source in sources.items():
        films = made.setdefault(name, [])
        for record in source.records:
            table = shard_table(source, record)
            if table is None:
                continue
            for row in without_excluded(source, table).select(["key", "group", "findings"]).to_pylist():
                findings = tuple(sorted({finding["name"] for finding in row["findings"]}))
                films.append(Candidate(name, row["key"], str(row["group"]), findings))
    known = {finding for films in made.values() for film in films for finding in film.findings}
    own = [
        Candidate(REAL, row.image, row.patient, tuple(sorted(known & set(row.labels))))
        for row in _rows(store, split)
        if set(row.labels) <= known | {"No Finding"}
    ]
    return {REAL: own, **made}


def _rows(store: Store, split: str) -> Sequence[FilmRow]:
    from xreal_synth.evaluation.cases import split_rows

    return split_rows(store, split)


def _films(kit: Kit, sources: Mapping[str, Source], store: Store, split: str, report: Report) -> list[Film]:
    """The kit's films, all of the synthetic ones' size."""
    from xreal_synth.anatomy.manifest import BadFilm
    from xreal_synth.evaluation.cases import CaseReader
    from xreal_synth.evaluation.readers import REAL

    found: dict[tuple[str, str], Film] = {}
    for name, source in sources.items():
        wanted = {film.source for film in kit.films if film.arm == name}
        for key, made in films_named(source, wanted, report, f"reading {name}").items():
            found[name, key] = made
    sizes = {film.shape for film in found.values()}
    if len(sizes) != 1:
        raise DatasetError(
            found=f"films of the sizes {', '.join(map(str, sorted(sizes)))}",
            wanted="one size: another size would tell the kinds apart",
            mend="give datasets of one size",
        )
    reader = CaseReader(store, sizes.pop()[0])
    rows = {row.image: row for row in _rows(store, split)}
    try:
        for film in (film for film in kit.films if film.arm == REAL):
            found[REAL, film.source] = reader.film(rows[film.source])
    except BadFilm as bad:
        raise DatasetError(
            where=store.uri,
            found=f"{film.source}: {bad}",
            wanted="films that can be read",
            mend="see the manifest",
        ) from bad
    return [found[film.arm, film.source] for film in kit.films]


def _answers(kit: Kit, readings: Sequence[Reading]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["reader", "kind", "film", "findings", "again", *kit.questions])
    for reading in readings:
        for showing in kit.readers[reading.reader]:
            film = kit.films[showing.film]
            given = reading.answers[showing.name]
            row = [reading.reader, film.arm, film.source, "|".join(film.findings), int(showing.repeat)]
            table.writerow(map(for_csv, [*row, *(given[question] for question in kit.questions)]))
    return text.getvalue().encode()
