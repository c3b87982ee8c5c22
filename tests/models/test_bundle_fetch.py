"""Bundles and masks on object storage: fetched whole, checked, once per machine, or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest

from xreal_synth import cache
from xreal_synth.anatomy.sources import FolderSource, mask_folder
from xreal_synth.errors import AnatomyError, BundleError
from xreal_synth.models.describe import SHIPPED, describe, verify_files

TINY = SHIPPED / "xreal-tiny"
Put = Callable[[Path], str]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("XREAL_CACHE", str(folder))
    return folder


@pytest.fixture(params=["memory", "s3"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Puts a folder onto object storage; its URI."""
    if request.param == "s3":
        request.getfixturevalue("object_store")
    root = f"{request.param}://sets/{tmp_path.name}"

    def put_it(folder: Path) -> str:
        uri = f"{root}/{folder.name}"
        filesystem, path = fsspec.core.url_to_fs(uri)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            filesystem.pipe_file(f"{path}/{file.relative_to(folder)}", file.read_bytes())
        return uri

    return put_it


@pytest.fixture
def altered(tmp_path: Path) -> Callable[[Callable[[Path, dict[str, object]], None]], Path]:
    """A copy of the tiny bundle, changed by a function of its folder and of what its bundle.json says."""

    def alter(change: Callable[[Path, dict[str, object]], None]) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(TINY, folder)
        told = json.loads((folder / "bundle.json").read_text())
        change(folder, told)
        (folder / "bundle.json").write_text(json.dumps(told))
        return folder

    return alter


def fetched(folder: Path) -> list[str]:
    """Whole folders in the cache; half ones must not be there."""
    names = [path.name for path in (folder / "bundles").iterdir()] if (folder / "bundles").is_dir() else []
    assert not [name for name in names if name.startswith(".tmp-")]
    return [name for name in names if not name.endswith(".lock")]


def test_a_remote_bundle_is_the_local_one(put, own_cache):
    uri = put(TINY)
    found, here = describe(uri), describe(TINY)
    assert found.content_hash == here.content_hash
    assert found.root.is_relative_to(own_cache)
    verify_files(found)
    assert describe(uri + "/").root == found.root
    assert fetched(own_cache) == [found.root.name]


def change_weights(folder: Path, told: dict[str, object]) -> None:
    path = folder / "label_embeddings.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut_weights(folder: Path, told: dict[str, object]) -> None:
    path = folder / "label_embeddings.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def lose_weights(folder: Path, told: dict[str, object]) -> None:
    (folder / "label_embeddings.safetensors").unlink()


def name_outside(folder: Path, told: dict[str, object]) -> None:
    files = told["files"]
    assert isinstance(files, dict)
    files["../../outside.json"] = files.pop("label_embeddings.safetensors")


def name_pickle(folder: Path, told: dict[str, object]) -> None:
    files = told["files"]
    assert isinstance(files, dict)
    files["unet/weights.ckpt"] = files.pop("label_embeddings.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_weights, "sha256"),
        (cut_weights, "bytes"),
        (lose_weights, "label_embeddings"),
        (name_outside, "unsafe file name"),
        (name_pickle, "is a pickle"),
    ],
)
def test_a_broken_bundle_is_refused_and_leaves_nothing(put, altered, own_cache, tmp_path, change, words):
    uri = put(altered(change))
    with pytest.raises(BundleError, match=words):
        describe(uri)
    assert fetched(own_cache) == []
    assert not list(tmp_path.rglob("outside.json"))


def test_a_changed_bundle_is_another_one(put, altered, own_cache):
    def rename(folder: Path, told: dict[str, object]) -> None:
        told["licence"] = "another"

    uri = put(altered(rename))
    first = describe(uri)
    told = json.loads((first.root / "bundle.json").read_text())
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.pipe_file(f"{path}/bundle.json", json.dumps(told | {"licence": "a third"}).encode())
    assert (first.licence, describe(uri).licence) == ("another", "a third")
    assert len(fetched(own_cache)) == 2


def test_no_room_is_told_before_anything_is_fetched(put, own_cache, monkeypatch):
    uri = put(TINY)
    usage = shutil.disk_usage(own_cache.parent)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(BundleError, match="XREAL_CACHE"):
        describe(uri)
    assert fetched(own_cache) == []


def place_of(uri: str) -> str:
    return str(describe(uri).root)


def test_actors_of_one_machine_fetch_once(object_store, own_cache, tmp_path):
    uri = f"s3://sets/{tmp_path.name}/shared"
    filesystem, path = fsspec.core.url_to_fs(uri)
    names = [str(file.relative_to(TINY)) for file in TINY.rglob("*") if file.is_file()]
    for name in names:
        filesystem.pipe_file(f"{path}/{name}", (TINY / name).read_bytes())
    with ThreadPoolExecutor(4) as actors:  # a lock is of the opened file: threads wait as processes do
        places = set(actors.map(place_of, [uri] * 4))
    assert len(places) == 1
    assert fetched(own_cache) == [Path(places.pop()).name]
    assert object_store.seen("GET", f"{tmp_path.name}/shared/unet/config.json") == 1


def test_remote_masks_are_drawn_as_local_ones(put, film_folder):
    masks = film_folder() / "masks"
    uri = put(masks)
    here, there = FolderSource(masks), FolderSource(mask_folder(uri))
    for seed in range(4):
        mask, name = here.draw(np.random.default_rng(seed), 64)
        again, same = there.draw(np.random.default_rng(seed), 64)
        assert name == same
        assert np.array_equal(mask, again)
    kept = mask_folder(uri)
    assert mask_folder(uri) == kept
    filesystem, path = fsspec.core.url_to_fs(uri)
    filesystem.pipe_file(f"{path}/z.png", (masks / "a.png").read_bytes())
    filesystem.invalidate_cache()
    assert len(list(mask_folder(uri).iterdir())) == len(list(kept.iterdir())) + 1


@pytest.mark.parametrize("uri", ["memory://nothing/here", "nosuch://x/masks"])
def test_no_masks_are_told(uri):
    with pytest.raises(AnatomyError) as told:
        mask_folder(uri)
    assert uri.split("://", 1)[0] in str(told.value)


def test_a_poisoned_cache_is_not_served(put, own_cache, altered):
    """What another has put under the bundle's name is fetched anew, whatever it says of itself."""
    uri = put(TINY)
    root = describe(uri).root
    shutil.rmtree(root)
    poison = altered(lambda folder, told: told.update(licence="POISONED"))
    shutil.copytree(poison, root)
    found = describe(uri)
    assert found.licence == describe(TINY).licence
    verify_files(found)


def test_a_file_changed_in_the_cache_is_refused_where_it_is_read(put, own_cache):
    info = describe(put(TINY))
    bank = info.root / "anatomy_bank" / "shape_model.json"
    bank.write_bytes(bank.read_bytes() + b"\n")
    with pytest.raises(BundleError, match="not the file"):
        info.read("anatomy_bank/shape_model.json")


def test_a_cache_that_was_open_to_others_is_emptied(put, own_cache):
    folder = own_cache / "bundles"
    folder.mkdir(parents=True, mode=0o777)
    folder.chmod(0o777)
    (folder / "planted").write_text("x")
    assert describe(put(TINY)).root.is_relative_to(own_cache)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not (folder / "planted").exists()
