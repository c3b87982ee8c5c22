"""`xreal-synth train NETWORK CONFIG`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from xreal_synth.cli.options import JsonOption, first_sentence
from xreal_synth.cli.output import (
    TrainDisplay,
    bytes_text,
    console,
    note,
    print_json,
    print_table,
    progress_console,
    told,
)
from xreal_synth.errors import TrainingError
from xreal_synth.recipe.kinds import near
from xreal_synth.recipe.schema import Compute
from xreal_synth.storage import nothing_left

if TYPE_CHECKING:
    from xreal_synth.training.pace import OnStep, Result
    from xreal_synth.training.settings import TrainConfig


Network = Literal[
    "autoencoder", "anatomy-controller", "denoiser", "controlnet", "distill-guidance", "segmenter", "classifier"
]


EXAMPLES = (
    "xreal-synth train autoencoder mini-autoencoder --data images/ --out runs/autoencoder",
    "xreal-synth train denoiser mini-denoiser --data images/ --out runs/denoiser "
    "--set model.autoencoder=runs/autoencoder/network/vae --set loop.steps=2000",
    "xreal-synth train distill-guidance mini-distill-guidance --data images/ --out runs/distilled "
    "--set model.bundle=xreal-mini",
    "xreal-synth train denoiser paper-denoiser --dry-run --workers 8",
    "xreal-synth train denoiser paper-denoiser --data /shared/images --out /shared/runs/denoiser "
    "--workers 8 --address auto --set model.autoencoder=/shared/runs/autoencoder/network/vae",
)


def _shipped() -> dict[str, Path]:
    folder = Path(str(files("xreal_synth.training") / "configs"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _list(show: bool) -> None:
    if show:
        texts = {name: path.read_text(encoding="utf-8") for name, path in _shipped().items()}
        rows = [
            (re.findall(r"(?m)^network: (\S+)", text)[0], name, first_sentence(text)) for name, text in texts.items()
        ]
        print_table(rows, "network", "config", "about", show_edge=False)
        raise typer.Exit


def _config_path(config: str) -> Path:
    """A file as given, or a shipped config by its name."""
    if config.endswith((".yaml", ".yml")):
        return Path(config)
    names = _shipped()
    if config not in names:
        raise TrainingError(
            found=f"no shipped config {config!r}",
            wanted=f"a .yaml file, or one of {', '.join(names)}",
            hint=near(config, names) or "xreal-synth train --list",
        )
    return names[config]


def train(
    network: Annotated[Network, Argument(help="Which network to train.")],
    config: Annotated[str, Argument(help="A YAML file, or the name of a shipped config.")],
    data: Annotated[str | None, Option(help="Folder or URI with manifest.csv, images and masks.")] = None,
    out: Annotated[Path | None, Option(file_okay=False, help="State, metrics, sample grids and the network.")] = None,
    overrides: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="Replaces a setting of the config, e.g. loop.steps=500; may be repeated.",
        ),
    ] = None,
    device: Annotated[str | None, Option(help="cpu, cuda, cuda:1.", show_default="cuda if any")] = None,
    threads: Annotated[int | None, Option(min=1, help="CPU threads of each process.", show_default="torch's")] = None,
    workers: Annotated[int, Option(min=1, help="Processes that share each batch, through Ray Train.")] = 1,
    gpus_per_worker: Annotated[
        float | None, Option(min=0, help="GPUs of each worker.", show_default="1 where Ray has any, else 0")
    ] = None,
    cpus_per_worker: Annotated[float, Option(min=0.1, help="CPU cores of each worker.")] = 1,
    address: Annotated[
        str | None, Option(help="A Ray cluster's address, or auto.", show_default="a Ray of this machine's own")
    ] = None,
    dry: Annotated[
        bool, Option("--dry-run", help="Print weights, memory and FLOPs; needs neither images nor weights.")
    ] = False,
    listed: Annotated[bool, Option("--list", callback=_list, is_eager=True, help="Lists the shipped configs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Trains one network; run the same command again to resume. Ctrl-C saves and exits 75.

    With --workers or --address the batches are shared among the workers of a Ray: the same config and the same
    curve, and a run may go on with another number of workers.
    """
    path = _config_path(config)
    if dry:
        _dry_run(network, path, overrides or (), workers, as_json=as_json)
        return
    if data is None or out is None:
        raise TrainingError(
            found=f"no {'--data' if data is None else '--out'}",
            wanted="a folder of images and a folder to train into",
            hint="--data IMAGES --out RUN (only --dry-run needs neither)",
        )
    from xreal_synth.training.config import load_config
    from xreal_synth.training.loop import EXIT_STOPPED
    from xreal_synth.training.run import train as run_training

    with TrainDisplay(progress_console(as_json), network) as display, nothing_left(out):
        if workers == 1 and address is None:
            result = run_training(network, path, data, out, overrides or (), device, threads, display.on_step)
        else:
            if device is not None:
                raise TrainingError(
                    found=f"--device {device} with --workers or --address",
                    wanted="Ray to choose each worker's device",
                    hint="leave --device out; --gpus-per-worker 0 trains on CPUs",
                )
            loaded = load_config(network, path, overrides or ())
            shares = (workers, gpus_per_worker, cpus_per_worker, threads)
            result = _train_together(loaded, data, out, shares, address, display.on_step)
    best = "none yet" if result.best is None else f"{result.best:.4f}"
    told(
        as_json,
        {"network": network, "step": result.step, "seconds": result.seconds, "best": result.best,
         "finished": result.finished, "out": str(out)},
        f"{network}: step {result.step}, {result.seconds / 60:.1f} min, best validation loss {best}",
    )  # fmt: skip
    if not result.finished:
        note("stopped before the end: run the same command again to go on")
        raise typer.Exit(EXIT_STOPPED)


def _train_together(
    config: TrainConfig,
    data: str,
    out: Path,
    shares: tuple[int, float | None, float, int | None],
    address: str | None,
    on_step: OnStep,
) -> Result:
    """In a Ray of this machine's own, or the cluster at `address`; shares are workers, GPUs, CPUs, threads."""
    from xreal_synth.engine.ray_session import resources, session

    workers, gpus, cpus, threads = shares
    with session(address, Compute(actors=workers, cpus_per_actor=cpus)):
        from xreal_synth.training.ray_train import Team, train_together  # takes seconds

        if gpus is None:
            gpus = 1.0 if resources().gpus > 0 else 0.0
        return train_together(config, data, out, Team(workers, gpus, cpus, threads), on_step)


def _dry_run(network: str, path: Path, overrides: Sequence[str], workers: int, *, as_json: bool) -> None:
    from xreal_synth.training.config import load_config
    from xreal_synth.training.dry_run import dry_run

    found = dry_run(load_config(network, path, overrides), path, workers)
    total = sum(found.memory.values())
    if as_json:
        print_json({**asdict(found), "memory": {**found.memory, "total": total}})
        return
    weights = [(name, *(f"{count:,}" for count in counts)) for name, counts in found.parameters.items()]
    header = ("network", "weights trained", "held fixed")
    print_table(weights, *header, title="Weights", title_justify="left")
    title = f"Memory of each of {workers} worker(s), {found.images_at_once} image(s) at once"
    sizes = [(name, bytes_text(size)) for name, size in [*found.memory.items(), ("in all", total)]]
    print_table(sizes, "what", "bytes", title=title, title_justify="left")
    console.print(
        f"{found.steps:,} steps of {found.batch} images; {found.flops_per_step / 1e12:.3g} TFLOP a step, forward and "
        "backward (counted by torch.utils.flop_counter). The allocator's reserve and work space come on top."
    )
