"""The Python API: the same images as the command line, outputs that show themselves, and errors in our words."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import xreal_synth
from tests.doubles.schematic import schematic_mask
from xreal_synth import Dataset, Finding, GeneratedImage, GeneratedImages, Pipeline, generate, plan
from xreal_synth.cli.main import main
from xreal_synth.dataset.tar import encode_sample
from xreal_synth.errors import AnatomyError, BundleError, DatasetError, EngineError, RecipeError, XrealError

ROOT = Path(__file__).parents[1]
QUICK: dict[str, Any] = {"steps": 4, "quality": {"profile": "none"}}
RECIPE: dict[str, Any] = {
    "version": 1,
    "name": "both-ways",
    "seed": 11,
    "anatomies": 5,
    "bundle": "xreal-tiny",
    "findings": [
        {"weight": 1, "labels": []},
        {"weight": 2, "labels": [Finding("Pneumonia", side="right"), Finding("Effusion", side="left")]},
    ],
    "pairs": {"twin": True},
    "sampling": {"steps": 4},
    "quality": {"profile": "none"},
    "split": {"val": 0.4},
    "output": {"uri": "unset", "shard_samples": 2},
    "compute": {"actors": 1},
}


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline.from_pretrained("xreal-tiny")


def same(one: GeneratedImage, other: GeneratedImage) -> bool:
    """All files of both, provenance and labels too."""
    return encode_sample(one.sample).members == encode_sample(other.sample).members


# Light


def test_importing_the_package_imports_nothing_of_it() -> None:
    script = (
        "import sys, xreal_synth\n"
        "print([name for name in sys.modules if name.startswith('xreal_synth.') or name in "
        "('torch', 'numpy', 'ray', 'pyarrow', 'pydantic')])\n"
        "import xreal_synth.planning.build\n"
        "from xreal_synth import plan, generate, Finding\n"
        "print(callable(plan), callable(generate), 'torch' in sys.modules, 'ray' in sys.modules)\n"
        "try: xreal_synth.Pipelin\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == [
        "[]", "True True False False", "module 'xreal_synth' has no attribute 'Pipelin'"
    ]  # fmt: skip


def test_every_public_name_is_there() -> None:
    assert all(getattr(xreal_synth, name) for name in xreal_synth.__all__)
    assert dir(xreal_synth) == sorted(xreal_synth.__all__)


# Images


def test_an_image_with_its_counterfactual(pipe: Pipeline) -> None:
    told: list[tuple[float, int]] = []
    out = pipe(
        findings=[Finding("Pneumonia", side="right", zone="lower")], anatomy=None, seed=7, counterfactual=True,
        callback=lambda done, total: told.append((done, total)), **QUICK,
    )  # fmt: skip
    assert isinstance(out.image, Image.Image)
    assert out.image.size == (64, 64)
    assert out.healthy is not None
    assert out.original is None
    assert out.label_map.dtype == np.uint8
    assert set(np.unique(out.label_map)) <= {0, 1, 2, 3, 4}
    ((x0, y0, x1, y1),) = out.boxes["Pneumonia"]
    inside = np.zeros((64, 64), bool)
    inside[y0:y1, x0:x1] = True
    assert (out.regions["Pneumonia"] == inside).all()
    assert x1 <= 36, "the patient's right is the picture's left"
    assert (out.labels["Pneumonia"], out.labels["Lung Opacity"], out.labels["Effusion"]) == (1, 1, 0)
    apart = np.abs(np.asarray(out.image).astype(int) - np.asarray(out.healthy))
    assert (apart == out.change).all()
    assert not apart[~inside].any()
    assert apart[inside].any()
    assert told[-1][0] >= 1
    assert told[-1][1] == 1


def test_the_same_seed_gives_the_same_image_whatever_was_made_before(pipe: Pipeline) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = pipe(["Effusion"], seed=3, **QUICK)
        torch.manual_seed(99)
        pipe(["Pneumonia"], seed=4, **QUICK)
        assert same(first, pipe(["Effusion"], seed=3, **QUICK))
        assert same(first, Pipeline("xreal-tiny", device="cpu")([Finding("Effusion")], seed=3, **QUICK))
        assert not same(first, pipe(["Effusion"], seed=5, **QUICK))
        assert torch.get_num_threads() == 2, "the caller's own"
    finally:
        torch.set_num_threads(threads)


def test_several_images_are_the_first_of_their_seed(pipe: Pipeline) -> None:
    many = pipe(["Effusion"], seed=3, num_images=5, **QUICK)
    assert isinstance(many, GeneratedImages)
    assert [one.key for one in many] == [f"{n:010d}-v0" for n in range(5)]
    assert same(many[0], pipe(["Effusion"], seed=3, **QUICK))
    assert same(many[1], pipe(["Effusion"], seed=3, num_images=2, **QUICK)[1])
    assert len({one.label_map.tobytes() for one in many}) == 5


def test_a_label_map_is_used_as_it_is(pipe: Pipeline, tmp_path: Path) -> None:
    mine = schematic_mask(64, np.random.default_rng(5))
    out = pipe(["Pneumonia"], anatomy=mine, seed=1, **QUICK)
    assert (out.label_map == mine).all()
    assert out.recipe == ""
    (tmp_path / "masks").mkdir()
    Image.fromarray(mine).save(tmp_path / "masks/mine.png")
    again = pipe(["Pneumonia"], anatomy=tmp_path / "masks", seed=1, **QUICK)
    assert (again.label_map == mine).all()
    assert (np.asarray(again.image) == np.asarray(out.image)).all()
    assert not list(Path(os.environ.get("TMPDIR", "/tmp")).glob("xreal-anatomy-*"))


def test_anatomies_are_drawn_with_the_heart_asked_for(pipe: Pipeline) -> None:
    small, as_drawn, large = (pipe.sample_anatomy(4, heart_scale=scale) for scale in (0.7, 1.0, 1.5))
    hearts = [int((mask == 3).sum()) for mask in (small, as_drawn, large)]
    assert hearts == sorted(hearts)
    assert hearts[2] > 2 * hearts[0]
    assert (pipe.sample_anatomy(4) == pipe.sample_anatomy(4)).all()
    assert (pipe.sample_anatomy(4) == pipe(seed=4, **QUICK).label_map).all()
    wide = pipe.sample_anatomy(4, findings=["Cardiomegaly"])
    assert (wide == pipe(["Cardiomegaly"], seed=4, **QUICK).label_map).all()
    assert (wide == 3).sum() > (pipe.sample_anatomy(4) == 3).sum()


def test_anatomies_are_drawn_with_the_lungs_asked_for(pipe: Pipeline) -> None:
    small, as_drawn, large = (pipe.sample_anatomy(4, lungs_scale=scale) for scale in (0.85, 1.0, 1.15))
    lungs = [np.isin(mask, (1, 2)).sum() for mask in (small, as_drawn, large)]
    assert lungs[0] / lungs[1] == pytest.approx(0.85**2, rel=0.1)
    assert lungs[2] / lungs[1] == pytest.approx(1.15**2, rel=0.1)
    assert (as_drawn == pipe.sample_anatomy(4)).all()
    both = pipe.sample_anatomy(4, heart_scale=1.5, lungs_scale=0.85)
    assert (both == 3).sum() > 1.5 * (pipe.sample_anatomy(4, heart_scale=1.0) == 3).sum()


def test_a_real_image_is_edited(pipe: Pipeline, tmp_path: Path) -> None:
    mask = schematic_mask(96, np.random.default_rng(2))
    real = (np.select([np.isin(mask, (1, 2)), mask == 3], [70, 200], 140)).astype(np.uint8)
    out = pipe.edit(real, mask, add=[Finding("Pneumonia", side="left")], seed=2, **QUICK)
    assert out.healthy is None
    assert out.original is not None
    assert out.labels["Pneumonia"] == 1
    outside = ~out.regions["Pneumonia"]
    assert (np.asarray(out.image)[outside] == np.asarray(out.original)[outside]).all()
    Image.fromarray(real).save(tmp_path / "real.png")
    assert same(out, pipe.edit(tmp_path / "real.png", mask, add=[Finding("Pneumonia", side="left")], seed=2, **QUICK))
    gone = pipe.edit(real, mask, remove=[Finding("Pneumonia", box=(0.1, 0.2, 0.4, 0.6))], **QUICK)
    (removed,) = gone.sample.meta.source.removed  # type: ignore[union-attr]
    assert gone.change[removed[1] : removed[3], removed[0] : removed[2]].any()
    mask_before = os.umask(0o022)
    os.umask(mask_before)
    assert mask_before == 0o022 or mask_before & 0o027 != 0o027, "the caller's own"


def test_images_show_themselves(pipe: Pipeline) -> None:
    out = pipe([Finding("Pneumonia", prompt=None)], seed=7, counterfactual=True, **QUICK)
    with Image.open(io.BytesIO(out._repr_png_())) as shown:
        assert shown.size == (4 * 256, 256)
    html = out._repr_html_()
    assert html.startswith("<figure><img src='data:image/png;base64,")
    assert "Pneumonia (" in html
    many = pipe(["Effusion"], num_images=2, **QUICK)
    with Image.open(io.BytesIO(many._repr_png_())) as sheet:
        assert sheet.width > 400
    assert "no finding" in repr(pipe(seed=1, **QUICK))


SQUARE = np.zeros((64, 64), np.uint8)
MISTAKES: dict[str, tuple[Callable[[Pipeline], object], type[XrealError], str]] = {
    "a finding misspelt": (lambda pipe: Finding("Pneumonya"), RecipeError, "did you mean `Pneumonia`"),
    "a finding in the call": (lambda pipe: pipe(["pnuemonia"]), RecipeError, "`Pneumonia`"),
    "a zone": (lambda pipe: Finding("Pneumonia", zone="apical"), RecipeError, "upper, middle, lower"),  # type: ignore[arg-type]
    "a box in pixels": (lambda pipe: Finding("Pneumonia", box=(8, 30, 20, 40)), RecipeError, "divide by"),
    "a box and a side": (lambda pipe: Finding("Mass", side="left", box=(0, 0, 1, 1)), RecipeError, "either"),
    "no list": (lambda pipe: pipe("Pneumonia"), RecipeError, "['Pneumonia']"),  # type: ignore[call-overload]
    "no finding": (lambda pipe: pipe([3]), RecipeError, "name: 3"),  # type: ignore[list-item]
    "a keyword misspelt": (lambda pipe: pipe(samplng={"steps": 3}), RecipeError, "`sampling`"),
    "a keyword that is none": (lambda pipe: pipe(["Mass"], mask=SQUARE), RecipeError, "hint:   write anatomy="),
    "a keyword of another call": (lambda pipe: pipe.edit(SQUARE, mask=SQUARE), RecipeError, "write label_map="),  # type: ignore[arg-type]
    "a keyword of diffusers": (lambda pipe: pipe(num_inference_steps=4), RecipeError, "write steps="),
    "a section of its own": (lambda pipe: pipe(compute={"actors": 2}), RecipeError, "takes whole recipes"),
    "steps": (lambda pipe: pipe(steps=0), RecipeError, "sampling.steps"),
    "guidance": (lambda pipe: pipe(guidance=-1), RecipeError, "sampling.guidance"),
    "no images": (lambda pipe: pipe(num_images=0), RecipeError, "at least 1"),
    "a seed": (lambda pipe: pipe(seed=-1), RecipeError, "seed"),
    "shares as label map": (lambda pipe: pipe(anatomy=SQUARE / 255), AnatomyError, "astype('uint8')"),
    "colours as label map": (lambda pipe: pipe(anatomy=np.zeros((8, 8, 3), int)), AnatomyError, "[8, 8, 3]"),
    "an empty label map": (lambda pipe: pipe(anatomy=SQUARE), AnatomyError, "no left lung"),
    "an empty label map's hint": (lambda pipe: pipe(anatomy=SQUARE), AnatomyError, "hint:   complete the mask"),
    "a file as anatomy": (lambda pipe: pipe(anatomy=__file__), AnatomyError, "anatomy=np.asarray(Image.open(FILE))"),
    "no such masks": (lambda pipe: pipe(anatomy="no/such/masks"), AnatomyError, "no/such/masks"),
    "a heart": (lambda pipe: pipe.sample_anatomy(heart_scale=9), RecipeError, "0.5 to 2"),
    "lungs": (lambda pipe: pipe.sample_anatomy(lungs_scale=1.4), RecipeError, "0.7 to 1.3"),
    "nothing to edit": (lambda pipe: pipe.edit(SQUARE), RecipeError, "nothing to do"),
    "removed from where": (lambda pipe: pipe.edit(SQUARE, remove=[Finding("Mass")]), RecipeError, "a box"),
    "added to where": (lambda pipe: pipe.edit(SQUARE + 9, add=["Pneumonia"]), RecipeError, "organ mask"),
    "no such image": (lambda pipe: pipe.edit("no.png", add=["Pneumonia"]), AnatomyError, "No such file"),
    "no image": (lambda pipe: pipe.edit(__file__, add=["Pneumonia"]), AnatomyError, "identify the image"),
    "no such bundle": (lambda pipe: Pipeline("nothing"), BundleError, "xreal-mini"),
    "no such device": (lambda pipe: Pipeline(device="gpu"), EngineError, "cpu or cuda"),  # type: ignore[arg-type]
    "no such precision": (lambda pipe: Pipeline(precision="fp16"), RecipeError, "bf16"),  # type: ignore[arg-type]
    "None for a recipe": (lambda pipe: plan(None), RecipeError, "null"),  # type: ignore[arg-type]
    "a list for a recipe": (lambda pipe: generate([1]), RecipeError, "YAML text, or a dict"),  # type: ignore[arg-type]
    "no such recipe": (lambda pipe: generate("no.yaml"), RecipeError, "No such file"),
    "a set in a recipe": (lambda pipe: plan({"version": 1, "findings": {1, 2}}), RecipeError, "wanted"),
    "an array in a recipe": (lambda pipe: plan({"version": 1, "seed": np.int64(3)}), RecipeError, "lists and dicts"),
    "an output of text": (lambda pipe: pipe(output="x"), RecipeError, "output"),
    "sampling of text": (lambda pipe: pipe(sampling="fast", steps=3), RecipeError, "sampling"),
    "overrides of text": (lambda pipe: plan(RECIPE, overrides="anatomies=3"), RecipeError, "write ['anatomies=3']"),
    "overrides as a dict": (
        lambda pipe: generate(RECIPE, overrides={"anatomies": 3, "sampling": {"steps": 4}}),  # type: ignore[arg-type]
        RecipeError,
        "write ['anatomies=3', 'sampling={\"steps\": 4}']",
    ),
    "overrides of numbers": (lambda pipe: plan(RECIPE, overrides=[3]), RecipeError, "a list of texts"),  # type: ignore[list-item]
    "no dataset": (lambda pipe: Dataset("no/such/set"), DatasetError, "dataset.json"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_told_in_our_words(pipe: Pipeline, what: str) -> None:
    mistake, kind, told = MISTAKES[what]
    with pytest.raises(kind) as error:
        mistake(pipe)
    assert told in str(error.value)
    assert "(line " not in str(error.value), "of a text that the caller has never seen"


def test_what_is_wrong_with_an_anatomy_is_told_of_the_argument(pipe: Pipeline, tmp_path: Path) -> None:
    """Of a temporary file or a recipe's key the caller knows nothing."""
    mine = schematic_mask(64, np.random.default_rng(5))
    Image.fromarray(mine[:, ::-1].copy()).save(tmp_path / "swapped.png")
    swapped, twice = "swap codes 1 and 2, or mirror image and mask", "; or take them out of the folder"
    for anatomy, where, hint in (
        (mine[:, ::-1], "anatomy=...: the lungs are swapped", swapped),
        (mine / 4, "anatomy=...: float64", "astype('uint8')"),
        (tmp_path, f"anatomy='{tmp_path}': 1 of 1 organ masks", swapped + twice),
        ("nope.png", "anatomy='nope.png': no such folder", "anatomy=FOLDER"),
    ):
        with pytest.raises(AnatomyError) as error:
            pipe(["Pneumonia"], anatomy=anatomy)
        assert str(error.value).startswith(where)
        assert hint in error.value.hint
        assert not re.search(r"anatomy\.source|xreal-anatomy-", str(error.value))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_told() -> None:
    with pytest.raises(EngineError, match="no GPU") as error:
        Pipeline.from_pretrained("xreal-tiny", device="cuda")
    assert "device='cuda'" in str(error.value)
    assert "gpus_per_actor" not in str(error.value), "a key that the caller has not given"


# Datasets


def test_plan_says_what_would_be_made() -> None:
    planned = plan(RECIPE, overrides=["anatomies=9"])
    assert [(row["labels"], row["groups"]) for row in planned.table] == [((), 3), (("Pneumonia", "Effusion"), 6)]
    assert {row["label"]: row["positive"] for row in planned.labels if row["label_set"] == "txrv18"}["Effusion"] == 6
    assert planned.probe.images == 15
    assert planned.cost.evaluations > 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """RECIPE made by `generate`, from the dict."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        return generate(RECIPE, folder / "made", progress=False)


def tars(uri: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(uri, "shards").iterdir())}


@pytest.mark.ray
def test_generate_and_the_command_line_make_the_same_bytes(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row | {"labels": [one.label for one in row["labels"]]} for row in RECIPE["findings"]]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(RECIPE | {"findings": rows}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        "sys.argv", ["xreal-synth", "generate", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "cli"), "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert len(tars(made.uri)) == 3
    assert tars(made.uri) == tars(str(tmp_path / "cli"))
    for name in ("tables/both-ways-000001.parquet", "index.json", "samples.parquet"):
        assert Path(made.uri, name).read_bytes() == (tmp_path / "cli" / name).read_bytes()


@pytest.mark.ray
def test_a_call_gives_the_images_of_a_dataset(made: Dataset, pipe: Pipeline) -> None:
    """Its recipe as generate takes it gives the same files, provenance too, and so does a dataset of it."""
    out = pipe(["Effusion"], seed=21, num_images=3, counterfactual=True, **QUICK)
    again = generate(out[0].recipe, Path(made.uri).with_name("again"), progress=False)
    assert [one.key for one in again] == [f"{n:010d}-{member}" for n in range(3) for member in ("h", "v0")]
    for one in out:
        assert same(one, again[one.key])
        assert one.twin is not None
        assert same(GeneratedImage(one.twin), again[one.twin.meta.key])


@pytest.mark.ray
def test_a_dataset_is_looked_at(made: Dataset) -> None:
    assert len(made) == 2 + 3 * 2 == len(list(made))
    assert "8 images" in repr(made)
    variant = next(one for one in made if one.key.endswith("v0"))
    assert variant.healthy is not None
    assert (np.asarray(variant.healthy) == np.asarray(made[variant.key.replace("v0", "h")].image)).all()
    assert same(made[-1], made[7])
    assert [one.key for one in made[1:3]] == [made[1].key, made[2].key]
    assert {one.key for one in made.filter(finding="Pneumonia")} == {one.key for one in made if one.boxes}
    assert len(made.filter(finding="Pleural Effusion")) == len(made.filter(finding="Effusion")) == 3
    assert len(made.filter(finding="No Finding")) == 5
    by_split = {split: made.filter(split=split) for split in ("train", "val")}  # type: ignore[arg-type]
    assert sum(map(len, by_split.values())) == 8
    assert {one.sample.split for one in by_split["val"]} <= {"val"}
    frame = made.to_pandas()
    assert list(frame["key"]) == [one.key for one in made]
    assert frame["chexpert14.Pneumonia"].sum() == 3
    assert same(pickle.loads(pickle.dumps(made))[3], made[3])
    assert made.show(4).width > 400
    with Image.open(io.BytesIO(made._repr_png_())) as sheet:
        assert sheet.height > 200


@pytest.mark.ray
def test_what_a_dataset_does_not_have_is_told(made: Dataset) -> None:
    with pytest.raises(DatasetError, match="did you mean `Pneumonia`"):
        made.filter(finding="Pneumonya")
    with pytest.raises(DatasetError, match="whose gate gave a flag"):
        made.filter(flag="organs.heart")
    with pytest.raises(DatasetError, match="train, val, test"):
        made.filter(split="valid")  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="no image '0000000099-h'"):
        made["0000000099-h"]
    with pytest.raises(IndexError, match="image 8 of 8"):
        made[8]
    with pytest.raises(DatasetError, match="no image to show"):
        made.filter(finding="Hernia").show()


@pytest.mark.ray
def test_generate_goes_on_and_warns_of_what_is_missing(made: Dataset, tmp_path: Path, capsys: Any) -> None:
    before = tars(made.uri)
    assert len(generate(RECIPE, made.uri)) == 8
    assert "exit" not in capsys.readouterr().err
    assert tars(made.uri) == before


def gated(folder: Path) -> Dataset:
    """A dataset whose gate flagged some images."""
    from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
    from xreal_synth.dataset.head import open_dataset
    from xreal_synth.dataset.table import FLAGS
    from xreal_synth.storage import LocalStore
    from xreal_synth.types import ShardPlan

    store = LocalStore(folder)
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    for k in range(2):
        publish_fakes(store, ShardPlan("fakes", k, 4 * k, 4 * k + 4), fake_groups(4 * k, 4 * k + 4))
    dataset = Dataset(folder)
    import pyarrow as pa

    flags = [["organs.heart"] if n % 3 == 0 else None if n % 3 == 1 else [] for n in range(len(dataset))]
    dataset.table = dataset.table.append_column(FLAGS, pa.array(flags, pa.list_(pa.string())))
    return dataset


def test_images_are_found_by_flag_and_excluded_ones_are_left_out(tmp_path: Path) -> None:
    dataset = gated(tmp_path / "set")
    keys = [one.key for one in dataset]
    assert dataset.flags == {"organs.heart": -(-len(keys) // 3)}
    assert [one.key for one in dataset.filter(flag="organs.heart")] == keys[::3]
    with pytest.raises(DatasetError, match=r"did you mean `organs.heart`"):
        dataset.filter(flag="organ.heart")
    (tmp_path / "set/excluded.csv").write_text(f"key,reason\n{keys[2]},a reason\n")
    assert [one.key for one in Dataset(tmp_path / "set")] == [*keys[:2], *keys[3:]]
    assert json.dumps(Dataset(tmp_path / "set").skipped) == "[]"
