"""bundle.json and the folder around it: every way of being wrong has its own words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.errors import BundleError
from xreal_synth.models.bundle_file import PICKLES
from xreal_synth.models.describe import describe, find_bundle, prompt_for, shipped_bundles, verify_files
from xreal_synth.models.save import main, read_fields, write_bundle

Edit = Callable[[Callable[[dict[str, Any]], None]], None]


def test_the_shipped_tiny_bundle_is_whole_and_small() -> None:
    info = describe("xreal-tiny")
    verify_files(info)
    assert "xreal-tiny" in shipped_bundles()
    assert (info.image_size, info.latent_shape, info.factor, info.channels) == (64, (3, 16, 16), 4, 1)
    networks = [stamp.bytes for stamp in info.files if not stamp.path.startswith("anatomy_bank/")]
    assert sum(networks) < 600_000
    assert info.healthy_prompt != info.null_prompt
    assert info.part("unet") == info.root / "unet"


def test_describing_needs_no_torch() -> None:
    code = (
        "import sys; from xreal_synth.models.describe import describe; describe('xreal-tiny');"
        "print([m for m in ('torch', 'ray', 'diffusers', 'torchxrayvision') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("no-such-bundle", "no bundle 'no-such-bundle'"),
        ("memory://bucket/bundle", "no bundle.json there"),
        (".", "has no bundle.json"),
    ],
)
def test_a_missing_bundle(ref: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match=words) as caught:
        find_bundle(ref)
    assert caught.value.wanted
    assert caught.value.hint


def change(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda record: record.update({name: value})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("format_version", 2), "format version 2"),
        (change("format_version", "1"), "format_version"),
        (change("name", "Not A Slug"), "name"),
        (change("typo", 1), "typo"),
        (change("image_size", 60), "latent_shape"),
        (change("latent_shape", [3, 16, 8]), "latent_shape"),
        (change("value_range", [1.0, 0.0]), "value_range"),
        (change("organ_codes", {"left_lung": 2}), "organ_codes"),
        (lambda record: record["prompts"]["findings"].update({"Pnuemonia": "x"}), "Pnuemonia"),
        (lambda record: record["prompts"]["findings"].update({"Mass": "Mass"}), "no embedding for 'Mass'"),
        (lambda record: record["defaults"].update({"steps": 0}), "defaults.steps"),
        (lambda record: record["files"].pop("label_embeddings.safetensors"), "label_embeddings"),
        (lambda record: record["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}), "unsafe"),
        (lambda record: record["files"].update({"/etc/hosts": {"bytes": 1, "sha256": "0" * 64}}), "unsafe"),
        (lambda record: record["files"].update({"new": {"bytes": 1, "sha256": "0" * 64}}), "new: missing"),
        (lambda record: record["files"].update({"w.pt": {"bytes": 1, "sha256": "0" * 64}}), "pickle"),
        (lambda record: record["files"]["unet/config.json"].update({"bytes": 1}), "unet/config.json"),
    ],
)
def test_a_wrong_record(edit: Callable[[dict[str, Any]], None], words: str, bundle: Path, edit_json: Edit) -> None:
    edit_json(edit)
    with pytest.raises(BundleError, match=words) as caught:
        describe(bundle)
    assert caught.value.wanted
    assert caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_record_that_is_no_record(text: str, bundle: Path) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        describe(bundle)


@pytest.mark.parametrize("suffix", PICKLES)
def test_a_pickle_anywhere_is_refused(suffix: str, bundle: Path) -> None:
    (bundle / "unet" / f"weights{suffix}").write_bytes(b"")
    with pytest.raises(BundleError, match="pickle"):
        describe(bundle)
    with pytest.raises(BundleError, match="pickle"):
        write_bundle(bundle, read_fields(bundle / "bundle.json"))


def test_a_missing_part(bundle: Path, edit_json: Edit) -> None:
    def drop(record: dict[str, Any]) -> None:
        record["files"] = {k: v for k, v in record["files"].items() if not k.startswith("vae/")}

    edit_json(drop)
    with pytest.raises(BundleError, match="lists no vae"):
        describe(bundle)
    with pytest.raises(BundleError, match="no upscaler"):
        describe("xreal-tiny").part("upscaler")


def test_a_link_out_of_the_bundle(bundle: Path, tmp_path: Path) -> None:
    inside = bundle / "unet" / "config.json"
    outside = tmp_path / "config.json"
    outside.write_bytes(inside.read_bytes())
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(BundleError, match="outside"):
        describe(bundle)


@pytest.mark.parametrize("path", ["unet/config.json", "vae/diffusion_pytorch_model.safetensors"])
def test_an_altered_file_is_named(path: str, bundle: Path) -> None:
    data = bytearray((bundle / path).read_bytes())
    data[-1] ^= 1
    (bundle / path).write_bytes(data)
    with pytest.raises(BundleError, match=path):
        verify_files(describe(bundle))


def test_broken_embeddings(bundle: Path) -> None:
    path = bundle / "label_embeddings.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(BundleError, match="not a safetensors file"):
        describe(bundle)


def test_content_hash_follows_what_decides_the_images(bundle: Path) -> None:
    fields = read_fields(bundle / "bundle.json")
    base = describe(bundle).content_hash
    assert write_bundle(bundle, fields).content_hash == base

    free = fields.model_copy(update={"name": "other", "training_data": "other"})
    assert write_bundle(bundle, free).content_hash == base
    for name in ("licence", "use_restriction"):
        assert write_bundle(bundle, fields.model_copy(update={name: "other"})).content_hash != base
    (bundle / "README.md").write_text("a card")
    assert write_bundle(bundle, fields).content_hash == base

    assert write_bundle(bundle, fields.model_copy(update={"scale_factor": 0.6})).content_hash != base
    (bundle / "unet" / "config.json").write_text("{}")
    assert write_bundle(bundle, fields).content_hash != base


def test_prompts_are_joined_in_the_bundles_order() -> None:
    info = describe("xreal-tiny")
    assert prompt_for(info, ["Edema", "Pneumonia"]) == "Pneumonia Edema"
    assert prompt_for(info, []) == info.healthy_prompt
    with pytest.raises(BundleError, match="cannot make Hernia") as caught:
        prompt_for(info, ["Hernia", "Edema"])
    assert "Pneumonia" in caught.value.wanted


def test_the_command_writes_the_record_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((bundle / "bundle.json").read_text())
    monkeypatch.setattr(sys, "argv", ["save", str(bundle)])
    assert main() == 0
    assert json.loads((bundle / "bundle.json").read_text()) == before
    (bundle / "bundle.json").write_text("{}")
    assert main() == 2
