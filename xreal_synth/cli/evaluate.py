"""`xreal-synth evaluate`: the group, and `leak`: can edited images be told from unedited ones?"""

from __future__ import annotations

from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option
from typer.core import TyperGroup

from xreal_synth.cli import evaluate_bundle, evaluate_dataset, evaluate_privacy, evaluate_readers, evaluate_utility
from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption, examples
from xreal_synth.cli.output import console, note, print_json, table_of
from xreal_synth.dataset.names import LEAK
from xreal_synth.evaluation.dataset_images import generated_images
from xreal_synth.evaluation.kept import json_bytes

_SHOWN = 6


class _WithDefault(TyperGroup):
    """`evaluate out/set` is `evaluate dataset out/set`, where the first word is no command, nor a mistyped one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not self._is_own(args[0], ctx):
            args = ["dataset", *args]
        return super().parse_args(ctx, args)

    def _is_own(self, word: str, ctx: Any) -> bool:
        if word in self.commands or word in ctx.help_option_names:
            return True
        return bool(get_close_matches(word, list(self.commands))) and not Path(word).exists()


app = typer.Typer(
    help="Measures a finished dataset, or what a bundle makes.\n\n"
    "xreal-synth evaluate DATASET --real MANIFEST measures a dataset (the word `dataset` may be left out).",
    cls=_WithDefault,
    subcommand_metavar="DATASET | COMMAND [ARGS]...",
    epilog=examples(
        "xreal-synth evaluate out/quickstart --real images/manifest.csv",
        "xreal-synth evaluate compare out/xreal out/controlnet --real images/manifest.csv",
    ),
    no_args_is_help=True,
)


for module in (evaluate_dataset, evaluate_bundle, evaluate_utility, evaluate_privacy):
    for name, lines in module.EXAMPLES.items():
        app.command(name, epilog=examples(*lines))(getattr(module, name))
app.add_typer(evaluate_readers.app, name="readers")


@app.command(
    epilog=examples(
        "xreal-synth evaluate leak out/counterfactual-pairs", "xreal-synth evaluate leak s3://bucket/big -n 500 --json"
    )
)
def leak(
    dataset: common.GeneratedArgument,
    count: Annotated[int, Option("-n", min=10, help="Groups at most, the first ones.")] = 2000,
    seed: Annotated[int, Option(min=0, help="Of the folds and the bootstrap.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Two probes' areas under the ROC curve in telling shams (edited to no effect) from their unedited twins.

    0.5: it cannot. A regression on figures of texture and a small network are told the region, and judge each group by
    the others. The dataset gets leak.json,
    which its report shows; it needs `pairs: {twin: true, sham: SHARE}`.
    """
    from xreal_synth.evaluation.leak import leak as measure

    with common.made_source(dataset) as source, common.bars() as report:
        figures = measure((image.sample for image in generated_images(source, report)), count, seed)
        auc, network = figures.auc, figures.network
        alone = dict(sorted(figures.alone.items(), key=lambda item: -item[1]))
        reported = {
            "auc": auc.value, "low": auc.ci_low, "high": auc.ci_high, "n": auc.n, "groups": figures.groups,
            "network": {"auc": network.value, "low": network.ci_low, "high": network.ci_high},
            "features": alone, "digest": source.head.digest,
        }  # fmt: skip
        source.store.replace(LEAK, json_bytes(reported))
    if as_json:
        print_json(reported)
        return
    title = f"{figures.groups} shams and their twins"
    probes = [("regression", f"{auc:.3f}"), ("network", f"{network:.3f}")]
    table = table_of(probes, "figure", "area under the ROC curve", title=title, title_justify="left")
    table.add_section()
    for name, value in islice(alone.items(), _SHOWN):
        table.add_row(f"{name}, alone", f"{value:.3f}")
    console.print(table)
    note(f"{dataset}: {LEAK}")
