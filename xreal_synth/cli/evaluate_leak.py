"""`xreal-synth evaluate leak`: can edited images be told from unedited ones?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from xreal_synth.cli.evaluate_common import GeneratedArgument, bars, made_source
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.leak import LeakFigures

_SHOWN = 6


def register(group: typer.Typer) -> None:
    group.command(
        epilog=examples(
            "xreal-synth evaluate leak out/counterfactual-pairs",
            "xreal-synth evaluate leak s3://bucket/big -n 500 --json",
        )
    )(leak)


def leak(
    dataset: GeneratedArgument,
    count: Annotated[int, typer.Option("-n", min=10, help="Groups at most, the first ones.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds and the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Two probes' areas under the ROC curve in telling shams (edited to no effect) from their unedited twins.

    0.5: it cannot. A regression on figures of texture and a small network are told the region, and judge each group by
    the others. The dataset gets leak.json,
    which its report shows; it needs `pairs: {twin: true, sham: SHARE}`.
    """
    from xreal_synth.dataset.names import LEAK
    from xreal_synth.evaluation.dataset_images import generated_images
    from xreal_synth.evaluation.kept import json_bytes
    from xreal_synth.evaluation.leak import leak as measure

    with made_source(dataset) as source, bars() as report:
        figures = measure((image.sample for image in generated_images(source, report)), count, seed)
        reported = _fields(figures, source.head.digest)
        source.store.replace(LEAK, json_bytes(reported))
    if as_json:
        print_json(reported)
        return
    console.print(_table(figures))
    notes.print(f"{dataset}: {LEAK}", soft_wrap=True)


def _fields(figures: LeakFigures, digest: str) -> dict[str, Any]:
    auc, network = figures.auc, figures.network
    return {
        "auc": auc.value, "low": auc.ci_low, "high": auc.ci_high, "n": auc.n, "groups": figures.groups,
        "network": {"auc": network.value, "low": network.ci_low, "high": network.ci_high},
        "features": dict(sorted(figures.alone.items(), key=lambda item: -item[1])), "digest": digest,
    }  # fmt: skip


def _table(figures: LeakFigures) -> Table:
    table = Table("figure", "area under the ROC curve", title_justify="left")
    table.title = f"{figures.groups} shams and their twins"
    for name, auc in (("regression", figures.auc), ("network", figures.network)):
        table.add_row(name, f"{auc.value:.3f} [{auc.ci_low:.3f}, {auc.ci_high:.3f}]")
    table.add_section()
    for name, value in sorted(figures.alone.items(), key=lambda item: -item[1])[:_SHOWN]:
        table.add_row(f"{name}, alone", f"{value:.3f}")
    return table
