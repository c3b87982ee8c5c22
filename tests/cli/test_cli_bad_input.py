"""Every mistake ends with exit code 2, a message that names it, and nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.doubles.schematic import schematic_mask
from xreal_synth.cli.main import main
from xreal_synth.models.describe import SHIPPED
from xreal_synth.models.save import read_fields, write_bundle

RECIPE = {
    "version": 1,
    "name": "bad",
    "seed": 1,
    "anatomies": 4,
    "bundle": "xreal-tiny",
    "findings": [{"weight": 1, "labels": []}, {"weight": 1, "labels": [{"name": "Pneumonia"}]}],
    "sampling": {"steps": 5},
    "output": {"uri": "out", "shard_samples": 2},
}
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in an empty folder -> exit code and what it said on stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_it(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["xreal-synth", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.err + captured.out

    return run_it


def write(folder: Path, **changes: object) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return str(path)


def refused(run: Run, folder: Path, *arguments: str) -> str:
    """What `generate` says of a mistake; checks exit code 2 and that no output was written."""
    code, said = run("generate", *arguments)
    assert code == 2, said
    assert "Traceback" not in said
    assert not (folder / "out").exists()
    return said


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("version: 1\nname: [", "line"),
        ("version: 1\nname: !!python/object/apply:os.system [id]\n", "tag"),
        ("", "empty"),
        ("- 1\n", "recipe"),
    ],
)
def test_bad_yaml(run: Run, tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert named in refused(run, tmp_path, "recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "path", "named"),
    [
        ({"sample": 3}, "sample", "anatomies"),
        ({"anatomies": 0}, "anatomies", "1"),
        ({"anatomies": -5}, "anatomies", "1"),
        ({"findings": [{"weight": 0, "labels": []}]}, "findings", "0"),
        ({"findings": [{"weight": 1, "labels": [{"name": "Pneumona"}]}]}, "findings[0].labels[0].name", "Pneumonia"),
        (
            {"findings": [{"weight": 1, "labels": [{"name": "Pneumonia", "box": [0.0, 0.0, 0.1, 0.1]}]}]},
            "findings[0].labels[0]", "min_overlap",
        ),
        ({"sampling": {"mode": "reference", "steps": 7}}, "sampling.steps", "1000"),
        ({"bundle": "no-such-bundle"}, "no-such-bundle", "xreal-tiny"),
        ({"quality": {"profile": "strikt"}}, "quality.profile", "strict"),
        ({"quality": {"checks": {"organs": {"action": "warn"}}}}, "quality.checks.organs", "has no segmenter"),
        ({"quality": {"profile": "none", "checks": {"seam": {"energy": 3}}}}, "quality.checks.seam.energy", "off"),
        ({"quality": {"checks": {"copies": {"index": "no-index"}}}}, "quality.checks.copies", "no file"),
        ({"labels": {"unrequested": "checked"}}, "labels.unrequested", "has no classifier"),
    ],
)  # fmt: skip
def test_bad_recipe(run: Run, tmp_path: Path, changes: dict[str, object], path: str, named: str) -> None:
    said = refused(run, tmp_path, write(tmp_path, **changes))
    assert path in said
    assert named in said


def test_bad_override(run: Run, tmp_path: Path) -> None:
    said = refused(run, tmp_path, write(tmp_path), "--set", "sampling.stepz=5")
    assert "sampling.stepz" in said
    assert "steps" in said


def test_every_problem_is_reported_at_once(run: Run, tmp_path: Path) -> None:
    said = refused(run, tmp_path, write(tmp_path, anatomies=0, seed=-1, nam="x"))
    assert all(name in said for name in ("anatomies", "seed", "nam"))


def swapped(mask: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(mask[:, ::-1])


def wrong_code(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 4, 9, mask).astype(np.uint8)


@pytest.mark.parametrize(("damage", "named"), [(swapped, "lung"), (wrong_code, "9"), (None, "read")])
def test_bad_mask(
    run: Run, tmp_path: Path, damage: Callable[[np.ndarray], np.ndarray] | None, named: str
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    if damage is None:
        (folder / "one.png").write_bytes(b"not a picture")
    else:
        Image.fromarray(damage(schematic_mask(128))).save(folder / "one.png")
    said = refused(run, tmp_path, write(tmp_path, anatomy={"source": {"masks": {"path": str(folder)}}}))
    assert "one.png" in said
    assert named in said


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "xreal-tiny", tmp_path / "bundle"))


def test_wrong_hash(run: Run, tmp_path: Path, bundle: Path) -> None:
    weights = bundle / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "unet/diffusion_pytorch_model.safetensors" in refused(
        run, tmp_path, write(tmp_path, bundle=str(bundle))
    )


def test_newer_format(run: Run, tmp_path: Path, bundle: Path) -> None:
    fields = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(fields | {"format_version": 99}))
    assert "99" in refused(run, tmp_path, write(tmp_path, bundle=str(bundle)))


def test_pickle(run: Run, tmp_path: Path, bundle: Path) -> None:
    (bundle / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "pickle" in refused(run, tmp_path, write(tmp_path, bundle=str(bundle)))


def test_a_bundle_without_a_controller(run: Run, tmp_path: Path, bundle: Path) -> None:
    shutil.rmtree(bundle / "anatomy_controller")
    write_bundle(bundle, read_fields(bundle / "bundle.json"))
    said = refused(run, tmp_path, write(tmp_path, bundle=str(bundle)))
    assert "no anatomy_controller" in said
    assert "anatomy.source: images" in said


def test_another_recipes_dataset(run: Run, tmp_path: Path) -> None:
    from xreal_synth.recipe.load import load_recipe
    from xreal_synth.run.setup import claim, open_run
    from xreal_synth.storage import LocalStore

    claim(open_run(load_recipe(Path(write(tmp_path)))), LocalStore(tmp_path / "out"), {})
    before = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    code, said = run("generate", write(tmp_path, seed=2))
    assert code == 2
    assert "seed: 1 there, 2 here" in said
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == before


def test_usage_errors(run: Run) -> None:
    assert run("generat")[0] == 2
    code, said = run("generate", "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in said
