"""`python -m tests.net make OUT` and `compare A B`: whether a change of the code leaves every byte as it was.

`make` generates small datasets with this tree's package in one process without Ray, the same ones every time:
smoke, two shards of quickstart, counterfactual-pairs, and real images edited, with the tiny and the mini bundle.
About two minutes of one core. Run it before and after a change, or in two trees, and compare the two folders.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
IGNORED = ("records", "logs", "locks")
"""Folders of a dataset that tell times and machines."""

IMAGES = """
version: 1
name: images
seed: 3
anatomies: 6
bundle: {bundle}
anatomy: {{source: {{images: {{path: {folder}, boxes: boxes.csv}}}}}}
findings:
  - {{weight: 1, labels: [{{name: Pneumonia}}, {{name: Edema}}], images: healthy}}
  - {{weight: 1, labels: [{{name: Effusion}}], edit: {{remove: all}}}}
  - {{weight: 1, labels: [], edit: {{move: {{findings: [Pneumonia], side: left}}}}}}
pairs: {{twin: true}}
sampling: {{steps: 4}}
quality: {{profile: standard}}
split: {{val: 0.5}}
output: {{uri: unset, shard_samples: 3}}
"""
RECIPES = {
    "smoke": ("smoke.yaml", []),
    "quickstart": ("quickstart.yaml", ["anatomies=10", "sampling.steps=10", "quality.max_attempts=2"]),
    "pairs-tiny": (
        "counterfactual-pairs.yaml",
        [
            "anatomies=8",
            "bundle=xreal-tiny",
            "output.shard_samples=4",
            "quality={profile: none}",
            "findings[0].variants[0].labels=[{name: Atelectasis, side: left}]",
            *(f"findings[1].variants[{i}].labels[0].name=Atelectasis" for i in range(3)),
        ],
    ),
    "pairs-mini": (
        "counterfactual-pairs.yaml",
        ["anatomies=2", "sampling.steps=6", "output.shard_samples=2", "quality.max_attempts=2"],
    ),
}
"""The recipe of each dataset, with what is set otherwise to make it small."""


def make(out: Path) -> None:
    """Writes a folder per dataset below `out`, which must not be there yet."""
    from tests.doubles.image_folder import write_image_folder
    from xreal_synth.recipe.load import LoadedRecipe, load_recipe, recipe_from_text

    out.mkdir(parents=True)
    os.chdir(out)  # the images' folder is given relative: its path is in recipe.yaml
    for name, (file, overrides) in RECIPES.items():
        generate(load_recipe(ROOT / "recipes" / file, overrides=overrides), out / name)
    for bundle, size in {"xreal-tiny": 96, "xreal-mini": 256}.items():
        folder = write_image_folder(Path(f"real-{size}"), size=size)
        text = IMAGES.format(bundle=bundle, folder=folder)
        generate(LoadedRecipe(recipe_from_text(text), text), out / f"images-{bundle}")


def generate(loaded: Any, folder: Path) -> None:
    """One dataset with its plan, shard after shard."""
    from tests.doubles.shards import run_shard
    from xreal_synth.dataset.finish import finish
    from xreal_synth.engine.backend import Networks
    from xreal_synth.engine.worker import environment
    from xreal_synth.run.resources import Resources, actor_shape
    from xreal_synth.run.setup import claim, open_run
    from xreal_synth.storage import LocalStore

    began = time.monotonic()
    run, store = open_run(loaded), LocalStore(folder)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    head = claim(run, store, environment(backend))
    for shard in range(run.plan.shard_count):
        run_shard(run, backend, run.plan.shard(shard), store)
    finish(store, head, split_of=run.plan.split, asked=run.recipe.anatomies)
    groups = [plain(run.plan.sample(index, 0)) for index in range(run.recipe.anatomies)]
    (folder / "plan.json").write_text(json.dumps(groups, indent=1))
    print(f"{folder.name}: {time.monotonic() - began:.0f} s", flush=True)


def plain(value: Any) -> Any:
    """Fields by place, not by name, so that renaming one changes nothing; arrays as their CRC and shape."""
    if dataclasses.is_dataclass(value):
        return [plain(getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, np.ndarray):
        import zlib

        return [zlib.crc32(np.ascontiguousarray(value).tobytes()), *value.shape]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def compare(a: Path, b: Path) -> list[str]:
    """What differs, a line each; empty where every byte is the same.

    Raises ValueError if there is nothing to compare.
    """
    left, right = files(a), files(b)
    if not any(name.endswith(".tar") for name in left):
        raise ValueError(f"{a} holds no tars: is it a folder that `make` wrote?")
    lines: list[str] = []
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            lines.append(f"{name}: only in {a if name in left else b}")
        elif (old := left[name].read_bytes()) != (new := right[name].read_bytes()):
            lines += [f"{name}: {line}" for line in differences(Path(name).suffix, old, new)]
    return lines


def files(folder: Path) -> dict[str, Path]:
    """The files to be compared by relative path."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path
        for path in found
        if not set(path.relative_to(folder).parts[:-1]) & set(IGNORED)
    }


def differences(suffix: str, old: bytes, new: bytes) -> Iterator[str]:
    """How two files of one kind differ, in words; never nothing."""
    if suffix == ".tar":
        yield from between_tars(old, new) or ["other bytes around the same members"]
    elif suffix == ".json":
        yield from between_values(json.loads(old), json.loads(new)) or ["other text of the same values"]
    elif suffix == ".parquet":
        yield from between_tables(old, new) or ["other bytes of the same rows"]
    elif suffix == ".png":
        yield between_images(old, new)
    else:
        yield f"{len(old)} and {len(new)} bytes"


def between_tars(old: bytes, new: bytes) -> list[str]:
    a, b = members(old), members(new)
    lines = [f"member {name} only in one" for name in sorted(a.keys() ^ b.keys())]
    for name in a.keys() & b.keys():
        if a[name] != b[name]:
            lines += [f"{name}: {line}" for line in differences(Path(name).suffix, a[name], b[name])]
    return sorted(lines)


def members(tar: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        return {one.name: opened.extractfile(one).read() for one in opened if one.isfile()}  # type: ignore[union-attr]


def between_images(old: bytes, new: bytes) -> str:
    from PIL import Image

    a, b = (np.asarray(Image.open(io.BytesIO(each))).astype(int) for each in (old, new))
    if a.shape != b.shape:
        return f"{a.shape} and {b.shape} pixels"
    off = np.abs(a - b)
    return f"{np.count_nonzero(off)} pixels of {off.size} differ, by {off.max()} at most"


def between_tables(old: bytes, new: bytes) -> list[str]:
    import pyarrow.parquet as pq

    a, b = (pq.read_table(io.BytesIO(each)) for each in (old, new))
    lines = [f"column {name} only in one" for name in sorted(set(a.column_names) ^ set(b.column_names))]
    if a.num_rows != b.num_rows:
        return [*lines, f"{a.num_rows} and {b.num_rows} rows"]
    for name in a.column_names:
        if name in b.column_names and not a.column(name).equals(b.column(name)):
            pairs = zip(a.column(name).to_pylist(), b.column(name).to_pylist(), strict=True)
            other = [(row, x, y) for row, (x, y) in enumerate(pairs) if x != y]
            first = f", first in row {other[0][0]}: {other[0][1]!r} and {other[0][2]!r}" if other else ""
            lines.append(f"column {name}: {len(other)} rows differ{first}")
    return lines


def between_values(old: Any, new: Any, at: str = "$") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        lines = [f"{at}.{key} only in one" for key in sorted(old.keys() ^ new.keys())]
        for key in old.keys() & new.keys():
            lines += between_values(old[key], new[key], f"{at}.{key}")
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for i, (x, y) in pairs for line in between_values(x, y, f"{at}[{i}]")]
    return [] if old == new else [f"{at}: {str(old)[:80]} and {str(new)[:80]}"]


def main() -> int:
    """1 where the folders differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.net", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make").add_argument("out", type=Path)
    two = verbs.add_parser("compare")
    two.add_argument("a", type=Path)
    two.add_argument("b", type=Path)
    given = parser.parse_args()
    if given.verb == "make":
        make(given.out.absolute())
        return 0
    lines = compare(given.a, given.b)
    print("\n".join(lines[:200]) or f"{len(files(given.a))} files are the same, byte for byte")
    if len(lines) > 200:
        print(f".. and {len(lines) - 200} more")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
