"""`xreal-synth evaluate`: the group, `anatomy`, and `leak`: can edited images be told from unedited ones?"""

from __future__ import annotations

import json
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from xreal_synth.cli import (
    evaluate_bundle,
    evaluate_dataset,
    evaluate_privacy,
    evaluate_readers,
    evaluate_utility,
)
from xreal_synth.cli import evaluate_common as common
from xreal_synth.cli.options import JsonOption, console, examples, notes, print_json

if TYPE_CHECKING:
    from xreal_synth.evaluation.anatomy import AnatomyFigures
    from xreal_synth.evaluation.leak import LeakFigures
    from xreal_synth.types import SamplingSettings

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


@app.callback()
def _group() -> None:
    pass


for module in (evaluate_dataset, evaluate_bundle, evaluate_utility, evaluate_privacy):
    for name, lines in module.EXAMPLES.items():
        app.command(name, epilog=examples(*lines))(getattr(module, name))
app.add_typer(evaluate_readers.app, name="readers")


@app.command(
    epilog=examples(
        "xreal-synth evaluate anatomy --data images/ -n 64",
        "xreal-synth evaluate anatomy --data images/ -n 16 --set mode=reference --set steps=50 --sheet sheet.png",
    )
)
def anatomy(
    data: common.DataOption,
    bundle: common.BundleOption = "xreal-mini",
    count: Annotated[int, typer.Option("-n", min=2, help="Images.")] = 64,
    split: common.SplitOption = "val",
    seed: common.SeedOption = 0,
    overrides: common.SamplingSetOption = None,
    precision: common.PrecisionOption = common.Precision.auto,
    micro_batch: common.MicroBatchOption = 4,
    threads: common.ThreadsOption = 1,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the generated images; run again to go on.", show_default="a temporary folder"
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draws real images beside made ones.", show_default="no")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Images made from real images' masks: Dice per organ, MS-SSIM to the real image, seconds per stage."""
    import torch

    from xreal_synth.evaluation.anatomy import measure_anatomy
    from xreal_synth.evaluation.kept import null_for_nan
    from xreal_synth.evaluation.request import Request, images_for, prepare
    from xreal_synth.models.load import load_network

    torch.set_num_threads(threads)
    given = common.sampling_from(overrides)
    request = Request(bundle, data, split, count, seed, given, precision.value, micro_batch, most_findings=1)
    prepared = prepare(request)
    segmenter: Any = load_network(prepared.info, "segmenter").eval().to(prepared.device)
    with common.image_folder(images) as folder:
        with common.bars() as report:
            made = images_for(prepared, folder, report)
        figures = measure_anatomy(segmenter, prepared.cases, prepared.reader, made)
        if sheet is not None:
            from xreal_synth.evaluation.sheet import side_by_side

            side_by_side(prepared.cases[:16], prepared.reader, made, sheet)
    where = f"{common.machine(prepared.device)}, {threads} thread(s), {prepared.precision}, micro-batch {micro_batch}"
    settings = prepared.settings
    if as_json:
        print_json(
            null_for_nan(
                {
                    "bundle": prepared.info.name,
                    "machine": where,
                    "sampling": asdict(settings),
                    **asdict(figures),
                }
            )
        )
    else:
        _show(prepared.info.name, settings, where, figures)


def _show(name: str, settings: SamplingSettings, where: str, figures: AnatomyFigures) -> None:
    console.print(f"{name}: {json.dumps(asdict(settings))}")
    console.print(f"{where}; mean [95% bootstrap interval]")
    table = Table(
        "figure", f"healthy twin ({figures.images})", f"with finding ({figures.variants})", "real image"
    )
    for organ in figures.dice:
        table.add_row(
            f"Dice {organ}",
            *(f"{part[organ]}" for part in (figures.dice, figures.dice_variant, figures.dice_real)),
        )
    table.add_row("MS-SSIM to the real image", f"{figures.ms_ssim}", f"{figures.ms_ssim_variant}", "1")
    table.add_row("high frequencies, made / real", f"{figures.sharpness}", "", "1")
    table.add_row("change inside the region, grey levels", "", f"{figures.change_inside}", "")
    table.add_row("change outside the region, grey levels", "", f"{figures.change_outside}", "")
    console.print(table)
    for clock, spent in (("seconds", figures.seconds), ("core seconds", figures.core_seconds)):
        if spent:
            console.print(f"{clock} per image: " + ", ".join(f"{k} {v:.3f}" for k, v in spent.items()))


@app.command(
    epilog=examples(
        "xreal-synth evaluate leak out/counterfactual-pairs",
        "xreal-synth evaluate leak s3://bucket/big -n 500 --json",
    )
)
def leak(
    dataset: common.GeneratedArgument,
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

    with common.made_source(dataset) as source, common.bars() as report:
        figures = measure((image.sample for image in generated_images(source, report)), count, seed)
        reported = _leak_fields(figures, source.head.digest)
        source.store.replace(LEAK, json_bytes(reported))
    if as_json:
        print_json(reported)
        return
    console.print(_leak_table(figures))
    notes.print(f"{dataset}: {LEAK}", soft_wrap=True)


def _leak_fields(figures: LeakFigures, digest: str) -> dict[str, Any]:
    auc, network = figures.auc, figures.network
    return {
        "auc": auc.value, "low": auc.ci_low, "high": auc.ci_high, "n": auc.n, "groups": figures.groups,
        "network": {"auc": network.value, "low": network.ci_low, "high": network.ci_high},
        "features": dict(sorted(figures.alone.items(), key=lambda item: -item[1])), "digest": digest,
    }  # fmt: skip


def _leak_table(figures: LeakFigures) -> Table:
    table = Table("figure", "area under the ROC curve", title_justify="left")
    table.title = f"{figures.groups} shams and their twins"
    for name, auc in (("regression", figures.auc), ("network", figures.network)):
        table.add_row(name, f"{auc.value:.3f} [{auc.ci_low:.3f}, {auc.ci_high:.3f}]")
    table.add_section()
    for name, value in sorted(figures.alone.items(), key=lambda item: -item[1])[:_SHOWN]:
        table.add_row(f"{name}, alone", f"{value:.3f}")
    return table
