"""The steps of a GPU day, what is least known first; each returns a line and its numbers."""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from tests.golden.check import TOLERANCE
from tests.golden.check import check as golden_check
from tests.speed.ways import Task, Way, WaysBench, figures
from tests.training.conftest import LABELS, TINY_DATA, TINY_LOOP, TINY_MODELS, make_pair, write_manifest
from xreal_synth import seeds
from xreal_synth.engine.backend import Networks
from xreal_synth.evaluation.bench_sample import Loop, SampleBench, loop_settings, rows_of
from xreal_synth.models.describe import SHIPPED, describe
from xreal_synth.models.devices import Compile, device_facts, device_name, does_not_fit, is_sound, open_device
from xreal_synth.models.layers import resolve_precision
from xreal_synth.models.load import load_bundle
from xreal_synth.models.loaded import LoadedBundle
from xreal_synth.models.random_bundle import build_random, paper_design
from xreal_synth.recipe.load import LoadedRecipe, recipe_from_text
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.group_job import group_job
from xreal_synth.run.resources import Device, Resources, actor_shape
from xreal_synth.run.setup import Run, open_run
from xreal_synth.sampling.jobs import in_batches
from xreal_synth.training import settings
from xreal_synth.training.run import train

NOISE: Final = "cf06d2ca37803f09"
"""sha256 of (8, 32, 32) normals of seed 20261122, purpose a.x_T: the first sixteen digits, on any machine."""
RECIPE: Final = """\
version: 1
name: gpu-day
seed: 7
anatomies: {groups}
bundle: {bundle}
findings:
  - {{weight: 1, labels: []}}
  - {{weight: 3, labels: [{{name: Pneumonia}}]}}
pairs: {{twin: true}}
quality: {{profile: none}}
output: {{uri: unset, shard_samples: {shard}}}
"""
KNOWN: Final = "[Pneumonia, Effusion, Edema]"
Images = dict[str, np.ndarray]


class SkippedError(Exception):
    """A step that this machine cannot do."""


class MissedError(Exception):
    """A step that ran, and what must hold does not."""

    def __init__(self, line: str, numbers: dict[str, Any]) -> None:
        super().__init__(line)
        self.numbers = numbers


@dataclass(frozen=True, slots=True)
class Day:
    """The machine, and a folder for files; everything is small on a CPU."""

    device: Device
    folder: Path

    @classmethod
    def of_this_machine(cls, folder: Path) -> Day:
        return cls("cuda" if torch.cuda.is_available() else "cpu", folder)

    @property
    def small(self) -> bool:
        return self.device == "cpu"

    @property
    def bundle(self) -> str:
        return "xreal-tiny" if self.small else "xreal-mini"

    def need_cuda(self) -> None:
        if self.small:
            raise SkippedError("needs CUDA, skipped")

    def run(self, groups: int, shard: int = 64, **changed: object) -> Run:
        """A run of so many groups; `__` in a setting's name stands for a dot."""
        text = RECIPE.format(groups=groups, bundle=self.bundle, shard=shard)
        overrides = [f"{key.replace('__', '.')}={value}" for key, value in changed.items()]
        return open_run(LoadedRecipe(recipe_from_text(text, overrides=overrides), text))


Result = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Step:
    """`limit_s` is what it may take on a GPU."""

    name: str
    limit_s: float
    run: Callable[[Day], Result]


def machine(day: Day) -> Result:
    """What there is, and whether noise is the noise of every other machine."""
    drawn = seeds.normal((8, 32, 32), 20261122, 0, 0, "a.x_T", "", 0, 0, 0)
    noise = hashlib.sha256(drawn.tobytes()).hexdigest()[:16]
    smi = shutil.which("nvidia-smi")
    query = [str(smi), "--query-gpu=name,driver_version,memory.total,memory.used,mig.mode.current,ecc.mode.current",
             "--format=csv"]  # fmt: skip
    told = subprocess.run(query, capture_output=True, text=True, timeout=8, check=False).stdout if smi else ""
    open_device(day.device)
    numbers: dict[str, Any] = {
        "device": device_name(day.device), "torch": torch.__version__, "noise": noise, "nvidia-smi": told,
        "compiler": shutil.which("gcc") or shutil.which("cc"), **device_facts(day.device, "none"),
    }  # fmt: skip
    if not day.small:
        numbers["free, whole memory"] = torch.cuda.mem_get_info()
    if noise != NOISE or not is_sound(day.device):
        raise MissedError(f"noise {noise}, wanted {NOISE}; sound: {is_sound(day.device)}", numbers)
    return f"{numbers['device']}, torch {torch.__version__}, noise as everywhere", numbers


def golden(day: Day) -> Result:
    """The reference's arrays in float32, without TF32 and with it."""
    folder = Path(__file__).parents[1] / "golden" / "xreal-tiny"
    open_device(day.device)
    numbers = {"tf32 off": golden_check(folder, device=day.device)}
    if not day.small:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        numbers["tf32 on"] = golden_check(folder, device=day.device)
    worst = {name: max(errors.values()) for name, errors in numbers.items()}
    line = ", ".join(f"{name} {error:.1e}" for name, error in worst.items())
    if worst["tf32 off"] > TOLERANCE:
        raise MissedError(f"{line}; at most {TOLERANCE:g} without TF32", numbers)
    return line, numbers


def images(day: Day) -> Result:
    """The same groups in processes of their own: float32 and bfloat16 against a CPU, recorded against plain, thrice."""
    groups = 2 if day.small else 8
    ways = {"cpu fp32": ("cpu", "fp32", "none"), "fp32": (day.device, "fp32", "auto"),
            "bf16": (day.device, "bf16", "auto"), "bf16 again": (day.device, "bf16", "auto")}  # fmt: skip
    if not day.small:
        ways |= {"bf16 once more": (day.device, "bf16", "auto"), "bf16 plain": (day.device, "bf16", "none")}
    made = {name: fresh(_made, day, groups, *way) for name, way in ways.items()}
    sums = {name: hashlib.sha256(b"".join(map(bytes, one.values()))).hexdigest()[:12] for name, one in made.items()}
    apart = {name: _apart(made["cpu fp32"], one) for name, one in made.items()}
    same = {sum_ for name, sum_ in sums.items() if name.startswith("bf16")}
    line = "; ".join(
        f"{name} {mean:.3f} (most {most})" for name, (mean, most) in apart.items() if name in ("fp32", "bf16")
    )
    line = f"grey levels from a CPU's: {line}; {len(same)} different of {len(ways) - 2} in bf16"
    numbers = {"apart": apart, "sha256": sums}
    if len(same) > 1 or apart["fp32"][0] > 0.05:
        raise MissedError(line, numbers)
    return line, numbers


def denoiser(day: Day) -> Result:
    """An evaluation by rows, its kernels sent one by one and recorded: the bytes must be equal."""
    ways: tuple[Compile, ...] = ("none",) if day.small else ("none", "graphs")
    numbers = _evaluations(day, ways, (4,) if day.small else (8, 16, 32, 64, 128, 256))
    line = _milliseconds(numbers)
    if any(one["apart"] for name, one in numbers.items() if "graphs" in name):
        raise MissedError(f"recorded is not equal to plain; {line}", numbers)
    return line, numbers


def inductor(day: Day) -> Result:
    """The same compiled by torch, which needs a C compiler and a minute."""
    day.need_cuda()
    numbers = _evaluations(day, ("none", "inductor"), (8, 64))
    return _milliseconds(numbers), numbers


def first_stage(day: Day) -> Result:
    """Decoding by precision and layout, and what that costs in grey levels."""
    vae: Any = paper_design().networks["vae"]() if not day.small else None
    model: Any = load_bundle(describe(day.bundle), day.device)
    network = model._vae if vae is None else vae.to(day.device).eval()
    channels, side = (model.latent_shape[0], model.latent_shape[1]) if vae is None else (3, 64)
    z = torch.randn(2 if day.small else 16, channels, side, side, generator=torch.Generator().manual_seed(0))
    ways = {"fp32": (torch.float32, False, False), "tf32": (torch.float32, True, False),
            "tf32 nhwc": (torch.float32, True, True), "fp16 nhwc": (torch.float16, False, True),
            "bf16 nhwc": (torch.bfloat16, False, True)}  # fmt: skip
    numbers: dict[str, Any] = {}
    exact: Tensor | None = None
    for name, (dtype, tf32, last) in ways.items():
        if day.small and name not in ("fp32", "bf16 nhwc"):
            continue
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        layout = torch.channels_last if last else torch.contiguous_format
        network = network.to(dtype=dtype, memory_format=layout)
        given = z.to(day.device, dtype)
        with torch.inference_mode():
            decoded = network.decode(given)
            out = getattr(decoded, "sample", decoded).float()
            seconds = _timed(day, partial(network.decode, given), 3)
        exact = out if exact is None else exact
        numbers[name] = {"ms an image": 1e3 * seconds / len(z), "grey MAE": 255 * (out - exact).abs().mean().item()}
    line = "; ".join(f"{name} {one['ms an image']:.2f} ms ({one['grey MAE']:.3f})" for name, one in numbers.items())
    return f"an image (grey levels off): {line}", numbers


def noise(day: Day) -> Result:
    """Noise drawn on the host, and the way to the device."""
    began = time.perf_counter()
    drawn = np.stack([seeds.normal((8, 32, 32), 1, row, 0, "a.hold", "", 0, 0, 0) for row in range(32)])
    per_million = 1e3 * (time.perf_counter() - began) / (drawn.size / 1e6)
    numbers = {"ms a million normals": per_million}
    if not day.small:
        plain = torch.from_numpy(drawn)
        pinned = plain.pin_memory()
        numbers["ms copied"] = 1e3 * _timed(day, lambda: plain.to("cuda"))
        numbers["ms copied, pinned"] = 1e3 * _timed(day, lambda: pinned.to("cuda", non_blocking=True))
        wide = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
        numbers["matmul TFLOP/s"] = 2 * 8192**3 / _timed(day, lambda: wide @ wide) / 1e12
        numbers["copy TB/s"] = 2 * 2 * wide.numel() / _timed(day, lambda: wide.clone()) / 1e12
    return "; ".join(f"{name} {value:.3g}" for name, value in numbers.items()), numbers


def bench(day: Day) -> Result:
    """Images a second against the released code's way, as `bench sample` has them."""
    return _benched(day, day.bundle, [2] if day.small else [8, 32])


def bench_paper(day: Day) -> Result:
    """The same at the size of the authors' weights."""
    day.need_cuda()
    return _benched(day, _place(day, "paper"), [8])


def search(day: Day) -> Result:
    """The micro-batch that an actor finds, and its canary image."""
    run = day.run(32 if day.small else 512, 16 if day.small else 512)
    shape = actor_shape(run.recipe.compute, Resources(1, 0 if day.small else 1))
    backend = Networks().open(run, shape)
    if day.small:
        backend.settle(None)
    trials = [asdict(trial) for trial in backend.trials]
    rates = "; ".join(f"x{one['micro_batch']} {one['images_per_s']:.3g}/s" for one in trials)
    return f"{backend.micro_batch} together: {rates}", {"trials": trials, "canary": backend.draw_canary()}


def worker(day: Day) -> Result:
    """The engine's worker with the gate beside a bare loop, as `tests.speed` has it."""
    return _ways(day, ("bare", "worker"), Task(day.bundle, 4 if day.small else 128, 2, _speed_settings(day)))


def engine(day: Day) -> Result:
    """The whole engine on a Ray of this machine, and four actors on one GPU."""
    day.need_cuda()
    line, numbers = _ways(day, ("bare", "engine"), Task(day.bundle, 64, 2, _speed_settings(day)))
    shared = Task(day.bundle, 64, 2, {**_speed_settings(day), "compute.gpus_per_actor": 0.25})
    more, four = _ways(day, ("bare", "engine"), shared, actors=4)
    return f"{line}; four on one GPU: {more}", {"one": numbers, "four": four}


def training(day: Day) -> Result:
    """Images a second of a training, warps and writing in."""
    side, steps = (40, 2) if day.small else (256, 60)
    data, paces = day.folder / "training" / "data", list[float]()
    shutil.rmtree(data.parent, ignore_errors=True)
    data.mkdir(parents=True)
    write_manifest(data, [_pair(data, number, side) for number in range(8 if day.small else 64)])
    config = {"network": "segmenter", "seed": 3, "data": TINY_DATA, "model": TINY_MODELS["segmenter"],
              "loop": {**TINY_LOOP, "steps": steps}}  # fmt: skip
    path = data.parent / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    network, chosen, overrides = "segmenter", path, list[str]()
    if not day.small:
        vae = SHIPPED / "xreal-mini" / "vae"
        network, chosen = "denoiser", Path(settings.__file__).parent / "configs" / "mini-denoiser.yaml"
        overrides = [
            f"model.autoencoder={vae}",
            f"loop.steps={steps}",
            "data.draw=null",
            "loop.validate_every=1000",
            "loop.preview_every=1000",
            f"data.findings={KNOWN}",
            f"data.region_maps={KNOWN}",
            "loop.warmup_steps=10",
        ]
    train(network, chosen, data, data.parent / "run", overrides, day.device,
          on_step=lambda pace: paces.append(pace.images_per_s))  # fmt: skip
    return f"{network}: {paces[-2]:.3g} images/s over {steps} steps", {"images_per_s": paces}


def faults(day: Day) -> Result:
    """What a full and a dead device raise: the first must be told from the second."""
    day.need_cuda()
    numbers = {"full": fresh(_full), "dead": fresh(_dead)}
    line = f"full: {numbers['full']}; dead: {numbers['dead']}"
    if not numbers["full"]["fits not"] or not numbers["full"]["sound after"] or numbers["dead"]["sound after"]:
        raise MissedError(line, numbers)
    return line, numbers


STEPS: Final = tuple(
    Step(run.__name__, limit_s, run)
    for run, limit_s in (
        (machine, 30), (golden, 60), (images, 120), (denoiser, 150), (first_stage, 60), (noise, 40), (bench, 120),
        (search, 90), (worker, 90), (training, 90), (faults, 60), (engine, 150), (bench_paper, 120), (inductor, 150),
    )
)  # fmt: skip


def start_method() -> str:
    """Forked processes need not import everything again, but CUDA's runtime may not live through a fork."""
    return "spawn" if Path("/dev/nvidiactl").exists() else "fork"


def fresh(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns in a process of its own; nothing before may have touched the device."""
    context: Any = multiprocessing.get_context(start_method())
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, function, given))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def _send(pipe: Connection, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    pipe.send(function(*given))


def _made(day: Day, groups: int, device: Device, precision: str, compiled: str) -> Images:
    run = day.run(groups, compute__precision=precision, compute__compile=compiled, compute__micro_batch=groups)
    shape = actor_shape(run.recipe.compute, Resources(1, 1 if device == "cuda" else 0))
    backend = Networks().open(run, shape)
    specs = [plan_group(run, index)[0] for index in range(groups)]
    jobs = [group_job(run, spec) for spec in specs if spec is not None]
    batches = in_batches(backend.renderer(), jobs, groups)
    return {
        f"{group.index} {name}": image for batch in batches for group in batch for name, image in group.images.items()
    }


def _apart(there: Images, here: Images) -> tuple[float, int]:
    """Mean and most of the differences in grey levels."""
    levels = np.concatenate([np.abs(there[key].astype(int) - here[key]).ravel() for key in there])
    return float(levels.mean()), int(levels.max())


def _place(day: Day, name: str) -> str:
    """A bundle's name or folder; the paper-sized one is of seeded noise."""
    folder = day.folder / "paper"
    if name == "paper" and not folder.exists():
        build_random("paper", folder)
    return str(folder) if name == "paper" else day.bundle


def _evaluations(day: Day, ways: tuple[Compile, ...], sizes: tuple[int, ...]) -> dict[str, Any]:
    """Milliseconds of an evaluation, and how far its numbers are from the plain one's."""
    numbers: dict[str, Any] = {}
    for name in (day.bundle,) if day.small else (day.bundle, "paper"):
        plain: dict[int, Tensor] = {}
        for how in ways:
            model = load_bundle(describe(_place(day, name)), day.device, resolve_precision("auto", day.device))
            model.compile(how)
            for rows in sizes:
                given = _rows(model, rows)
                out = model.denoise(*given)
                plain.setdefault(rows, out)
                seconds = _timed(day, partial(model.denoise, *given))
                apart = (out - plain[rows]).abs().max().item()
                numbers[f"{name} {how} x{rows}"] = {"ms": 1e3 * seconds, "apart": apart}
    return numbers


def _milliseconds(numbers: dict[str, Any]) -> str:
    shown = {name: one["ms"] for name, one in numbers.items() if name.endswith(("x4", "x8", "x64"))}
    return "; ".join(f"{name} {ms:.1f} ms" for name, ms in shown.items())


def _benched(day: Day, place: str, sizes: list[int]) -> Result:
    info, precision = describe(place), resolve_precision("auto", day.device)
    loops: tuple[Loop, ...] = ("plain-cached", "branch") if day.small else ("plain-cached", "reference", "branch")
    rows = rows_of(loops, sizes, precision, [None] if day.small else [None, "graphs"])
    made = SampleBench(info, loop_settings(info, 2 if day.small else 20), torch.device(day.device), None)
    found = made.measure(rows, 1).rows
    named = {f"{one.row.loop} x{one.row.micro_batch} {one.row.compiled or ''}".rstrip(): one for one in found}
    speeds = [f"{name} {one.images_per_second:.3g}/s" for name, one in named.items() if one.images_per_second]
    return "; ".join(speeds), {name: asdict(one) for name, one in named.items()}


def _rows(model: LoadedBundle, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    z = torch.randn(rows, *model.latent_shape, generator=draw).to(model.device)
    return z, torch.full((rows,), 500, device=model.device), model.embed([model.null_prompt] * rows)


def _timed(day: Day, once: Callable[[], object], times: int = 5) -> float:
    """The fastest of so many runs, after one more."""
    best = float("inf")
    for _ in range(times + 1):
        began = time.perf_counter()
        once()
        if not day.small:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return best


def _speed_settings(day: Day) -> dict[str, object]:
    chosen: dict[str, object] = {"quality.profile": "standard", "compute.micro_batch": 4 if day.small else 16}
    return chosen | ({"sampling.steps": 4} if day.small else {})


def _ways(day: Day, ways: tuple[Way, ...], task: Task, actors: int = 1) -> Result:
    shape = actor_shape(task.run().recipe.compute, Resources(1, 0 if day.small else 1))
    rows = figures(WaysBench(task, Networks(), shape, actors).measure(1, ways))
    line = "; ".join(
        f"{row.way} {row.images_per_s:.3g}/s, {row.outside:.1%} not in the model, gate {row.gate:.1%}" for row in rows
    )
    return line, {row.way: asdict(row) for row in rows}


def _pair(data: Path, number: int, side: int) -> dict[str, str]:
    image, label_map = make_pair(number)
    for name, picture in (("image", image), ("mask", label_map)):
        Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST).save(data / f"{name}{number}.png")
    return {"image": f"image{number}.png", "mask": f"mask{number}.png", "labels": LABELS[number % len(LABELS)],
            "patient_id": str(number), "split": "val" if number % 4 == 3 else "train"}  # fmt: skip


def _full() -> dict[str, Any]:
    """Within a twentieth of the memory: too much, then what fits."""
    torch.cuda.set_per_process_memory_fraction(0.05)
    whole = torch.cuda.get_device_properties().total_memory
    kind, fits_not = "", False
    try:
        torch.empty(int(0.2 * whole), dtype=torch.uint8, device="cuda")
    except RuntimeError as error:
        kind, fits_not = type(error).__name__, does_not_fit(error)
    torch.cuda.empty_cache()
    return {"raises": kind, "fits not": fits_not, "sound after": is_sound("cuda")}


def _dead() -> dict[str, Any]:
    """An index beyond its table, which no kernel survives."""
    kind = ""
    try:
        torch.zeros(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
    except RuntimeError as error:
        kind = type(error).__name__
    return {"raises": kind, "sound after": is_sound("cuda")}
