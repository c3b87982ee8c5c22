"""Images in Python, from a few words: a bundle's networks are loaded once, each call is a small recipe of its own."""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Final, Literal, overload

import numpy as np
import torch
from PIL import Image

from xreal_synth.anatomy.sources import BankSource
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.engine.backend import Networks, TorchBackend
from xreal_synth.engine.worker import make_group, render_groups
from xreal_synth.errors import AnatomyError, EngineError, PlacementError, Problem, RecipeError
from xreal_synth.from_recipe import BARE, Finding, open_recipe
from xreal_synth.generated import GeneratedImage, GeneratedImages
from xreal_synth.opening import UnreadableError, read_file
from xreal_synth.recipe.explain import DIFFUSERS, known_keys
from xreal_synth.recipe.kinds import near
from xreal_synth.run.attempts import plan_group
from xreal_synth.run.resources import Precision, Resources, actor_shape
from xreal_synth.run.setup import Run
from xreal_synth.seeds import stream
from xreal_synth.types import Mask, Role

Device = Literal["auto", "cpu", "cuda"]
Sections = Mapping[str, Mapping[str, Any]]
OnImages = Callable[[float, int], None]
"""Called with images made so far (parts of one too) and images in all."""

_GPUS: Final = {"auto": "auto", "cpu": 0, "cuda": 1}
_SECTIONS: Final = ("sampling", "quality", "placement", "labels", "output", "split", "bundle_sha256")
"""What a recipe says and no call does by itself."""
_ELSEWHERE: Final = {
    **dict.fromkeys(("mask", "masks", "label_map", "anatomy"), ("anatomy", "label_map")), "findings": ("add",),
    **{name: (ours,) for name, ours in DIFFUSERS.items()}, "num_images_per_prompt": ("num_images",),
    "anatomies": ("num_images",), "pairs": ("counterfactual",),
}  # fmt: skip
"""Keywords by what they may be called in other calls."""
_AS_IT_IS: Final = {"rotate_deg": 0, "shift": 0, "scale": 0, "elastic": 0, "heart_scale": [1, 1]}


class Pipeline:
    """A model bundle that is loaded and makes images, one call at a time.

    An image is the one that `generate` gives for the same findings, seed and number on a machine like this one.
    `bundle` is a shipped name, a folder or a URI, `device` auto, cpu or cuda, `precision` auto, fp32 or bf16. Raises
    BundleError, EngineError without the device.
    """

    def __init__(
        self, bundle: str | os.PathLike[str] = "xreal-mini", device: Device = "auto", precision: Precision = "auto"
    ) -> None:
        if device not in _GPUS:
            raise EngineError(found=f"device={device!r}", wanted="auto, cpu or cuda")
        if device == "cuda" and not torch.cuda.is_available():
            found = "device='cuda', and torch sees no GPU on this machine"
            raise EngineError(found=found, wanted="a device that is there", hint="device='auto' or device='cpu'")
        self._always = {"bundle": str(bundle), "compute": {"gpus_per_actor": _GPUS[device], "precision": precision}}
        self._backends: dict[tuple[object, ...], TorchBackend] = {}
        with _own_settings():
            self.device = self._backend(self._run([], 0, 1, {}, {})).device

    @classmethod
    def from_pretrained(
        cls, bundle: str | os.PathLike[str] = "xreal-mini", device: Device = "auto", precision: Precision = "auto"
    ) -> Pipeline:
        """The pipeline of a bundle, by the name that diffusers has for this."""
        return cls(bundle, device, precision)

    @overload
    def __call__(
        self, findings: Sequence[Finding | str] = ..., *, num_images: None = ..., **how: Any
    ) -> GeneratedImage: ...
    @overload
    def __call__(self, findings: Sequence[Finding | str] = ..., *, num_images: int, **how: Any) -> GeneratedImages: ...
    def __call__(
        self, findings: Sequence[Finding | str] = (), *, anatomy: Any = None, seed: int = 0,
        counterfactual: bool = False, num_images: int | None = None, steps: int | None = None,
        guidance: float | None = None, callback: OnImages | None = None, **sections: Mapping[str, Any],
    ) -> GeneratedImage | GeneratedImages:  # fmt: skip
        """An image with these findings; with `num_images` so many, each on an anatomy of its own.

        `anatomy` is a label map (uint8 [H, W], organ codes) or a folder or tar of them, used as they are; a dict is a
        recipe's `anatomy`; None draws from the bundle's bank. `counterfactual` makes the healthy image of the same
        anatomy too. Other keywords are sections of a recipe: `sampling={"hold": 0.4}`, `quality={"profile":
        "standard"}`, `placement=`, `labels=`, `output=` to upscale. Raises RecipeError, AnatomyError, and
        PlacementError where the findings have no place.
        """
        _require_known(sections, self.__call__)
        given = _sampled(sections, steps, guidance)
        with _own_settings(), _anatomy_section(anatomy) as section:
            row = [{"weight": 1, "labels": _labels(findings)}]
            own = {"anatomy": section, "pairs": {"twin": counterfactual}}
            run = self._run(row, seed, 1 if num_images is None else num_images, own, given)
            made = self._made(run, callback, recipe=run.loaded.text if not _given(anatomy) else "")
        return made[0] if num_images is None else made

    def edit(
        self, image: Any, label_map: Any = None, *, remove: Sequence[Finding] = (), add: Sequence[Finding | str] = (),
        seed: int = 0, steps: int | None = None, guidance: float | None = None, callback: OnImages | None = None,
        **sections: Mapping[str, Any],
    ) -> GeneratedImage:  # fmt: skip
        """A real image with findings painted over in their boxes (`remove`) or painted in (`add`).

        `image` is uint8 [H, W], a PIL image or a file; `label_map` its organ codes of the same size, which `add`
        needs unless it gives boxes. The result has the bundle's size; `original` is the image as it was, at that size.
        """
        _require_known(sections, self.edit)
        if not remove and not add:
            raise RecipeError("edit", [Problem("", "nothing to do", "findings to remove or to add")])
        wanted = "where it is: box=(x0, y0, x1, y1), shares of the image"
        if missing := [Problem("remove", f"{one.name} without a box", wanted) for one in remove if one.box is None]:
            raise RecipeError("edit", missing)
        row = {"weight": 1, "labels": _labels(add)} | ({"edit": {"remove": "all"}} if remove else {})
        with _own_settings(), tempfile.TemporaryDirectory(prefix="xreal-edit-") as name:
            folder = Path(name)
            _save(image, folder / "image.png", "image")
            if label_map is not None:
                _save(label_map, folder / "masks/image.png", "label_map")
            source: dict[str, Any] = {"path": str(folder)}
            if remove:
                source["boxes"] = "boxes.csv"
                with (folder / "boxes.csv").open("w", newline="") as file:
                    lines = [("image.png", one.name, *(one.box or ())) for one in remove]
                    csv.writer(file).writerows([("image", "finding", "x0n", "y0n", "x1n", "y1n"), *lines])
            own = {"anatomy": {"source": {"images": source}}, "pairs": {"twin": True}}
            run = self._run([row], seed, 1, own, _sampled(sections, steps, guidance))
            return self._made(run, callback)[0]

    def sample_anatomy(
        self, seed: int = 0, *, heart_scale: float | None = None, lungs_scale: float | None = None,
        findings: Sequence[Finding | str] = (),
    ) -> Mask:  # fmt: skip
        """A label map uint8 [H, W] of the bundle's bank; `heart_scale` is a factor for the heart's width and height
        (0.5 to 2), None leaves it as images with these findings have it; `lungs_scale` one for the lungs' (0.7 to 1.3):
        the heart keeps its size, as far as its share of the chest goes with the findings."""
        scales = {"heart_scale": heart_scale, "lungs_scale": lungs_scale}
        given = {key: [scale, scale] for key, scale in scales.items() if scale is not None}
        row = {"weight": 1, "labels": _labels(findings)}
        plan = self._run([row], seed, 1, {"anatomy": {"augment": given}}, {}).plan
        if heart_scale is None or not isinstance(plan.source, BankSource):
            return plan.chest(0, 0, 0).anatomy
        return plan.source.draw(stream(seed, 0, 0, "anatomy"), plan.geometry.image_size)[0]

    def _run(self, rows: list[dict[str, Any]], seed: int, images: int, own: dict[str, Any], sections: Sections) -> Run:
        """The run of one call; `own` are its sections of the recipe, `sections` the caller's."""
        given = {**BARE, **self._always, "seed": seed, "anatomies": images, **own}
        given["findings"] = rows or [{"weight": 1, "labels": []}]
        output = _merged(given["output"], sections.get("output", {}))
        return open_recipe({**given, **sections, "output": output})

    def _backend(self, run: Run) -> TorchBackend:
        """The networks that this run needs, loaded once."""
        needs = (run.sampling.control, run.sampling.upscale_steps is None, str(run.quality))
        if needs not in self._backends:
            gpus = float(torch.cuda.is_available())
            shape = actor_shape(run.recipe.compute, Resources(cpus=1, gpus=gpus), recorded=4)
            self._backends[needs] = Networks().open(run, shape)
        return self._backends[needs].serving(run)

    def _made(self, run: Run, callback: OnImages | None, recipe: str = "") -> GeneratedImages:
        specs, done, total = [], 0.0, run.recipe.anatomies
        for index in range(total):
            spec, refused = plan_group(run, index)
            if spec is None:
                raise PlacementError(
                    found=f"image {index}: {refused[-1].reason}", hint="another seed, anatomy or place"
                )
            specs.append(spec)

        def on_batch(images: float) -> None:
            nonlocal done
            done += images
            if callback is not None:
                callback(done, total)

        images: list[GeneratedImage] = []
        backend = self._backend(run)
        for group in render_groups(run, backend, specs, on_batch):
            refusal = group.refused
            samples = group.samples if refusal is None else make_group(run, backend, group.spec.index)
            if refusal is not None and not samples:
                found = f"image {group.spec.index}: the gate refused every attempt; the first: {refusal.reason}"
                raise EngineError(found=found, hint="another seed, or quality={'profile': 'none'}")
            twin = next((one for one in samples if one.meta.member == Role.healthy), None)
            shown = [one for one in samples if one is not twin] or samples
            images += [GeneratedImage(one, twin, recipe) for one in shown]
        return GeneratedImages(images)


def _require_known(given: Sections, call: Callable[..., object]) -> None:
    """Raises RecipeError for keywords that are neither this call's nor a section of a recipe."""
    known = [*(name for name in signature(call).parameters if name != "sections"), *_SECTIONS]
    problems = []
    for name in given.keys() - known:
        write = next((one for one in _ELSEWHERE.get(name, ()) if one in known), "")
        whole = "generate() takes whole recipes" if name in known_keys()[()] else near(name, known)
        hint = f"write {write}=" if write else whole
        problems.append(Problem(name, "unknown keyword", f"one of: {', '.join(known)}", hint))
    if problems:
        raise RecipeError("Pipeline", sorted(problems, key=lambda one: one.path))


def _labels(findings: Sequence[Finding | str]) -> list[dict[str, Any]]:
    if isinstance(findings, str | Finding):
        raise RecipeError("Pipeline", [Problem("findings", repr(findings), "a list", f"write [{findings!r}]")])
    return [(one if isinstance(one, Finding) else Finding(one)).label for one in findings]


def _sampled(sections: Sections, steps: int | None, guidance: float | None) -> Sections:
    short = {name: value for name, value in (("steps", steps), ("guidance", guidance)) if value is not None}
    return {**sections, "sampling": _merged(short, sections.get("sampling", {}))}


def _merged(own: Mapping[str, Any], given: Any) -> Any:
    """Both sections; what is none is left as it was given, for the recipe's check to name."""
    return {**own, **given} if isinstance(given, Mapping) else given


def _given(anatomy: Any) -> bool:
    return anatomy is not None and not isinstance(anatomy, Mapping | str | os.PathLike)


@contextmanager
def _anatomy_section(anatomy: Any) -> Iterator[dict[str, Any]]:
    """A recipe's `anatomy` for what was given; a label map lies in a temporary folder meanwhile."""
    if anatomy is None:
        yield {}
    elif isinstance(anatomy, Mapping):
        yield dict(anatomy)
    elif isinstance(anatomy, str | os.PathLike):
        try:
            yield {"source": {"masks": {"path": str(anatomy)}}, "augment": _AS_IT_IS}
        except AnatomyError as error:
            raise _of_argument(error, str(anatomy)) from error
    else:
        with tempfile.TemporaryDirectory(prefix="xreal-anatomy-") as folder:
            _save(anatomy, Path(folder) / "label_map.png", "anatomy")
            validate_mask(np.asarray(anatomy).astype(np.uint8), "anatomy=...")
            yield {"source": {"masks": {"path": folder}}, "augment": _AS_IT_IS}


def _of_argument(error: AnatomyError, anatomy: str) -> AnatomyError:
    """What is wrong with a folder or tar of masks, without a recipe's keys in it."""
    hint, named, _ = error.hint.partition("leave them out: anatomy.source.")
    if named:
        hint += "take them out of the folder"
    elif "anatomy.source." in hint:
        hint = "anatomy=FOLDER, anatomy=TAR, or of a single mask anatomy=np.asarray(Image.open(FILE))"
    found = error.found if error.where == anatomy else f"{error.where}: {error.found}"
    return AnatomyError(where=f"anatomy={anatomy!r}", found=found, wanted=error.wanted, hint=hint)


def _save(pixels: Any, path: Path, argument: str) -> None:
    """Writes an array uint8 [H, W], a PIL image or a copy of a file, for this user alone. Raises AnatomyError."""
    path.parent.mkdir(exist_ok=True)
    if isinstance(pixels, str | os.PathLike):
        try:
            path.write_bytes(read_file(Path(pixels)))
        except (OSError, UnreadableError) as error:
            found = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise AnatomyError(where=str(pixels), found=found, wanted="a PNG or JPEG") from error
        return
    array = np.asarray(pixels)
    whole = array.ndim == 2 and np.issubdtype(array.dtype, np.integer)
    if not whole or array.size == 0 or array.min() < 0 or array.max() > 255:
        raise AnatomyError(
            where=f"{argument}=...", found=f"{array.dtype} of shape {list(array.shape)}",
            wanted="whole numbers 0 to 255 of shape [H, W]", hint="for an image: (255 * image).round().astype('uint8')",
        )  # fmt: skip
    Image.fromarray(array.astype(np.uint8)).save(path)


@contextmanager
def _own_settings() -> Iterator[None]:
    """Images are made with one thread of torch, as everywhere, and real ones are written for this user alone; the
    caller's threads and file mode are put back."""
    mask, threads = os.umask(0o077), torch.get_num_threads()
    os.umask(mask)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.umask(mask)
