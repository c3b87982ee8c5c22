"""A run rebuilt from a finished dataset: dataset.json has every setting that decides the bytes."""

from __future__ import annotations

from copy import deepcopy

from pydantic import ValidationError

from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import DATASET, RECIPE
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.recipe.digest import differences, findings_rows
from xreal_synth.recipe.explain import problems_of
from xreal_synth.recipe.load import LoadedRecipe, in_todays_words
from xreal_synth.recipe.quality import as_digested
from xreal_synth.recipe.sampling import written_sampling
from xreal_synth.recipe.schema import Compute, Recipe, Split
from xreal_synth.recipe.yaml_text import Document, parse
from xreal_synth.run.setup import Run, open_run
from xreal_synth.storage import Store


def reopen(
    store: Store,
    head: DatasetHead,
    *,
    anatomies: int,
    bundle: str | None = None,
    images: str | None = None,
    split: Split | None = None,
) -> Run:
    """The run that made this dataset, with `anatomies` groups; `bundle` and `images` say where its bundle and its
    real images or organ masks are now, `split` what of it is marked val and test. Actors and timeouts are the kept
    recipe's.

    Raises DatasetError if the bundle or this version of the project would give other bytes or none, AnatomyError if
    the images or masks are not the same.
    """
    text = recipe_text(store)
    if head.prompts is not None:
        raise DatasetError(
            where=store.uri,
            found=f"{head.prompts.path}: prompts that an earlier version encoded for this dataset alone",
            wanted="a dataset whose bundle has all its prompts",
            hint="go on with that version, or add them (xreal-synth bundle add-prompt) and begin a new dataset",
        )
    document = dict(head.settings)
    sampling = document.get("sampling")
    if isinstance(sampling, dict):
        document["sampling"] = written_sampling(sampling)
    document |= {
        "output": _mapping(document.get("output")) | {"uri": store.uri},
        "name": head.name,
        "anatomies": anatomies,
        "findings": findings_rows(head.settings),
        "bundle": bundle or _bundle_of(text) or head.bundle.name,
    }
    document["quality"] = quality = deepcopy(document.get("quality", {}))
    if isinstance(quality, dict):
        as_digested(quality, setting(text, "quality"))
    if split is not None:
        document["split"] = split.model_dump()
    document["compute"] = _compute(text) | _mapping(document.get("compute"))
    _place(document, text, images)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        problems = "; ".join(f"{one.path}: {one.found}" for one in problems_of(error, Document()))
        raise DatasetError(
            where=store.uri, found=f"settings in {DATASET} that no recipe may have: {problems}",
            wanted="a dataset that xreal-synth made", hint="take it from where it was copied again",
        ) from error  # fmt: skip
    run = open_run(LoadedRecipe(recipe, text))
    if run.bundle.content_hash != head.bundle.hash:
        raise DatasetError(
            found=f"bundle {run.bundle.name} at {run.bundle.root} has hash {run.bundle.content_hash[:12]}",
            wanted=f"bundle {head.bundle.name} with hash {head.bundle.hash[:12]}, which made the dataset",
            hint="give its place with --bundle",
        )
    if run.digest != head.digest:
        reported = differences(head.settings, run.settings)
        raise DatasetError(
            found="this version reads the dataset's settings differently: " + "; ".join(reported),
            wanted=f"digest {head.digest[:12]}",
            hint="use the version of xreal-synth named in dataset.json",
        )
    return run


def recipe_text(store: Store) -> str:
    """The recipe kept with the dataset, an empty text where there is none."""
    try:
        return in_todays_words(store.read_bytes(RECIPE).decode())
    except (StorageError, UnicodeDecodeError):
        return ""


def _compute(text: str) -> dict[str, object]:
    """The kept recipe's actors and timeouts, if they are valid."""
    found = _mapping(setting(text, "compute"))
    try:
        Compute.model_validate(found)
    except ValidationError:
        return {}
    return {key: value for key, value in found.items() if key not in ("micro_batch", "precision")}


def _mapping(value: object) -> dict[str, object]:
    return {str(key): item for key, item in value.items()} if isinstance(value, dict) else {}


def _bundle_of(text: str) -> str | None:
    found = setting(text, "bundle")
    return found if isinstance(found, str) else None


def _place(document: dict[str, object], text: str, given: str | None) -> None:
    """Says where the real images or the organ masks are, which the digested settings leave out."""
    anatomy = _mapping(document.get("anatomy"))
    source = anatomy.get("source")
    for kind, what in (("images", "real images"), ("masks", "organ masks")):
        found = _below(source, kind)
        if not isinstance(found, dict):
            continue
        path = given or setting(text, "anatomy", "source", kind, "path") or found.get("path")
        if not isinstance(path, str):
            raise DatasetError(
                found=f"nothing says where the {what} are that this dataset was made from",
                wanted="their place",
                hint="give it with --images",
            )
        document["anatomy"] = {**anatomy, "source": {kind: {**found, "path": path}}}


def setting(text: str, *path: str) -> object:
    """A setting of the recipe as given."""
    document = parse(text)
    return None if document.problems else _below(document.value, *path)


def kept_split(text: str) -> Split | None:
    """The split of the recipe as given; None of a text that is none."""
    if setting(text, "version") is None:
        return None
    try:
        return Split.model_validate(setting(text, "split") or {})
    except ValidationError:
        return None


def _below(value: object, *path: str) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
