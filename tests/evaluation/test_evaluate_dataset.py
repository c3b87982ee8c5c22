"""`evaluate DATASET` and `evaluate compare` on fake datasets, with tiny evaluators."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import binary_auroc, binary_f1_score

from tests.doubles.fakes import box_finding, fake, fake_groups, fake_head, publish_fakes
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import open_dataset
from xreal_synth.dataset.tar import read_tar
from xreal_synth.evaluation import dataset as dataset_module
from xreal_synth.evaluation.cases import CaseReader
from xreal_synth.evaluation.dataset_images import choose
from xreal_synth.evaluation.evaluators import load_evaluators
from xreal_synth.evaluation.inception import fid_inception
from xreal_synth.evaluation.measurements import ms_ssim, organ_dice
from xreal_synth.evaluation.real_side import PairFinder, real_rows
from xreal_synth.storage import LocalStore, sha256_file
from xreal_synth.types import ImageQuality, Rejected, Sample, ShardPlan, SourceImage

Evaluate = Callable[..., int]
Out = pytest.CaptureFixture[str]
Rows = dict[tuple[str, str | None], dict[str, Any]]

SIZE = 64


def write(folder: Path, shards: Sequence[Sequence[Sample]], rejected: Sequence[Rejected] = ()) -> Path:
    """A dataset of one shard for each list of samples, with a gate where images say so."""
    store, head = LocalStore(folder), fake_head(shard_samples=6)
    open_dataset(store, head, "version: 1\n", lambda there, here: [])
    for number, samples in enumerate(shards):
        plan = ShardPlan("fakes", number, 6 * number, 6 * number + 6)
        gated = any(sample.meta.quality is not None for sample in samples)
        publish_fakes(store, plan, samples, rejected if gated else (), gated=gated)
    finish(store, head)
    return folder


def with_quality(sample: Sample, flags: tuple[str, ...] = ()) -> Sample:
    quality = ImageQuality("standard", {"organs.heart": 0.5, "pixels.blur": 0.1}, flags)
    return replace(sample, meta=replace(sample.meta, quality=quality))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 groups, 20 images: Pneumonia and Effusion beside healthy twins, no gate."""
    folder = tmp_path_factory.mktemp("plain")
    return write(folder, [fake_groups(start, start + 6, SIZE) for start in (0, 6)])


@pytest.fixture
def own(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "own")


@pytest.fixture
def options(images: Path, evaluators: Path) -> list[str]:
    return ["--real", str(images / "manifest.csv"), "--evaluators", str(evaluators), "--split", "train"]


def rows_of(folder: Path, key: str = "rows") -> Rows:
    record = json.loads((folder / "evaluation.json").read_text())
    return {(row["name"], row["finding"]): row for row in record[key]}


@pytest.fixture(scope="module")
def seen(plain: Path, images: Path, evaluators: Path) -> dict[str, Any]:
    """What the evaluators say of each image of the plain dataset, asked one by one."""
    loaded = load_evaluators(evaluators)
    samples = [s for tar in sorted((plain / "shards").glob("*.tar")) for s in read_tar(tar)]
    with torch.inference_mode():
        x = loaded.batch([sample.image for sample in samples])
        logits = loaded.classifier(x).double()
        organs = loaded.segmenter.segment(x).numpy()
    return {"samples": samples, "logits": logits, "organs": organs, "findings": loaded.findings}


def test_figures_are_those_of_the_images(
    own: Path, options: list[str], evaluate: Evaluate, capsys: Out, seen: dict[str, Any]
) -> None:
    assert evaluate(str(own), *options) == 0
    shown = capsys.readouterr().out
    assert "evaluation.json" in shown.replace("\n", "")
    assert "…" not in shown, "a cut word"
    assert all(len(line) <= 80 for line in shown.splitlines())
    assert "power in eighth" not in shown
    rows = rows_of(own)
    samples = seen["samples"]
    column = seen["findings"].index("Pneumonia")
    label = torch.tensor([sample.meta.labels["txrv18"]["Pneumonia"] for sample in samples])
    assert 0 < int(label.sum()) < len(label) == 20
    assert rows["AUC", "Pneumonia"]["value"] == pytest.approx(
        float(binary_auroc(seen["logits"][:, column], label)), abs=1e-6
    )
    assert rows["F1", "Pneumonia"]["value"] == pytest.approx(
        float(binary_f1_score(seen["logits"][:, column].sigmoid(), label)), abs=1e-6
    )
    both = [rows["AUC", name]["value"] for name in ("Pneumonia", "Effusion")]
    assert rows["AUC", None]["value"] == pytest.approx(np.mean(both))
    heart = [
        organ_dice(sample.anatomy, organs)["heart"] for sample, organs in zip(samples, seen["organs"], strict=True)
    ]
    assert rows["Dice heart", None]["value"] == pytest.approx(np.nanmean(heart))
    assert rows["Dice heart", None]["n"] == 20
    assert rows["MS-SSIM", None]["value"] is None
    assert not {("flagged", None), ("FID", None), ("KID", None)} & set(rows)
    assert {row["finding"] for row in rows.values()} == {None, "Effusion", "Pneumonia", "No Finding"}
    record = json.loads((own / "evaluation.json").read_text())
    assert record["dataset"]["images"] == 20
    assert record["dataset"]["groups"] == 12
    assert record["dataset"]["asked"] == {"Effusion": 4, "Pneumonia": 4}
    assert record["real"]["second"] == "the other half of split train's patients"
    assert record["rows_unflagged"] == []
    assert set(record["rows"][0]) == {"name", "finding", "value", "low", "high", "real", "real_low", "real_high", "n"}
    assert "xreal-synth evaluate" in record["command"]
    assert len(record["networks"]["evaluators"]) == 64
    table = (own / "evaluation.md").read_text()
    assert "| sharpness | " in table
    assert "nan" not in table.lower()


def test_a_second_split_stands_beside(own: Path, options: list[str], evaluate: Evaluate, capsys: Out) -> None:
    assert evaluate(str(own), *options, "--beside", "val") == 0
    record = json.loads((own / "evaluation.json").read_text())
    assert record["real"]["second"] == "split val"
    assert (record["real"]["images"], record["real"]["second_images"]) == (8, 6)
    assert "patients both" in refused(evaluate, capsys, str(own), *options, "--beside", "train")


def test_flags_and_acceptance(tmp_path: Path, options: list[str], evaluate: Evaluate) -> None:
    samples = [
        with_quality(sample, ("pixels.blur",) if at < 2 else ()) for at, sample in enumerate(fake_groups(0, 6, SIZE))
    ]
    refused = [
        Rejected(5, at, 1, "dark", False, check="organs.heart", member="v0", findings=("Pneumonia",)) for at in range(2)
    ]
    folder = write(tmp_path / "gated", [samples], refused)
    assert evaluate(str(folder), *options) == 0
    rows = rows_of(folder)
    assert rows["flagged", None]["value"] == pytest.approx(2 / 10)
    # Pneumonia: groups 1 and 5 accepted, two attempts refused
    assert rows["accepted", "Pneumonia"]["value"] == pytest.approx(2 / 4)
    assert rows["accepted", "Effusion"]["value"] == 1
    assert rows["accepted", "Effusion"]["low"] < 1
    assert (rows["accepted", None]["value"], rows["accepted", None]["n"]) == (6 / 8, 8)
    unflagged = rows_of(folder, "rows_unflagged")
    assert unflagged["Dice heart", None]["n"] == 8
    assert ("flagged", None) not in unflagged
    assert "Without the images that the gate flagged" in (folder / "evaluation.md").read_text()


def test_images_of_a_real_mask_are_paired_with_its_image(
    tmp_path: Path, images: Path, options: list[str], evaluate: Evaluate
) -> None:
    size, scores, samples = 192, [], []
    for group in range(6, 12):
        number = group
        mask = Image.open(images / f"mask{number}.png").resize((size, size), Image.Resampling.NEAREST)
        real = Image.open(images / f"image{number}.png").resize((size, size), Image.Resampling.LANCZOS)
        box = (32, 96, 64, 128)
        sample = fake(group, "v0", [box_finding("Pneumonia", box)] if group % 2 else [], size=size)
        anatomy = np.asarray(mask) if group < 11 else np.roll(np.asarray(mask), 9, axis=0)
        meta = replace(sample.meta, anatomy_source="masks", anatomy_id=f"mask{number}.png")
        samples.append(replace(sample, anatomy=anatomy, meta=meta))
        if group < 11:
            scores.append(ms_ssim(sample.image, np.asarray(real)))
    folder = write(tmp_path / "paired", [samples])
    assert evaluate(str(folder), *options, "--beside", "val") == 0
    record = json.loads((folder / "evaluation.json").read_text())
    assert "MS-SSIM is of 5 images that have a real image of the split beside them." in record["notes"]
    assert any(note.startswith("1 images were made from masks") for note in record["notes"])
    row = rows_of(folder)["MS-SSIM", None]
    assert (row["n"], row["value"]) == (5, pytest.approx(np.mean(scores)))
    assert -1 <= rows_of(folder)["MS-SSIM between images", None]["value"] <= 1


def test_images_of_one_patient_are_resampled_together(images: Path) -> None:
    store = LocalStore(images)
    finder = PairFinder(CaseReader(store, SIZE), real_rows(store, "train", "val").rows)
    drawn = fake(3, "h", size=SIZE).meta
    own_mask = replace(drawn, anatomy_source="masks", anatomy_id="mask9.png")
    edited = replace(drawn, member="v0", source=SourceImage("image8.png", "0" * 64, (), ()))
    assert finder.unit(drawn) == "group 3"
    assert finder.unit(own_mask) == finder.unit(edited) == "patient 4"
    assert finder.unit(replace(own_mask, anatomy_id="mask1.png")) == "mask mask1.png"
    assert finder.unit(replace(edited, source=replace(edited.source, id="x.png"))) == "image x.png"


def test_a_real_image_that_has_gone_is_no_pair(images: Path, tmp_path: Path) -> None:
    images = shutil.copytree(images, tmp_path / "images")
    store = LocalStore(images)
    finder = PairFinder(CaseReader(store, SIZE), real_rows(store, "train", "val").rows)
    sample = fake(3, "v0", size=SIZE)
    of_file = SourceImage("image8.png", sha256_file(images / "image8.png"), (), ())
    edited = replace(sample, meta=replace(sample.meta, source=of_file))
    (images / "image8.png").unlink()
    assert np.isnan(finder.ms_ssim(edited))
    assert finder.pairs == 0


def test_only_as_many_images_as_asked_for(own: Path) -> None:
    chosen = choose(str(own), 4)
    assert (chosen.images, chosen.images_in_all, len(chosen.source.records)) == (4, 20, 1)
    assert len(list(chosen.samples())) == 4
    everything = choose(str(own), 1000)
    assert [sample.meta.key for sample in everything.samples()] == sorted(
        sample.meta.key for sample in everything.samples()
    )
    assert everything.images == 20


def refused(evaluate: Evaluate, capsys: Out, *arguments: str) -> str:
    assert evaluate(*arguments) == 2
    return " ".join(capsys.readouterr().err.split())


def test_mistakes_in_what_is_named(
    own: Path, tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out
) -> None:
    real, evaluators = options[1], options[2:4]
    for arguments, named in (
        ([str(tmp_path / "nowhere"), *options], "no dataset.json here"),
        ([str(own), "--real", str(tmp_path), *evaluators], "manifest.csv"),
        ([str(own), "--real", str(tmp_path / "images.csv"), *evaluators], "a file named manifest.csv"),
        ([str(own), "--real", real, *evaluators, "--split", "tset"], "'tset'"),
        ([str(own), "--real", real, *evaluators], "at least 4 patients"),
        ([str(own), *options[:4], "--split", "train", "--beside", "tset"], "'tset'"),
        ([str(own), *options, "--inception", str(tmp_path / "none.pth")], "no such file"),
        ([str(own), *evaluators], "--real"),
        (["bundel", "--data", "x"], "bundle"),
    ):
        assert named in refused(evaluate, capsys, *arguments)
    assert not (own / "evaluation.json").exists()


def test_no_labels_in_common(tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out) -> None:
    box = (16, 32, 32, 48)
    for name, named in (("Nodule", "the evaluator classifier knows"), ("Atelectasis", "the real images show")):
        images = [fake(at, "v0", [box_finding(name, box)], size=SIZE) for at in range(6)]
        folder = write(tmp_path / name, [images])
        assert named in refused(evaluate, capsys, str(folder), *options)


def test_images_larger_than_the_real_ones(tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out) -> None:
    folder = write(tmp_path / "large", [fake_groups(0, 6, 512)])
    reported = refused(evaluate, capsys, str(folder), *options)
    assert "a real image of 320 x 320 pixels beside made ones of 512" in reported


def test_damaged_and_unfinished_shards(own: Path, options: list[str], evaluate: Evaluate, capsys: Out) -> None:
    tar = own / "shards" / "fakes-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert "not the file that its record names" in refused(evaluate, capsys, str(own), *options)
    tar.unlink()
    assert "is missing" in refused(evaluate, capsys, str(own), *options)
    assert not (own / "evaluation.json").exists()
    (own / "records" / "fakes-000001.json").unlink()
    assert evaluate(str(own), *options) == 0
    record = json.loads((own / "evaluation.json").read_text())
    assert "1 shards are not finished and left out." in record["notes"]
    assert record["dataset"]["groups"] == 6


def test_compare_measures_each_dataset_once(
    own: Path, plain: Path, tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    other = write(tmp_path / "other", [fake_groups(30, 36, SIZE)])
    out = tmp_path / "out"
    assert evaluate("compare", str(own), str(other), *options, "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "Table I" in shown
    text = (out / "compare.md").read_text()
    assert "| fakes (fake, xreal) #1 | " in text
    assert "| fakes (fake, xreal) #2 | " in text
    assert "| XReal | .701 | 55.12 | .838 | .570 | .743 |" in text
    assert "cannot be compared row by row" in text
    both = json.loads((out / "compare.json").read_text())["datasets"]
    assert [one["dataset"]["images"] for one in both] == [20, 10]
    monkeypatch.setattr(dataset_module.Bench, "measure", lambda *given: pytest.fail("measured again"))
    assert evaluate("compare", str(own), str(other), *options, "--out", str(out)) == 0
    assert (out / "compare.md").read_text() == text
    capsys.readouterr()
    assert evaluate("compare", str(own), str(other), *options, "--json") == 0
    again = json.loads(capsys.readouterr().out)["datasets"]
    assert again == both
    (other / "evaluation.json").write_text("{")
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        evaluate("compare", str(own), str(other), *options)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        evaluate("compare", str(own), str(other), *options, "-n", "15")


def test_fid_is_there_with_inceptions_weights_alone(
    own: Path, tmp_path: Path, options: list[str], evaluate: Evaluate
) -> None:
    torch.manual_seed(0)
    torch.save({name: tensor.half() for name, tensor in fid_inception().state_dict().items()}, tmp_path / "i.pth")
    assert evaluate(str(own), *options, "-n", "4", "--inception", str(tmp_path / "i.pth")) == 0
    rows, record = rows_of(own), json.loads((own / "evaluation.json").read_text())
    assert rows["FID", None]["value"] >= 0
    assert math.isfinite(rows["KID", None]["value"])
    assert record["networks"]["inception_published"] is False
    assert any("not the published one" in note for note in record["notes"])
    assert any(note.startswith("4 of 20 images") for note in record["notes"])


def test_compare_wants_images_of_one_size(
    own: Path, tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out
) -> None:
    other = write(tmp_path / "other", [fake_groups(0, 6, 32)])
    assert "images of different sizes" in refused(evaluate, capsys, "compare", str(own), str(other), *options)


def test_json_is_printed_or_written(
    own: Path, tmp_path: Path, options: list[str], evaluate: Evaluate, capsys: Out
) -> None:
    assert evaluate(str(own), *options, "--json", "-") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((own / "evaluation.json").read_text())
    file = tmp_path / "sub" / "figures.json"
    assert evaluate("dataset", str(own), *options, "--json", str(file)) == 0
    written = json.loads(file.read_text())
    assert written["rows"] == printed["rows"]
    assert all(
        value is None or math.isfinite(value)
        for row in written["rows"]
        for value in (row["value"], row["low"], row["high"])
    )
