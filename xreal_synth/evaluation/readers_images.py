"""A study's images: those that may be shown to readers, those that are, and every answer beside the image it is of."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from xreal_synth.dataset.source import Source, shard_table, without_excluded
from xreal_synth.errors import DatasetError
from xreal_synth.escaping import for_csv
from xreal_synth.evaluation.cases import CaseReader, Report, split_rows
from xreal_synth.evaluation.dataset_images import images_named
from xreal_synth.evaluation.readers import REAL, Answers, Candidate, Kit
from xreal_synth.images.manifest import BadImage
from xreal_synth.storage import Store
from xreal_synth.types import GreyImage


def candidates(sources: Mapping[str, Source], store: Store, split: str) -> dict[str, list[Candidate]]:
    """By arm: every image of the datasets, and of a manifest's split those with no other findings than theirs."""
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


def kit_images(kit: Kit, sources: Mapping[str, Source], store: Store, split: str, report: Report) -> list[GreyImage]:
    """The kit's images, uint8 [S, S], all of the synthetic ones' size. Raises DatasetError where one is not to be had,
    or the synthetic ones are of several sizes."""
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


def answers_csv(kit: Kit, answers: Mapping[int, Answers]) -> bytes:
    """A row an answer."""
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
