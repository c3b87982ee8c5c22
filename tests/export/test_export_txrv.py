"""SyntheticDataset under TorchXRayVision's own functions."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchxrayvision as xrv

import xreal_synth
from xreal_synth.errors import DatasetError, StorageError
from xreal_synth.export.txrv import SyntheticDataset
from xreal_synth.storage import LocalStore, RemoteStore
from xreal_synth.types import Sample

TRAIN = 18 - 1 - 2


def keys(dataset: xrv.datasets.Dataset) -> list[str]:
    return list(dataset.csv["key"])


def test_images_labels_and_rows_are_those_of_the_shards(dataset: Path, images: dict[str, Sample]) -> None:
    made = SyntheticDataset(dataset)
    assert made.pathologies == xrv.datasets.default_pathologies
    assert keys(made) == list(images)
    assert made.labels.dtype == np.float32
    assert made.labels.shape == (len(images), 18)
    for i, sample in enumerate(images.values()):
        item = made[i]
        assert item["idx"] == i
        assert item["img"].dtype == np.float32
        assert item["img"].shape == (1, 64, 64)
        np.testing.assert_allclose(item["img"][0], sample.image / 255 * 2048.0 - 1024, atol=1e-3)
        wanted = [sample.meta.labels["txrv18"][name] for name in made.pathologies]
        reported = [np.nan if value is None else float(value) for value in wanted]
        np.testing.assert_array_equal(item["lab"], np.array(reported, np.float32))
    assert np.isnan(made.labels[:, made.pathologies.index("Hernia")]).any()
    assert made.csv["patientid"].nunique() == 10
    assert set(made.csv["patientid"].str[:10]) == {"SYNTHETIC-"}
    assert "chexpert14.Pneumonia" not in made.csv.columns


def test_an_index_beyond_the_end_ends_a_loop(dataset: Path) -> None:
    made = SyntheticDataset(dataset, split="val")
    assert len(list(made)) == len(made) == 1
    with pytest.raises(IndexError):
        made[-2]
    assert made[-1]["idx"] == 0


def test_splits_are_the_present_ones(dataset: Path) -> None:
    parts = {split: SyntheticDataset(dataset, split=split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": TRAIN, "val": 1, "test": 2}
    groups = [set(part.csv["group"]) for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10
    np.testing.assert_array_equal(parts["test"][1]["img"], SyntheticDataset(dataset)[2]["img"])


def test_label_set(dataset: Path) -> None:
    made = SyntheticDataset(dataset, label_set="chexpert14", pathology_masks=True)
    assert made.pathologies[7] == "Pneumonia"
    both = made[keys(made).index("0000000009-v0")]
    named = {made.pathologies[i] for i in both["pathology_masks"]}
    assert named == {"Pleural Effusion", "Cardiomegaly", "Enlarged Cardiomediastinum"}
    assert both["lab"][made.pathologies.index("Pleural Effusion")] == 1


def test_masks(dataset: Path, images: dict[str, Sample]) -> None:
    made = SyntheticDataset(dataset, pathology_masks=True, semantic_masks=True)
    item = made[keys(made).index("0000000008-v0")]
    masks = {made.pathologies[i]: mask for i, mask in item["pathology_masks"].items()}
    assert set(masks) == {"Pneumonia", "Atelectasis", "Lung Opacity"}
    box = np.zeros((1, 64, 64), np.float32)
    box[0, 20:36, 12:28] = 1
    np.testing.assert_array_equal(masks["Pneumonia"], box)  # also where Atelectasis was painted over it
    np.testing.assert_array_equal(masks["Lung Opacity"], np.maximum(box, masks["Atelectasis"]))
    anatomy = images["0000000008-v0"].anatomy
    organs = item["semantic_masks"]
    assert set(organs) == {"Left Lung", "Right Lung", "Lungs", "Heart", "Aorta"}
    np.testing.assert_array_equal(organs["Lungs"][0], np.isin(anatomy, (1, 2)).astype(np.float32))
    np.testing.assert_array_equal(organs["Heart"][0], (anatomy == 3).astype(np.float32))
    assert not made[keys(made).index("0000000008-h")]["pathology_masks"]


def test_change_maps_and_shams(dataset: Path, images: dict[str, Sample]) -> None:
    made = SyntheticDataset(dataset, change_maps=True, pathology_masks=True)
    for key in ("0000000008-h", "0000000008-v0", "0000000008-s0"):
        item = made[keys(made).index(key)]
        assert item["change"].dtype == np.float32
        np.testing.assert_allclose(item["change"][0] * 255, images[key].change, atol=1e-3)
    assert not item["pathology_masks"]
    row = made.csv.iloc[keys(made).index("0000000008-s0")]
    assert (row["findings"], row["has_masks"], row["member"]) == ("", False, "s0")
    assert item["lab"][made.pathologies.index("Pneumonia")] == 0

    def flip(image: np.ndarray) -> np.ndarray:
        return image[:, :, ::-1] if torch.rand(()) < 0.5 else image

    turned = SyntheticDataset(dataset, change_maps=True, pathology_masks=True, data_aug=flip)
    place, seen = keys(made).index("0000000008-v0"), set()
    for _ in range(12):
        item = turned[place]
        painted = np.any([mask[0] > 0 for mask in item["pathology_masks"].values()], axis=0)
        assert not item["change"][0][~painted].any()
        seen.add(bool(painted[:, :32].sum() > painted[:, 32:].sum()))
    assert seen == {False, True}
    assert "change" not in SyntheticDataset(dataset)[0]


def test_transforms_move_image_and_masks_together(dataset: Path) -> None:
    def flip(image: np.ndarray) -> np.ndarray:
        return image[:, :, ::-1] if torch.rand(()) < 0.5 else image

    plain = SyntheticDataset(dataset, semantic_masks=True)
    flipped = SyntheticDataset(dataset, semantic_masks=True, data_aug=flip, transform=xrv.datasets.XRayResizer(32))
    seen = set()
    for _ in range(12):
        item = flipped[0]
        assert item["img"].shape == (1, 32, 32)
        heart = item["semantic_masks"]["Heart"][0] > 0.5
        left = np.argwhere(plain[0]["semantic_masks"]["Heart"][0])[:, 1].mean() / 64
        turned = bool(abs(np.argwhere(heart)[:, 1].mean() / 32 - left) > 0.05)
        bright = item["img"][0][:, ::-1] if turned else item["img"][0]
        seen.add(turned)
        reference = xrv.datasets.XRayResizer(32)(plain[0]["img"])[0]
        np.testing.assert_allclose(bright, reference, atol=1e-3)
    assert seen == {True, False}


def test_xrv_relabel_merge_subset_and_filter(dataset: Path) -> None:
    train = SyntheticDataset(dataset, split="train")
    other = SyntheticDataset(dataset, split="test", pathology_masks=True)
    wanted = ["Pneumonia", "Effusion", "Tuberculosis"]
    before = train.labels[:, train.pathologies.index("Pneumonia")].copy()
    for one in (train, other):
        xrv.datasets.relabel_dataset(wanted, one, silent=True)
    np.testing.assert_array_equal(train.labels[:, 0], before)
    assert np.isnan(train.labels[:, 2]).all()
    assert np.isnan(train[0]["lab"][2])
    assert set(other[1]["pathology_masks"]) == {0}
    merged = xrv.datasets.MergeDataset([train, other])
    assert len(merged) == TRAIN + 2
    assert list(merged.csv["split"]) == ["train"] * TRAIN + ["test"] * 2
    np.testing.assert_array_equal(merged[TRAIN]["img"], other[0]["img"])
    ill = np.flatnonzero(merged.labels[:, 0] == 1)
    subset = xrv.datasets.SubsetDataset(merged, ill)
    assert [item["lab"][0] for item in subset] == [1.0] * len(ill)
    assert len(ill) == 4
    filtered = xrv.datasets.FilterDataset(train, ["Effusion"])
    assert len(filtered) == int((train.labels[:, 1] == 1).sum())
    assert train.totals()["Pneumonia"][1.0] == 3
    assert "SyntheticDataset num_samples=15 name=fakes split=train" in repr(merged.datasets[0])
    assert "SyntheticDataset" in subset.string()


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(dataset: Path, workers: int) -> None:
    made = SyntheticDataset(dataset)
    made[0]  # what a process has opened must not trouble the others
    loader = torch.utils.data.DataLoader(made, batch_size=4, num_workers=workers)
    batches = list(loader)
    images = torch.cat([batch["img"] for batch in batches])
    assert images.shape == (18, 1, 64, 64)
    assert images.dtype == torch.float32
    assert torch.cat([batch["idx"] for batch in batches]).tolist() == list(range(18))
    np.testing.assert_array_equal(images[7].numpy(), made[7]["img"])


def test_pickles(dataset: Path) -> None:
    made = SyntheticDataset(dataset, split="train")
    made[3]
    copy = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(copy[5]["img"], made[5]["img"])
    assert repr(copy) == repr(made)


def test_no_file_stays_open(dataset: Path) -> None:
    made = SyntheticDataset(dataset)
    for item in made:
        assert item["img"].shape[0] == 1
    held = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in held if str(dataset) in str(path)]


def test_reads_remote_places(dataset: Path) -> None:
    local, remote = LocalStore(dataset), RemoteStore(f"memory://{dataset}")
    for folder in ("", "shards", "tables", "records"):
        for key in local.list(folder):
            remote.put_if_absent(key, local.read_bytes(key))
    near, far = SyntheticDataset(dataset), SyntheticDataset(remote.uri)
    np.testing.assert_array_equal(near.labels, far.labels)
    np.testing.assert_array_equal(near[9]["img"], far[9]["img"])


def test_unfinished_shards_are_left_out_and_reported(own_dataset: Path) -> None:
    (own_dataset / "records/fakes-000000.json").unlink()
    with pytest.warns(UserWarning, match="fakes-000000 is left out: it has no records/"):
        made = SyntheticDataset(own_dataset)
    assert set(made.csv["group"]) == set(range(4, 10))
    (own_dataset / "shards/fakes-000001.tar").write_bytes(b"short")
    (own_dataset / "tables/fakes-000002.parquet").write_bytes(b"altered")
    warnings.simplefilter("ignore")
    with pytest.raises(DatasetError, match="no shard is as its record says"):
        SyntheticDataset(own_dataset)


def test_an_altered_image_is_refused(own_dataset: Path, images: dict[str, Sample]) -> None:
    tar = own_dataset / "shards/fakes-000001.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    tar.write_bytes(bytes(data))
    made = SyntheticDataset(own_dataset)
    first = keys(made).index("0000000004-h")
    with pytest.raises(DatasetError, match="not those its table's row names"):
        made[first]
    assert made[first + 1]["img"].shape == (1, 64, 64)


def test_a_tar_with_other_names_is_refused(own_dataset: Path) -> None:
    tar = own_dataset / "shards/fakes-000001.tar"
    tar.write_bytes((own_dataset / "shards/fakes-000000.tar").read_bytes().ljust(tar.stat().st_size, b"\0"))
    with pytest.raises(DatasetError, match=r"'0000000000-h.png'.*\n.*'0000000004-h.png' at this place"):
        SyntheticDataset(own_dataset)[7]


def test_a_changed_samples_table_is_refused(own_dataset: Path) -> None:
    with (own_dataset / "samples.parquet").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DatasetError, match="xreal-synth report"):
        SyntheticDataset(own_dataset)


def test_unfinished_datasets_use_the_shards_own_split(own_dataset: Path) -> None:
    (own_dataset / "index.json").unlink()
    assert set(SyntheticDataset(own_dataset).csv["split"]) == {"train"}
    with pytest.raises(DatasetError, match="no image in split 'val'"):
        SyntheticDataset(own_dataset, split="val")


@pytest.mark.parametrize("wrong", [{"split": "dev"}, {"label_set": "nih14"}])
def test_wrong_choices_are_named(dataset: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(DatasetError, match=next(iter(wrong.values()))):
        SyntheticDataset(dataset, **wrong)  # type: ignore[arg-type]


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        SyntheticDataset(tmp_path)
    with pytest.raises((DatasetError, StorageError)):
        SyntheticDataset("nowhere://x")


def test_the_package_alone_brings_no_torch() -> None:
    script = (
        "import sys, xreal_synth\n"
        "assert not {'torch', 'pandas', 'torchxrayvision'} & set(sys.modules)\n"
        "assert 'SyntheticDataset' in dir(xreal_synth)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert xreal_synth.SyntheticDataset is SyntheticDataset
    with pytest.raises(AttributeError, match="SyntheticDatset"):
        xreal_synth.SyntheticDatset  # noqa: B018
