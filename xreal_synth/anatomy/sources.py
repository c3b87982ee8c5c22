"""Sources of anatomies: a bundle's mask bank, or masks in a folder or in tars.

A draw is a mask of the source, changed by `augment` and validated. A change that spoils the mask is drawn
again from the same stream, so that a draw is a function of its stream alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from xreal_synth.anatomy.augment import Augmentation, augment, fit_heart
from xreal_synth.anatomy.label_map import resize_mask
from xreal_synth.anatomy.mask_files import content_of, is_tar, mask_files
from xreal_synth.anatomy.shape_model import ShapeModel
from xreal_synth.anatomy.validate import validate_mask
from xreal_synth.cache import fetch, kept
from xreal_synth.errors import AnatomyError, StorageError
from xreal_synth.storage import is_remote, local_folder, open_store, sha256_bytes
from xreal_synth.types import Mask

MAX_DRAWS = 25
"""Tries for one anatomy. A bank draw fails 2% of the time, a mild augmentation about as often."""

CHECK_AT_OPEN = 4096
"""Masks of a folder that are read and validated when it is opened; those beyond when they are drawn."""
MOST_REPORTED = 20


class BankSource:
    """Draws of the shape model in `folder`, a bundle's `anatomy_bank/`, its files by `read`. Raises BundleError.

    `source_name` is the `anatomy_source` of KEY.json.
    """

    source_name = "bank"

    def __init__(
        self, folder: Path, settings: Augmentation | None = None, read: Callable[[str], bytes] | None = None
    ) -> None:
        self._model = ShapeModel.load(folder, read)
        self._settings = settings or Augmentation()

    @property
    def outlined(self) -> Collection[str]:
        """The findings whose patients' outline the bank knows."""
        return self._model.shifts.keys()

    def draw(
        self, rng: np.random.Generator, size: int, *, large_heart: bool | None = None, findings: Sequence[str] = ()
    ) -> tuple[Mask, str]:
        """As of any source; with a heart that shows Cardiomegaly or that does not, or as it is drawn; of the outline
        that patients with `findings` have.

        uint8 [size, size] and its id.
        """

        def once() -> tuple[Mask, str]:
            mask = augment(self._model.sample(rng, size, findings), rng, self._settings)
            return mask if large_heart is None else fit_heart(mask, large=large_heart), "bank"

        return _draw_valid(once, "a draw of the mask bank")


class FolderSource:
    """The organ masks of a folder or of tars (mask_files.py), each drawn with the same chance; ids are names.

    Masks named in `exclude` are left out. Raises AnatomyError naming every file that cannot be read, is not square,
    holds a foreign code or is not a chest (swapped lungs, a lung missing): for the first CHECK_AT_OPEN files at once,
    so that nothing is written for a folder that cannot be used; and of a name in `exclude` that no mask has. `content`
    is the digest of masks that were used before; AnatomyError where it is another.
    """

    source_name = "masks"

    def __init__(
        self,
        path: Path,
        settings: Augmentation | None = None,
        suffix: str = ".png",
        content: str | None = None,
        exclude: Collection[str] = (),
    ) -> None:
        files = mask_files(path, suffix)
        if content is None and (unknown := set(exclude).difference(file.id for file in files)):
            raise AnatomyError(
                where=str(path), found=f"no mask {', '.join(sorted(unknown))} to leave out",
                wanted="names of masks that are there", hint="correct anatomy.source.masks.exclude",
            )  # fmt: skip
        self._files = [file for file in files if file.id not in exclude]
        self._settings = settings or Augmentation()
        self._require_usable(str(path))
        self.content = content_of(self._files)
        if content is not None and content != self.content:
            raise AnatomyError(
                where=str(path), found=f"masks with the digest {self.content[:12]}",
                wanted=f"{content[:12]}: the same masks with the same names as before",
                hint="put them back as they were or, where a dataset is repaired, say with --images where they are now",
            )  # fmt: skip

    def _require_usable(self, where: str) -> None:
        bad: dict[str, AnatomyError] = {}
        for file in self._files[:CHECK_AT_OPEN]:
            try:
                file.load()
            except AnatomyError as error:
                bad[file.id] = error
        if not bad and self._files:
            return
        if not bad:
            raise AnatomyError(where=where, found="no mask that is not excluded", wanted="one organ mask or more")
        first = next(iter(bad.values()))
        reported = "".join(f"\n    {one.where}: {one.found}" for one in list(bad.values())[:MOST_REPORTED])
        more = f"\n    and {len(bad) - MOST_REPORTED} more" if len(bad) > MOST_REPORTED else ""
        raise AnatomyError(
            where=where, found=f"{len(bad)} of {len(self._files)} organ masks cannot be used:{reported}{more}",
            wanted=first.wanted or "organ masks",
            hint=f"{first.hint + '; ' if first.hint else ''}or leave them out: anatomy.source.masks.exclude: "
            f"[{', '.join(bad)}]",
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._files)

    def draw(self, rng: np.random.Generator, size: int) -> tuple[Mask, str]:
        """A mask of the folder, each with the same chance, changed at random: uint8 [size, size], and its id.

        Raises AnatomyError where changed masks are no chest time after time.
        """

        def once() -> tuple[Mask, str]:
            file = self._files[int(rng.integers(len(self._files)))]
            return augment(resize_mask(file.load(), size), rng, self._settings), file.id

        return _draw_valid(once, "a mask of the folder")


AnatomySource = BankSource | FolderSource


def _draw_valid(once: Callable[[], tuple[Mask, str]], what: str) -> tuple[Mask, str]:
    for _ in range(MAX_DRAWS):
        mask, name = once()
        try:
            validate_mask(mask, name)
        except AnatomyError as error:
            problem = error
        else:
            return mask, name
    raise AnatomyError(
        where="anatomy.augment",
        found=f"{what}, changed by augment, was no usable chest {MAX_DRAWS} times; the last: {problem.found}",
        wanted=problem.wanted,
        hint="lower rotate_deg, shift, scale, elastic, or the range of heart_scale or lungs_scale",
    )


def mask_folder(place: str, suffix: str = ".png") -> Path:
    """Where the masks at a path or URI lie on this machine; remote ones are fetched once, to its cache.

    `place` and `suffix` as mask_files takes them. Remote files are known by their names and times: where one has
    changed they are fetched anew. Raises AnatomyError.
    """
    if not is_remote(place):
        return local_folder(place)
    parent, _, name = place.rstrip("/").rpartition("/") if is_tar(Path(place)) else (place, "", "")
    try:
        store = open_store(parent)
        times = _wanted({key: at for key, (_, at) in store.stats("").items()}, name, suffix)
        if not times:
            raise AnatomyError(
                where=place, found=f"no tar and no file that ends in {suffix} there",
                wanted=f"one organ mask or more (*{suffix}), or a .tar, .tar.gz or .tgz of them",
            )  # fmt: skip
        key = sha256_bytes(json.dumps([store.uri, sorted(times.items())]).encode())
        folder = kept(
            "masks", key, lambda folder: fetch(store, dict.fromkeys(times), folder, lambda key, path: None), 0
        )
    except StorageError as error:
        raise AnatomyError(where=place, found=error.found, wanted=error.wanted, hint=error.hint) from error
    return folder / name


def _wanted(times: dict[str, float], name: str, suffix: str) -> dict[str, float]:
    """The tar of this name; without a name the masks there, or, where there are none, the tars."""
    if name:
        return {key: at for key, at in times.items() if key == name}
    masks = {key: at for key, at in times.items() if key.lower().endswith(suffix.lower())}
    return masks or {key: at for key, at in times.items() if is_tar(Path(key))}
