"""What a job takes along to the cluster: the recipe and the files it names, nothing else; and where it writes. No Ray
here.

A whole working directory would take checkpoints, data and secrets with it, or leave out, by somebody's
.gitignore, the very bundle that is meant. The package itself is in the nodes' image.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from xreal_synth.errors import EngineError
from xreal_synth.models.describe import shipped_bundles
from xreal_synth.opening import UnreadableError, open_file, roots_of
from xreal_synth.recipe.findings import ImagesSource
from xreal_synth.recipe.load import SHIPPED, shipped_file
from xreal_synth.recipe.quality import FILES, check_file
from xreal_synth.recipe.schema import MasksSource, Recipe
from xreal_synth.storage import is_remote, local_folder, scheme_of

LIMIT_BYTES: Final = 500 << 20
"""What Ray takes as a working directory."""

_PACKAGE: Final = Path(__file__).parents[1]
_IMAGES: Final = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".tar", ".tar.gz", ".tgz")
_TABLES: Final = (".csv", ".csv.gz", ".json", ".parquet")
_WEIGHTS: Final = (".safetensors", ".json", ".txt", ".md", ".png", ".model")
_KINDS: Final = {
    "bundle": _WEIGHTS,
    "anatomy.source.masks.path": _IMAGES,
    "anatomy.source.images.path": (*_IMAGES, *_TABLES),
    **{f"quality.checks.{check}.{key}": (".safetensors", ".json") for check, key in FILES.items()},
}
"""What is taken of a folder, by the setting that names it: the endings that a run reads, none that Python imports."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
_PACKED = (".safetensors", ".png", ".jpg", ".jpeg", ".tar", ".parquet")
"""Endings of files that do not get smaller."""


@dataclass(frozen=True, slots=True)
class JobPackage:
    """Files by their path on the nodes; `notes` tell what could not be proven; `code` says that the package is one.

    `roots` are the folders in which the files must really lie, a link or not.
    """

    recipe: PurePosixPath
    files: dict[PurePosixPath, Path]
    bytes: int
    notes: tuple[str, ...]
    roots: tuple[Path, ...]
    code: bool = False

    def write(self, out: Path) -> None:
        """A zip with the same bytes for the same files, so that Ray uploads it once."""
        with zipfile.ZipFile(out, "w") as archive:
            for name, path in sorted(self.files.items()):
                entry = zipfile.ZipInfo(str(name), _EPOCH)
                entry.external_attr = 0o644 << 16
                whole = path.suffix.lower() in _PACKED
                entry.compress_type = zipfile.ZIP_STORED if whole else zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as target, open_file(path, self.roots) as source:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)


def pack_job(recipe: Recipe, file: Path, folder: Path, *, on_nodes: bool = False, code: bool = False) -> JobPackage:
    """What the nodes need of `folder`, from which the recipe's relative paths count, else from its own folder.

    `on_nodes` says that absolute paths outside of it are on every node; `code` takes this very package along.
    Raises EngineError if a node could not find what the recipe names, or for more than Ray takes.
    """
    folder = folder.resolve()
    shipped = file.parent == SHIPPED
    name = PurePosixPath(file.name) if shipped else _inside(file.resolve(), folder)
    if name is None:
        raise EngineError(
            where=str(file), found=f"outside of the working directory {folder}", wanted="a recipe inside it",
            hint="give the recipe's folder with --working-dir",
        )  # fmt: skip
    files, notes = {name: file.resolve()}, list[str]()
    roots = [folder, SHIPPED.resolve()] if shipped else [folder]
    for where, given in named_files(recipe):
        path = local_folder(given)
        start, beside = folder / path, file.parent.absolute() / path
        if not start.exists() and beside.exists() and not shipped:
            start = beside
        elif not start.exists() and shipped_file(given) != given:
            continue
        inside = _inside(start.resolve(), folder)
        if inside is None or path.is_absolute():
            notes.append(_elsewhere(where, given, on_nodes))
        else:
            files |= _below(folder, inside, where, notes)
            roots += roots_of(folder / inside)
    if code:
        own = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        files |= {PurePosixPath(_PACKAGE.name) / path.relative_to(_PACKAGE): path for path in own}
        roots.append(_PACKAGE)
        notes.append("the nodes run the package that is installed here, not their own")
    size = sum(path.stat().st_size for path in files.values())
    if size > LIMIT_BYTES:
        raise _too_large(files, size)
    return JobPackage(name, files, size, tuple(notes), tuple(dict.fromkeys(roots)), code)


def named_files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Local files and folders that the recipe names, with the setting that does."""
    if not is_remote(recipe.bundle) and recipe.bundle not in shipped_bundles():
        yield "bundle", recipe.bundle
    source = recipe.anatomy.source
    if isinstance(source, MasksSource) and not is_remote(source.masks.path):
        yield "anatomy.source.masks.path", source.masks.path
    if isinstance(source, ImagesSource) and not is_remote(source.images.path):
        yield "anatomy.source.images.path", source.images.path
    for check, key in FILES.items():
        given = check_file(recipe.quality, check)
        if given is not None:
            yield f"quality.checks.{check}.{key}", given


def output_place(uri: str, root: str | None) -> str:
    """Where a job writes: `uri` if it is absolute, else below `root`.

    A job's working directory is each node's temporary copy, so a relative place would be lost.
    Raises EngineError.
    """
    if scheme_of(uri) or PurePosixPath(uri).is_absolute():
        return uri
    if root is None:
        raise EngineError(
            where="output.uri",
            found=f"{uri} is relative, and a job's working directory is a temporary copy on each node",
            wanted="an absolute place that all nodes share",
            hint="give --output-root, e.g. --output-root s3://bucket/datasets or a shared mount",
        )
    if not scheme_of(root) and not PurePosixPath(root).is_absolute():
        raise EngineError(
            where="--output-root", found=f"{root} is relative", wanted="an absolute path or a URI", hint="write it out"
        )
    return f"{root.rstrip('/')}/{PurePosixPath(uri)}"


def _inside(path: Path, folder: Path) -> PurePosixPath | None:
    return PurePosixPath(path.relative_to(folder)) if path.is_relative_to(folder) else None


def _elsewhere(where: str, given: str, on_nodes: bool) -> str:
    if not on_nodes:
        raise EngineError(
            where=where,
            found=f"{given} is on this machine, and nothing says that the nodes have it",
            wanted="a shipped bundle, an s3:// or gs:// URI, or a relative path below the working directory, "
            "which is taken along",
            hint="give it so; or, if every node has it at this very path (a mount, the image), say --on-nodes",
        )
    return f"{where}: {given} is taken to be on every node; actors compare hashes before anything is made"


def _below(folder: Path, inside: PurePosixPath, where: str, notes: list[str]) -> dict[PurePosixPath, Path]:
    """The file, or the folder's files of the kinds that are read, each a plain file that lies in it.

    Raises EngineError for one that does not: what a stranger's link leads to is not sent anywhere.
    """
    start = folder / inside
    roots = roots_of(start if start.is_dir() else start.parent)
    found, left = [start], 0
    if not start.is_file():
        every = sorted(path for path in start.rglob("*") if not path.is_dir())
        seen = (path for path in every if not any(part.startswith(".") for part in path.relative_to(start).parts))
        found = [path for path in seen if path.name.lower().endswith(_KINDS[where])]
        left = len(every) - len(found)
    for path in found:
        try:
            open_file(path, roots).close()
        except (OSError, UnreadableError) as error:
            raise EngineError(
                where=where, found=f"{path}: {error}", wanted="plain files that lie in the folder named",
                hint="put the file itself in the link's place, or take it out",
            ) from error  # fmt: skip
    if not found:
        raise EngineError(
            where=where, found=f"nothing at {start}", wanted="a file, or a folder with files that are read"
        )
    if left:
        notes.append(f"{where}: {left} files of {inside} that no run reads stay here")
    return {PurePosixPath(path.relative_to(folder)): path for path in found}


def _too_large(files: dict[PurePosixPath, Path], size: int) -> EngineError:
    folders: Counter[str] = Counter()
    for name, path in files.items():
        folders[name.parts[0]] += path.stat().st_size
    return EngineError(
        found=f"{megabytes(size)} to take along: "
        + ", ".join(f"{name} {megabytes(part)}" for name, part in folders.most_common(3)),
        wanted=f"at most {megabytes(LIMIT_BYTES)}, which is what Ray takes",
        hint="put the large ones onto s3://, into the nodes' image, or onto a mount that they share (--on-nodes)",
    )


def megabytes(size: int) -> str:
    """`1,234 MB`."""
    return f"{size / 1e6:,.0f} MB"
