"""`xreal-synth doctor`: what this machine and this installation can do."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, Literal
from uuid import uuid4

import typer
from typer import Option

from xreal_synth.cli.options import JsonOption
from xreal_synth.cli.output import bytes_text, notes, table_of, told
from xreal_synth.engine.estimate import estimate
from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.errors import XrealError
from xreal_synth.from_recipe import BARE, open_recipe
from xreal_synth.recipe.schema import Compute
from xreal_synth.run.fingerprint import PACKAGES, installed_version
from xreal_synth.speeds import keep_speed
from xreal_synth.storage import open_store

BAD: Final = 2
EXTRAS: Final = {
    "text": "transformers", "s3": "s3fs", "gcs": "gcsfs", "dicom": "highdicom", "hf": "datasets",
    "croissant": "mlcroissant", "sign": "cryptography", "studio": "gradio",
}  # fmt: skip
"""A package of each extra."""
LEAST_MEMORY: Final = 2 << 30
OBJECT_STORE: Final = 128 << 20
SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 (where Ray has its object store)
REFERENCE_SEED: Final = 7
REFERENCE: Final = (
    92.0, 97.88, 116.7, 133.63, 65.12, 99.87, 117.23, 117.7, 96.05, 124.79, 114.02, 115.24, 114.11, 112.4, 113.57,
    138.81,
)  # fmt: skip
"""Mean grey levels of 4 x 4 blocks of the image that xreal-tiny makes of an effusion with that seed, row by row."""
GPU_IMAGES: Final = 64
"""Made at once to measure a GPU's speed, as many as fill it."""
WITHIN: Final = 1.0
"""Grey levels by which a block's mean may differ on another device or in bf16."""


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """How something is (`good`, `note`: works with less, `bad`: does not work), what was met, and what to do."""

    state: Literal["good", "note", "bad"]
    found: str
    hint: str = ""


Look = tuple[str, str]
"""What was met, and what would be better, "" where all is well; what does not work is raised."""

EXAMPLES = (
    "xreal-synth doctor",
    "xreal-synth doctor --output s3://bucket/datasets --json",
    "xreal-synth doctor --no-ray --bundle my-bundle",
)


def doctor(
    output: Annotated[
        str, Option("--output", "-o", metavar="URI", help="Where datasets are to go: written to and read.")
    ] = ".",
    bundle: Annotated[
        str, Option(help="Whose speed is measured, for `plan` to reckon with: a name, a folder or a URI.")
    ] = "xreal-mini",
    ray: Annotated[bool, Option("--ray/--no-ray", help="Starts a local Ray and ends it.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Looks at Python, packages, device, memory, storage, Ray and the shipped models, and makes an image.

    The first thing to run on a new machine. Exit code 2 if something does not work. The speed that is measured is kept
    in the user's cache (XREAL_CACHE, else ~/.cache/xreal-synth), in speeds/; `plan` tells device times by it.
    """
    looks: dict[str, Callable[[], Look]] = {
        "python": lambda: (f"{sys.version.split()[0]}, {sys.executable}", ""),
        "packages": _packages, "device": _device, "memory": _memory, "compiler": _compiler,
        "storage": lambda: _storage(output), "shared memory": _shared_memory, "socket paths": _sockets,
        "extras": _extras, **({"ray": _ray} if ray else {}), "arithmetic": _arithmetic,
        "speed": lambda: _speed(bundle),
    }  # fmt: skip
    checks = {}
    with notes.status("looking") as status:
        for name, look in looks.items():
            status.update(f"looking at {name}")
            checks[name] = _look(look)
    bad = [name for name, check in checks.items() if check.state == "bad"]
    rows = [(name, one.state, one.found + (f"\n{one.hint}" if one.hint else "")) for name, one in checks.items()]
    fields = {"ok": not bad, "checks": {name: asdict(check) for name, check in checks.items()}}
    told(as_json, fields, table_of(rows, "", "state", "found", show_edge=False))
    raise typer.Exit(BAD * bool(bad))


def _look(look: Callable[[], Look]) -> DoctorCheck:
    """What one look met: no fault of it hides the others."""
    try:
        found, hint = look()
        return DoctorCheck("note" if hint else "good", found, hint)
    except XrealError as error:
        return DoctorCheck("bad", error.found, error.hint)
    except Exception as error:  # a broken installation raises anything
        return DoctorCheck("bad", f"{type(error).__name__}: {error}")


def _packages() -> Look:
    missing = [name for name in PACKAGES if name != "xreal-synth" and installed_version(name) == "none"]
    found = ", ".join(f"{name} {installed_version(name)}" for name in (*PACKAGES, "ray"))
    if missing:
        raise XrealError(found=found, hint=f"pip install {' '.join(missing)}")
    return found, ""


def _device() -> Look:
    import torch

    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        count = torch.cuda.device_count()
        found = f"{count} x {torch.cuda.get_device_name()}, {bf16}, {bytes_text(free)} of {bytes_text(whole)} free"
        return found, ""
    found = f"CPU, {len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"
    hint = "a GPU makes images tens of times faster"
    if torch.version.cuda:
        hint = "torch is built for CUDA and sees no GPU: nvidia-smi says whether there is one"
    return found, hint


def _memory() -> Look:
    whole, free = (os.sysconf("SC_PAGE_SIZE") * os.sysconf(f"SC_{pages}_PAGES") for pages in ("PHYS", "AVPHYS"))
    found = f"{bytes_text(whole)}, {bytes_text(free)} unused"
    if whole < LEAST_MEMORY:
        raise XrealError(found=found, hint=f"{bytes_text(LEAST_MEMORY)} are needed")
    return found, ""


def _compiler() -> Look:
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    hint = "torch.compile (bench sample --compile) needs a C compiler; nothing else does"
    return (found, "") if found else ("none", hint)


def _storage(output: str) -> Look:
    store, key, data = open_store(output), f".doctor-{uuid4().hex}", os.urandom(1 << 20)
    began = time.monotonic()
    try:
        once = store.put_if_absent(key, data[::-1]) and not store.put_if_absent(key, b"other")
        store.replace(key, data)
        whole = once and store.read_bytes(key) == data and store.read_range(key, 1, 5) == data[1:5]
    finally:
        store.delete(key)
    if not whole:
        found = f"{store.uri}: what was written is not what is read"
        raise XrealError(found=found, hint="choose another place")
    return f"{store.uri}: 1 MB written, replaced and read in {time.monotonic() - began:.2f} s", ""


def _shared_memory() -> Look:
    if not SHARED_MEMORY.is_dir():
        return f"no {SHARED_MEMORY}", "Ray takes the temporary folder instead"
    free = shutil.disk_usage(SHARED_MEMORY).free
    hint = "Ray wants 128 MiB: docker run --shm-size=1g" if free < OBJECT_STORE else ""
    return f"{bytes_text(free)} free in {SHARED_MEMORY}", hint


def _sockets() -> Look:
    from xreal_synth.engine.ray_session import LONGEST_FOLDER, short_folder

    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(folder)) <= LONGEST_FOLDER:
        return folder, ""
    short, found = short_folder(), f"{folder} is too long for Ray's sockets"
    if short is None:
        raise XrealError(found=found, hint="set RAY_TMPDIR to a short folder")
    return f"{found}; {short} is taken", ""


def _ray() -> Look:
    quiet_ray()
    import torch

    from xreal_synth.engine.ray_session import resources, session
    from xreal_synth.models.devices import no_gpu_for_torch

    began = time.monotonic()
    with session(None, Compute()):
        there, seconds = resources(), time.monotonic() - began
    if there.gpus and not torch.cuda.is_available():
        raise no_gpu_for_torch()
    return f"starts in {seconds:.1f} s with {there.cpus:g} CPUs and {there.gpus:g} GPUs", ""


def _extras() -> Look:
    missing = [extra for extra, package in EXTRAS.items() if find_spec(package) is None]
    found = ", ".join(extra for extra in EXTRAS if extra not in missing) or "none"
    hint = f"not installed: {', '.join(missing)}; pip install 'xreal-synth[{missing[0]}]'" if missing else ""
    return found, hint


def _arithmetic() -> Look:
    import numpy as np

    from xreal_synth.pipeline import Pipeline

    made = Pipeline("xreal-tiny")(["Effusion"], seed=REFERENCE_SEED, steps=8, quality={"profile": "none"})
    blocks = np.asarray(made.image, float).reshape(4, 16, 4, 16).mean(axis=(1, 3))
    apart = float(np.abs(blocks.ravel() - REFERENCE).max())
    found = f"an image of xreal-tiny is within {apart:.2f} grey levels of the reference"
    if apart > WITHIN:
        hint = f"at most {WITHIN:g} are other devices': torch or its driver is at fault"
        raise XrealError(found=found, hint=hint)
    return found, ""


def _speed(bundle: str) -> Look:
    """Seconds of an evaluation, all that an image takes divided among its own; on a CPU those that this process got."""
    import torch

    from xreal_synth.evaluation.bench_sample import clock
    from xreal_synth.pipeline import Pipeline

    pipe = Pipeline(bundle)
    on_cpu = pipe.device.startswith("cpu")
    images, now = 1 if on_cpu else GPU_IMAGES, clock(pipe.device, "cpu" if on_cpu else "wall")
    pipe(num_images=images, steps=2, quality={"profile": "none"})
    began = now()
    pipe(num_images=images, quality={"profile": "none"})
    seconds = now() - began
    healthy = {"bundle": bundle, "seed": 0, "anatomies": images, "findings": [{"weight": 1, "labels": []}]}
    run = open_recipe({**BARE, **healthy})
    each = seconds / estimate(run, images).evaluations
    where = "core" if on_cpu else torch.cuda.get_device_name()
    file = keep_speed(run.bundle.content_hash, f"{where} of this machine, as doctor measured it", each)
    found = f"{each:.3f} s for a network evaluation of {run.bundle.name} on one {where}"
    image = f"{seconds / images:.2f} s for a healthy image"
    return f"{found}, {image}; kept for plan in {file}", ""
