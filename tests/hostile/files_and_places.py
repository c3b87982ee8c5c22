"""Hostile tables, JSON, bundles, datasets, recipes, URIs and special files."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from xreal_synth.anatomy.mask_files import mask_files
from xreal_synth.anatomy.sources import FolderSource
from xreal_synth.cache import kept
from xreal_synth.dataset.check import _content_problems
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import head_bytes, read_head, require_free
from xreal_synth.dataset.record import read_record, record_bytes, stamp
from xreal_synth.dataset.source import open_source
from xreal_synth.dataset.table import read_table, sample_schema
from xreal_synth.dataset.tar import read_samples
from xreal_synth.dataset.verify import verify
from xreal_synth.engine.job_package import pack_job
from xreal_synth.errors import XrealError
from xreal_synth.evaluation.readers import read_key
from xreal_synth.export.coco import write_coco
from xreal_synth.images.boxes import read_entries
from xreal_synth.images.folder import ImageFolder
from xreal_synth.images.manifest import read_manifest
from xreal_synth.models.describe import SHIPPED, describe, verify_files
from xreal_synth.models.load import load_bundle
from xreal_synth.opening import parse_json, read_parquet, unzipped
from xreal_synth.prepare.found import read_table as read_csv_table
from xreal_synth.recipe.findings import ImagesFolder
from xreal_synth.recipe.load import load_recipe, recipe_from_text
from xreal_synth.storage import LocalStore, open_store
from xreal_synth.types import ShardPlan

Attack = Callable[[Path], object]
MIB = 1 << 20
DEEP = b"[" * 200_000
RECIPE = {
    "version": 1, "name": "r", "samples": 1, "bundle": "xreal-tiny", "findings": [{"weight": 1, "labels": []}],
    "output": {"uri": "out"},
}  # fmt: skip


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def published(store: LocalStore) -> LocalStore:
    """A sound dataset of two shards."""
    head = fake_head()
    store.put_if_absent("dataset.json", head_bytes(head))
    for shard in range(2):
        start, stop = 4 * shard, 4 * shard + 4
        publish_fakes(store, ShardPlan(head.name, shard, start, stop), fake_groups(start, stop))
    finish(store, head)
    return store


# --- JSON and tables


def repeated_strings() -> bytes:
    """40 kB that stand for 20 GB: one text of 64 kB, repeated by a dictionary."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 320_000, pa.int32()), pa.array(["x" * 65_536]))
    buffer = io.BytesIO()
    pq.write_table(pa.table({"key": column}), buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()


def wide_parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({str(i): pa.array([0], pa.int8()) for i in range(5000)}), buffer)
    return buffer.getvalue()


def samples_table(**columns: list[Any]) -> bytes:
    """The table of a sound shard with some columns' values replaced."""
    published(LocalStore(Path("sound")))
    table = pq.read_table("sound/tables/fakes-000000.parquet")
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, pa.array(values * table.num_rows, table.schema.field(name).type))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def gzip_bomb() -> bytes:
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as file:
        for _ in range(160):
            file.write(bytes(MIB))
    return buffer.getvalue()


def boxes(value: object) -> bytes:
    return json.dumps({"images": value, "categories": value, "annotations": value}).encode()


def tables() -> Iterator[tuple[str, Attack]]:
    yield "json: nested 200,000 deep", lambda _: parse_text(DEEP)
    yield "json: objects nested deep", lambda _: parse_text(b'{"a":' * 100_000)
    yield "json: larger than its limit", lambda _: parse_text(b"[" + b"1," * MIB + b"1]", 1 << 20)
    yield "json: a number of a million digits", lambda _: parse_text(b"1" * MIB)
    yield "coco: nested deep", lambda _: read_entries(DEEP, "b.json")
    yield "coco: numbers for lists", lambda _: read_entries(boxes(7), "b.json")
    yield ("csv boxes: 100,000 columns", lambda _: read_entries(b",".join([b"c"] * 100_000) + b"\nx\n", "b.csv"))
    yield (
        "csv boxes: a cell of 1 MiB",
        lambda _: read_entries(b"image,finding,x,y,w,h\n" + b"a" * MIB + b"\n", "b.csv"),
    )
    yield ("manifest: not UTF-8", lambda d: read_manifest(LocalStore(put(d / "f/manifest.csv", b"\xff\xfe").parent)))
    yield (
        "manifest: 100,000 columns",
        lambda d: read_manifest(
            LocalStore(put(d / "f/manifest.csv", b",".join([b"c"] * 100_000) + b"\n" * 1000).parent)
        ),
    )
    yield "manifest: a pipe", lambda d: read_manifest(LocalStore(pipe(d / "f/manifest.csv").parent))
    yield "table.csv.gz: a bomb", lambda _: unzipped(gzip_bomb(), 8 * MIB)
    yield (
        "table.csv.gz: cut off",
        lambda d: read_csv_table(
            LocalStore(put(d / "f/t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99)[:-20]).parent), "t.csv.gz", ["a"]
        ),
    )
    yield "parquet: texts repeated to 20 GB", lambda _: read_parquet(repeated_strings(), 64 * MIB)
    yield "parquet: 5,000 columns", lambda _: read_parquet(wide_parquet())
    yield "parquet: cut off", lambda _: read_parquet(wide_parquet()[:-100])
    yield "parquet: not one", lambda _: read_parquet(b"PAR1" + bytes(64) + b"PAR1")
    for name, column in {
        "a split that leads out": {"split": ["../../../LEFT"]},
        "no split": {"split": ["holdout"]},
        "a key that leads out": {"key": ["../../x"]},
        "a tar that leads out": {"tar": ["shards/../../x.tar"]},
        "no sha256": {"sha256": ["0" * 63 + "/"]},
    }.items():
        yield f"samples: {name}", lambda _, c=column: read_table(samples_table(**c), "t", sample_schema())
    yield "reader's key: nested deep", lambda d: read_key(put(d / "kit/key.json", DEEP).parent)
    yield "reader's key: a pipe", lambda d: read_key(pipe(d / "kit/key.json").parent)


def parse_text(data: bytes, limit: int = 256 * MIB) -> object:
    """A ValueError of the parser is a refusal too."""
    try:
        return parse_json(data, limit)
    except ValueError as error:
        raise XrealError(found=str(error)[:200]) from error


# --- bundles


def bundle(folder: Path, change: Callable[[Path, dict[str, Any]], object]) -> Path:
    """A copy of the tiny bundle, changed, its hashes made right again."""
    root = Path(shutil.copytree(SHIPPED / "xreal-tiny", folder / "b"))
    record = json.loads((root / "bundle.json").read_text())
    change(root, record)
    for name in record["files"]:
        if (root / name).is_file() and not (root / name).is_symlink():
            data = (root / name).read_bytes()
            record["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (root / "bundle.json").write_text(json.dumps(record))
    return root


def config(part: str, **values: object) -> Callable[[Path, dict[str, Any]], object]:
    def change(root: Path, _: dict[str, Any]) -> None:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        file = root / part / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def fields(**values: object) -> Callable[[Path, dict[str, Any]], object]:
    return lambda _, record: record.update(values)


def listed(name: str, data: bytes = b"x") -> Callable[[Path, dict[str, Any]], object]:
    return lambda _, record: record["files"].update({name: {"bytes": len(data), "sha256": "0" * 64}})


def replaced(name: str, make: Callable[[Path], object]) -> Callable[[Path, dict[str, Any]], object]:
    def change(root: Path, _: dict[str, Any]) -> None:
        (root / name).unlink()
        make(root / name)

    return change


WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
BUNDLES: dict[str, Callable[[Path, dict[str, Any]], object]] = {
    "an image of 10^9": fields(image_size=10**9, latent_shape=[4, 1000, 1000]),
    "latents of 10^9": fields(image_size=8192, latent_shape=[10**9, 8192, 8192]),
    "a scale of infinity": fields(scale_factor=float("inf")),
    "no number": fields(scale_factor=float("nan")),
    "guidance of 10^9": lambda _, record: record["defaults"].update(guidance=1e9),
    "a licence of 10 MB": fields(licence="x" * 10**7),
    "a name that leads out": fields(name="../x"),
    "2,000,000 layers": config("unet", layers_per_block=2_000_000),
    "200 by 200 layers": config("unet", layers_per_block=200, transformer_layers_per_block=200),
    "lists of 100,000 blocks": config("unet", block_out_channels=[8] * 100_000),
    "10^9 channels": config("unet", block_out_channels=[10**9, 10**9]),
    "2*10^9 steps": config("scheduler", num_train_timesteps=2 * 10**9),
    "a list of 10^6 betas": config("scheduler", trained_betas=[0.1] * 10**6),
    "another class": config("unet", _class_name="os.system"),
    "weights of another network": config("unet", block_out_channels=[8, 8]),
    "a file outside": listed("../x.json"),
    "an absolute file": listed("/etc/passwd"),
    "a file with a backslash": listed("unet\\x.json"),
    "a pickle listed": listed("unet/x.bin"),
    "a pickle beside": lambda root, _: put(root / "unet/pytorch_model.bin", b"x"),
    "a file that is missing": listed("unet/none.json"),
    "20,000 files": lambda _, record: record["files"].update(
        {f"x/{i}.json": {"bytes": 1, "sha256": "0" * 64} for i in range(20_000)}
    ),
    "weights that are a link": replaced(WEIGHTS, lambda file: file.symlink_to("/etc/hostname")),
    "weights that are a pipe": replaced(WEIGHTS, os.mkfifo),
    "a configuration nested deep": lambda root, _: put(root / "unet/config.json", DEEP),
    "a header of 2^62 bytes": lambda root, _: put(
        root / "label_embeddings.safetensors", struct.pack("<Q", 1 << 62) + b"{}"
    ),
    "a header nested deep": lambda root, _: put(
        root / "label_embeddings.safetensors", struct.pack("<Q", len(DEEP)) + DEEP
    ),
}


def swapped(folder: Path) -> object:
    info = describe(bundle(folder, lambda root, record: None))
    verify_files(info)
    data = bytearray((info.root / WEIGHTS).read_bytes())
    data[-1] ^= 1
    put(info.root / WEIGHTS, bytes(data))
    return info.read(WEIGHTS)


def bundles() -> Iterator[tuple[str, Attack]]:
    for name, change in BUNDLES.items():
        yield f"bundle: {name}", lambda folder, change=change: load_bundle(describe(bundle(folder, change)))
    yield "bundle: weights replaced after the check", swapped
    yield "bundle: another than the recipe's", lambda _: describe("xreal-tiny", "0" * 64)
    yield "bundle.json: nested deep", lambda d: describe(put(d / "b/bundle.json", DEEP).parent)
    yield "bundle.json: a device", lambda d: describe(bundle_of_a_device(d))


def bundle_of_a_device(folder: Path) -> Path:
    root = bundle(folder, lambda *_: None)
    (root / "bundle.json").unlink()
    (root / "bundle.json").symlink_to("/dev/zero")
    return root


# --- datasets


def dataset(change: Callable[[LocalStore], object]) -> LocalStore:
    store = published(LocalStore(Path("set")))
    change(store)
    return store


def raised(report: Any) -> None:
    """What verify tells of is a refusal."""
    if not report.ok:
        raise XrealError(found=str(report.problems[0]))


def far_shard(store: LocalStore) -> None:
    record = read_record(store, "fakes-000001")
    assert record is not None
    store.replace("records/fakes-99999999999999999.json", record_bytes(record))


def other_tar(store: LocalStore) -> None:
    record = read_record(store, "fakes-000001")
    assert record is not None
    tar = dataclasses.replace(record.tar, path="../../x.tar")
    store.replace("records/fakes-000001.json", record_bytes(dataclasses.replace(record, tar=tar)))


def linked_shards(store: LocalStore) -> None:
    Path("set/shards").rename("elsewhere")
    Path("set/shards").symlink_to("../elsewhere")


def piped_tar(store: LocalStore) -> None:
    Path("set/shards/fakes-000001.tar").unlink()
    os.mkfifo("set/shards/fakes-000001.tar")


def forged_split(store: LocalStore) -> None:
    key = "tables/fakes-000000.parquet"
    table = pq.read_table(f"set/{key}")
    at = table.column_names.index("split")
    table = table.set_column(at, "split", pa.array(["../../LEFT"] * table.num_rows))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    record = read_record(store, "fakes-000000")
    assert record is not None
    store.replace(key, buffer.getvalue())
    whole = dataclasses.replace(record, table=stamp(key, buffer.getvalue()))
    store.replace("records/fakes-000000.json", record_bytes(whole))
    for name in ("index.json", "samples.parquet"):
        store.delete(name)


def whole_export(store: LocalStore) -> None:
    source = open_source(store)
    Path("out").mkdir(exist_ok=True)
    write_coco(source, Path("out"), lambda done, whole: None)
    if source.skipped:
        raise XrealError(found=str(source.skipped[0]))


def datasets() -> Iterator[tuple[str, Attack]]:
    for name, change in {
        "a record of shard 10^17": far_shard, "a record that names another tar": other_tar,
        "shards that are a link": linked_shards, "a tar that is a pipe": piped_tar,
        "a split that leads out": forged_split,
        "a record nested deep": lambda store: store.replace("records/fakes-000001.json", DEEP),
    }.items():  # fmt: skip
        yield f"dataset to verify: {name}", lambda _, c=change: raised(verify(dataset(c)))
        yield f"dataset to export: {name}", lambda _, c=change: whole_export(dataset(c))
    yield "dataset.json: nested deep", lambda d: read_head(LocalStore(put(d / "s/dataset.json", DEEP).parent))
    yield (
        "dataset.json: a name that leads out",
        lambda d: read_head(LocalStore(put(d / "s/dataset.json", head_bytes(fake_head(name="../../x"))).parent)),
    )
    yield "dataset.json: a pipe", lambda d: read_head(LocalStore(pipe(d / "s/dataset.json").parent))
    yield (
        "a folder with the user's README",
        lambda d: require_free(LocalStore(put(d / "s/README.md", b"mine").parent)),
    )
    yield (
        "a folder with the user's folder",
        lambda d: require_free(LocalStore(put(d / "s/data/x", b"mine").parent.parent)),
    )


def claimed(folder: Path, name: str) -> None:
    put(folder / name, b"mine")
    require_free(LocalStore(folder))


# --- recipes, URIs, folders


SECRET_URIS = (
    "https://ghpSECRETQ@127.0.0.1:1/b", "s3://AKIAX:ab/SECRETQ@bucket/x", "s3://AKIAX:SECRETQ@bucket/x",
    "zip://b.json::https://u:SECRETQ@127.0.0.1:1/b.zip", "http://127.0.0.1:1/b?token=SECRETQ",
    "https://u:SECRETQ@127.0.0.1:1/b", "https://h/b?X-Amz-Signature=SECRETQ", "reference://::file:///SECRETQ.json",
    "simplecache::s3://SECRETQ", "SECRETQ://x", "filecache::https://u:SECRETQ@h/x",
)  # fmt: skip
OTHER_URIS = (
    "ftp://h/x", "sftp://h/x", "ssh://h/x", "git://h/x", "github://o:r@main/x", "smb://h/x", "dask://h/x", "http://h/b",
    "http://127.0.0.1.evil.example/b", "jupyter://h/x", "libarchive://x", "webhdfs://h/x", "data://x", "arrow_hdfs://h/x",
)  # fmt: skip


def recipe(**changes: object) -> object:
    return recipe_from_text(yaml.safe_dump(RECIPE | changes))


def uris() -> Iterator[tuple[str, Attack]]:
    for uri in (*SECRET_URIS, *OTHER_URIS):
        yield f"a recipe's bundle {uri}", lambda _, uri=uri: recipe(bundle=uri)
        yield f"a place {uri}", lambda _, uri=uri: open_store(uri)
    for uri in ("https://h/set", "memory://u:SECRETQ@h/x", "s3://a:SECRETQ@b"):
        yield f"a recipe's output {uri}", lambda _, uri=uri: recipe(output={"uri": uri})
        yield (f"a recipe's masks {uri}", lambda _, uri=uri: recipe(anatomy={"source": {"masks": {"path": uri}}}))
    yield "a recipe: a pipe", lambda d: load_recipe(pipe(d / "r.yaml"))
    yield "a recipe: a device", lambda _: load_recipe(Path("/dev/zero"))
    yield "a recipe: 10 MB", lambda d: load_recipe(put(d / "r.yaml", b"a: b\n" * 2_000_000))
    yield "a recipe: aliases", lambda _: recipe_from_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    yield (
        "a recipe: a tag that runs code",
        lambda _: recipe_from_text("version: !!python/object/apply:os.system [x]\n"),
    )
    yield "a recipe: nested deep", lambda _: recipe_from_text("a: " + "[" * 5000)


def masks(folder: Path, make: Callable[[Path], object]) -> Path:
    (folder / "masks").mkdir(parents=True)
    make(folder / "masks" / "a.png")
    return folder / "masks"


def packed_masks(folder: Path, make: Callable[[Path], object]) -> object:
    masks(folder, make)
    text = yaml.safe_dump(RECIPE | {"anatomy": {"source": {"masks": {"path": "masks"}}}})
    file = put(folder / "r.yaml", text.encode())
    return pack_job(load_recipe(file).recipe, file, folder)


def image_folder(folder: Path, make: Callable[[Path], object]) -> object:
    (folder / "images").mkdir()
    make(folder / "images" / "a.png")
    return ImageFolder(ImagesFolder(path=str(folder / "images")), 64)


def poisoned_cache(folder: Path, make: Callable[[Path], object]) -> object:
    (folder / "cache").mkdir()
    make(folder / "cache" / "bundles")
    return kept("bundles", "x", lambda target: None, 0)


def folders() -> Iterator[tuple[str, Attack]]:
    kinds: dict[str, Callable[[Path], object]] = {
        "a link to a secret": lambda path: path.symlink_to(put(path.parents[1] / "secret", b"SECRETQ")),
        "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    }
    for name, make in kinds.items():
        yield f"masks: {name}", lambda d, make=make: FolderSource(masks(d, make)).draw
        yield f"images: {name}", lambda d, make=make: image_folder(d, make)
        yield f"what submit sends: {name}", lambda d, make=make: packed_masks(d, make)
    yield "masks: a pipe alone", lambda d: mask_files(masks(d, os.mkfifo))
    yield "images: a loop of links", lambda d: image_folder(d, lambda path: path.symlink_to(path.name))
    yield "images: a link that leads nowhere", lambda d: image_folder(d, lambda path: path.symlink_to("none"))
    yield (
        "what submit sends: only code",
        lambda d: packed_masks(d, lambda path: put(path.parent / "__init__.py", b"x")),
    )
    yield "cache: a link", lambda d: poisoned_cache(d, lambda path: path.symlink_to(d))
    yield (
        "cache: another user's",
        lambda d: poisoned_cache(d, lambda path: (path.mkdir(), os.chown(path, 12345, 12345))),
    )
    yield "a tar that is no shard", lambda _: whole_shard(b"x" * 10240)


def whole_shard(data: bytes) -> None:
    samples = read_samples(data, "shards/fakes-000000.tar")
    shard: Any = ShardPlan("fakes", 0, 0, 4)
    raise XrealError(found=next(_content_problems(samples, fake_head(), shard, None)))


def attacks() -> Iterator[tuple[str, Attack]]:
    for kind in (tables, bundles, datasets, uris, folders):
        yield from kind()
