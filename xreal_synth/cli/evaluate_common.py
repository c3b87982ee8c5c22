"""What the ways of evaluating share: options, a dataset's finished shards, the bars of progress, the machine's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from typer import Argument, Option

from xreal_synth.cli.output import counting_bar, note, notes
from xreal_synth.dataset.source import Source, open_source
from xreal_synth.errors import Problem, RecipeError
from xreal_synth.evaluation.cases import Report
from xreal_synth.recipe.yaml_text import parse
from xreal_synth.storage import open_store

DataOption = Annotated[str, Option(help="Folder or URI with manifest.csv, images and masks.")]
BundleOption = Annotated[str, Option(help="A shipped name or a folder.")]
SplitOption = Annotated[str, Option(help="The manifest's split to take masks and images from.")]
TrainSplitOption = Annotated[
    str, Option(help="The split the bundle was trained on: for real beside real, and for copies.")
]
SeedOption = Annotated[int, Option(min=0, help="Which images, boxes and noise.")]
SamplingSetOption = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of a recipe's `sampling`, e.g. hold=0.5 or mode=reference; may be repeated.",
        show_default="the bundle's",
    ),
]
EvaluatorsOption = Annotated[
    Path | None, Option(help="A folder of evaluator networks of your own.", show_default="the shipped ones")
]
ImagesOption = Annotated[
    Path | None,
    Option(
        help="Keeps the generated images; run again to go on, or to measure without sampling.",
        show_default="a temporary folder",
    ),
]
PrecisionOption = Annotated[Literal["auto", "fp32", "bf16"], Option(help="Of the denoiser.")]
MicroBatchOption = Annotated[int, Option(min=1, help="Images sampled at once.")]
ThreadsOption = Annotated[int, Option(min=1, help="CPU threads.")]


RealSplitOption = Annotated[
    str, Option(help="The manifest's split to measure by; best images that no network has seen.")
]
BesideOption = Annotated[
    str | None,
    Option(
        help="The split whose real images stand beside made ones in distances.",
        show_default="train, or half of the split's patients",
    ),
]
InceptionOption = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="The FID's Inception weights (pytorch-fid's or torch-fidelity's file): adds FID and KID.",
        show_default="none: no FID",
    ),
]
MostOption = Annotated[int, Option("-n", min=2, help="Images at most; of more, whole shards drawn at random.")]
MOST = 10_000

GeneratedArgument = Annotated[str, Argument(metavar="DATASET", help="A dataset that was generated: folder or URI.")]
RealOption = Annotated[
    str, Option(metavar="MANIFEST", help="Real images: a manifest.csv, or the folder or URI that holds it.")
]


def sampling_from(given: Sequence[str] | None) -> dict[str, Any]:
    """`--set` texts -> keys of `sampling`; what they mean is checked with the bundle at hand."""
    asked = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise _option("--set", text, "KEY=VALUE", "write it like --set hold=0.5")
        asked[key.strip()] = _scalar(value, f"--set {key}")
    return asked


def grid_from(given: Sequence[str]) -> dict[str, list[Any]]:
    """`--grid` texts `hold=0.3,0.5` -> values by key."""
    grid: dict[str, list[Any]] = {}
    for text in given:
        key, _, values = text.partition("=")
        if not key or not values or key in grid:
            hint = "write it like --grid hold=0.3,0.5"
            raise _option("--grid", text, "KEY=VALUE,VALUE,.. once a key", hint)
        grid[key.strip()] = [_scalar(value, f"--grid {key}") for value in values.split(",")]
    return grid


def _scalar(text: str, option: str) -> Any:
    """A number or word as a recipe has it."""
    document = parse(text)
    if document.problems or isinstance(document.value, list | dict):
        raise _option(option, text, "a number or a word", "give one value at a time")
    return document.value


def _option(name: str, found: str, wanted: str, hint: str) -> RecipeError:
    return RecipeError("options", [Problem(name, found=repr(found), wanted=wanted, hint=hint)])


@contextmanager
def bars() -> Iterator[Report]:
    """A bar for each thing that is done, on standard error."""
    with counting_bar(notes) as progress:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.advance(tasks[what], done)

        yield report


def image_folder(given: Path | None) -> AbstractContextManager[Path | str]:
    """The folder that was given, or a temporary one."""
    return nullcontext(given) if given else TemporaryDirectory(prefix="xreal-synth-images-")


def machine_of(threads: int) -> tuple[str, str]:
    """Sets torch's CPU threads -> the device that networks run on, and the machine in words."""
    import torch

    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, f"{machine(device)}, {threads} thread(s)"


def machine(device: str) -> str:
    """The processor's name."""
    import torch

    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    features = "AMX bf16" if any("amx_bf16" in line for line in lines) else "no AMX"
    return f"{names[0] if names else 'CPU'} ({features})"


@contextmanager
def made_source(dataset: str) -> Iterator[Source]:
    """The finished shards of a dataset; what is left out of them is told at the end."""
    source = open_source(open_store(dataset))
    yield source
    for skipped in source.skipped:
        note(str(skipped))
