"""A recipe made ready to run: bundle described, settings resolved, plan built. Neither torch nor Ray here."""

from __future__ import annotations

from dataclasses import dataclass

from xreal_synth.anatomy.augment import Augmentation
from xreal_synth.anatomy.sources import AnatomySource, BankSource, FolderSource, mask_folder
from xreal_synth.dataset.head import BundleRef, DatasetHead, check_place, open_dataset, require_free
from xreal_synth.errors import BundleError
from xreal_synth.images.folder import ImageFolder
from xreal_synth.models.describe import (
    BANK,
    BundleInfo,
    describe,
    prompt_for,
    prompt_of,
    require_control,
    require_upscaler,
    verify_files,
)
from xreal_synth.planning.build import Geometry, Plan
from xreal_synth.planning.prior import Prior
from xreal_synth.planning.probe import probe
from xreal_synth.recipe.digest import differences, digested_settings, recipe_digest
from xreal_synth.recipe.findings import ImagesFolder, ImagesSource
from xreal_synth.recipe.load import LoadedRecipe, shipped_file
from xreal_synth.recipe.sampling import resolve_sampling, with_upscaler
from xreal_synth.recipe.schema import MasksSource, Recipe
from xreal_synth.run.quality import open_quality
from xreal_synth.storage import Store, private_files, require_writable
from xreal_synth.types import QualitySettings, SamplingSettings

PREFLIGHT_GROUPS = 32


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Everything about a dataset that is known before a model is loaded.

    `settings` are the digested settings, `digest` their hash with the bundle's content hash.
    """

    loaded: LoadedRecipe
    bundle: BundleInfo
    plan: Plan
    sampling: SamplingSettings
    quality: QualitySettings
    settings: dict[str, object]
    digest: str

    @property
    def delivered_size(self) -> int:
        """The side of the images that are delivered."""
        return self.recipe.output.upscale or self.bundle.image_size

    @property
    def enlarging(self) -> int:
        """How many times larger images are delivered than they are sampled."""
        return self.delivered_size // self.bundle.image_size

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was loaded."""
        return self.loaded.recipe

    def head(self, fingerprint: dict[str, str], canary: str = "") -> DatasetHead:
        """What dataset.json says of this run in the given environment, with its first actor's canary image."""
        return DatasetHead(
            digest=self.digest,
            settings=self.settings,
            bundle=BundleRef(self.bundle.name, self.bundle.content_hash),
            fingerprint=fingerprint,
            canary=canary,
            name=self.recipe.name,
            shard_samples=self.recipe.output.shard_size,
            unchecked=self.quality.unchecked,
        )


def open_run(loaded: LoadedRecipe) -> Run:
    """Everything that can be checked without a model: bundle, findings it can make, sampling, mask source.

    Raises RecipeError, BundleError (a prompt that the bundle has not encoded, too), AnatomyError, PlacementError.
    """
    recipe = loaded.recipe
    bundle = describe(recipe.bundle, recipe.bundle_sha256)
    for row in recipe.findings:
        edit = row.edit
        named = edit.moved + edit.resized + (edit.added or ()) if edit is not None else ()
        if row.joint:
            prompt_for(bundle, [label.name for label in row.labels])
        for label in (label for _, labels in row.kinds for label in labels):
            prompt_of(bundle, label.name, label.prompt)
        for name in named:
            prompt_for(bundle, (name,))
    sampling = resolve_sampling(recipe.sampling, bundle.defaults, edits=recipe.edits)
    if sampling.mode == "joint" and bundle.region_maps:
        for row in recipe.findings:
            for _, labels in row.kinds:
                prompt_for(bundle, [label.name for label in labels])
    if recipe.output.upscale is not None:
        require_upscaler(bundle, recipe.output.upscale)
        sampling = with_upscaler(sampling, recipe.sampling)
    if not isinstance(recipe.anatomy.source, ImagesSource):
        require_control(bundle, sampling.control)
    source = _source(recipe, bundle)
    content = source.content if isinstance(source, ImageFolder | FolderSource) else None
    quality = open_quality(recipe, bundle)
    settings = digested_settings(recipe, sampling, content, quality)
    geometry = Geometry(bundle.image_size, bundle.factor, recipe.output.upscale or bundle.image_size)
    return Run(
        loaded=loaded,
        bundle=bundle,
        plan=Plan(recipe, geometry, source, Prior.load()),
        sampling=sampling,
        quality=quality,
        settings=settings,
        digest=recipe_digest(settings, bundle.content_hash),
    )


def require_placeable(run: Run, source: str) -> None:
    """Raises RecipeError if a findings row has no place on any of the first anatomies; `source` is the recipe."""
    probe(run.plan, PREFLIGHT_GROUPS).require_placeable(source)


def check_before_start(run: Run, store: Store) -> DatasetHead | None:
    """What a run must know before Ray starts: the bundle's files are whole, the place can be written and is free
    or ours.

    Writes nothing; returns the dataset's head if there is one. Raises BundleError, DatasetError, StorageError.
    """
    verify_files(run.bundle)
    if store.local_path is not None:
        require_writable(store.local_path)
    head = check_place(store, run.head({}), differences)
    if head is None:
        require_free(store)
    return head


def claim(run: Run, store: Store, fingerprint: dict[str, str], canary: str = "") -> DatasetHead:
    """Writes dataset.json and recipe.yaml, or joins the dataset that is there; the head in force.

    Raises DatasetError if the place has come to hold another dataset.
    """
    return open_dataset(store, run.head(fingerprint, canary), run.loaded.text, differences)


def _source(recipe: Recipe, bundle: BundleInfo) -> AnatomySource | ImageFolder:
    if isinstance(recipe.anatomy.source, ImagesSource):
        private_files()
        return _images(recipe, recipe.anatomy.source.images, bundle)
    settings = Augmentation(**recipe.anatomy.augment.model_dump())
    source = recipe.anatomy.source
    if isinstance(source, MasksSource):
        suffix = source.masks.suffix or ".png"
        place = mask_folder(shipped_file(source.masks.path), suffix)
        return FolderSource(place, settings, suffix, source.masks.content, source.masks.exclude or ())
    folder = bundle.part(BANK)
    bank = BankSource(folder, settings, lambda name: bundle.read(f"{BANK}/{name}"))
    if recipe.anatomy.by_finding:
        asked = {name for row in recipe.findings for name in row.names}
        if unknown := sorted(asked - set(bank.outlined)):
            raise BundleError(
                where=str(folder), found=f"no outline of patients with {', '.join(unknown)}",
                wanted=f"those that anatomy.by_finding is to draw; known: {', '.join(bank.outlined) or 'none'}",
                hint="remove anatomy.by_finding: anatomies then have the outline of the healthy",
            )  # fmt: skip
    return bank


def _images(recipe: Recipe, images: ImagesFolder, bundle: BundleInfo) -> ImageFolder:
    """The folder of real images; raises BundleError for places of findings that the bundle does not know."""
    folder = ImageFolder(images, recipe.output.upscale or bundle.image_size)
    if any(row.edit is not None and row.edit.add == "all" for row in recipe.findings):
        for name in sorted({place.name for image in folder.images for place in image.places}):
            prompt_for(bundle, (name,))
    return folder
