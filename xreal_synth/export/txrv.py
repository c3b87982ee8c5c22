"""SyntheticDataset: the shards as a TorchXRayVision dataset, read image by image with no unpacking."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torchxrayvision as xrv

from xreal_synth import findings as vocab
from xreal_synth.dataset.meta import parse_meta
from xreal_synth.dataset.names import ANATOMY, CHANGE, IMAGE, META, PATHOLOGY
from xreal_synth.dataset.offsets import open_samples
from xreal_synth.dataset.origin import subject_id
from xreal_synth.dataset.png import decode_png
from xreal_synth.dataset.source import open_source
from xreal_synth.dataset.table import LABEL_COLUMNS
from xreal_synth.errors import DatasetError
from xreal_synth.export.regions import positive_names, shown_regions
from xreal_synth.storage import open_store
from xreal_synth.types import Split

Transform = Callable[[npt.NDArray[np.float32]], Any]
LabelSet = Literal["txrv18", "chexpert14"]

ORGAN_NAMES = {"Left Lung": (1,), "Right Lung": (2,), "Lungs": (1, 2), "Heart": (3,), "Aorta": (4,)}
"""Names of the semantic masks (those of TorchXRayVision's own) and their organ codes."""

_SEEDS = 2**31 - 1
"""As many seeds as TorchXRayVision's own apply_transforms draws from."""


class SyntheticDataset(xrv.datasets.Dataset):
    """Images of a generated dataset under TorchXRayVision's dataset contract.

    `pathologies` are the label set's names in its order, `labels` float32 [n, names] of 1, 0 and NaN (not
    known), `csv` a pandas DataFrame with a row per image. Its `patientid` names the anatomy (by the
    recipe's digest and the group, or by the real image that was edited), so that a split by patient keeps the
    images of one anatomy together. Whose real images are one patient's a dataset does not say; its `split` knows.

    An item has `idx`, `lab` float32 [names] and `img` float32 [1, H, W] in -1024..1024; with
    `pathology_masks` a dict of float32 [1, H, W] of 0 and 1 by the label's place in `pathologies`, for each
    finding's region under its own name and its parents'; with `semantic_masks` the organ masks by name, none
    where a real image has no organ mask; with `change_maps` a float32 `change` [1, H, W] in 0..1, the absolute
    difference from the healthy twin as a share of the grey scale. `transform`, then `data_aug`, act on image, masks
    and change with the same random numbers.

    Images named in the dataset's excluded.csv are left out.
    Shards without a record, or not as their record says, are left out with a warning; the bytes of every
    image are held against its row's hash when it is read. Nothing is opened before the first item, and no
    file stays open, so the dataset may be pickled and forked.

    Raises DatasetError where there is no dataset, no finished shard, or no image in the split asked for, and for
    `semantic_masks` where the images do not follow them.
    """

    def __init__(
        self, uri: str | os.PathLike[str], *, split: Split | None = None, label_set: LabelSet = "txrv18",
        transform: Transform | None = None, data_aug: Transform | None = None,
        pathology_masks: bool = False, semantic_masks: bool = False, change_maps: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _one_of("split", split, (None, *get_args(Split)))
        _one_of("label_set", label_set, tuple(vocab.LABEL_SETS))
        self.uri = os.fspath(uri)
        self.split = split
        self.label_set = label_set
        self.transform = transform
        self.data_aug = data_aug
        self.pathology_masks = pathology_masks
        self.semantic_masks = semantic_masks
        self.change_maps = change_maps
        self.pathologies: list[str] = list(vocab.LABEL_SETS[label_set])
        self.name, table = self._read_tables()
        columns = [f"{label_set}.{name}" for name in self.pathologies]
        self.labels: npt.NDArray[np.float32] = np.asarray(table[columns].to_numpy(np.float32, na_value=np.nan))
        self.csv = table.drop(columns=list(LABEL_COLUMNS)).reset_index(drop=True)

    def _read_tables(self) -> tuple[str, pd.DataFrame]:
        source = open_source(open_store(self.uri))
        if self.semantic_masks and not source.head.follows_masks:
            raise DatasetError(
                where=self.uri,
                found="semantic_masks of images that do not follow their organ masks (sampling.control: none)",
                wanted="images made with sampling.control: xreal or controlnet", hint="leave semantic_masks out",
            )  # fmt: skip
        self._reader, tables = open_samples(source)
        for skipped in source.skipped:
            warnings.warn(f"{self.uri}: {skipped}", stacklevel=4)
        if not tables:
            raise DatasetError(where=self.uri, found="no shard is as its record says", hint="run xreal-synth verify")
        whole = pd.concat([_frame(table, source.head.digest) for table in tables], ignore_index=True)
        if not len(whole) and source.excluded:
            raise DatasetError(
                where=self.uri, found="every image is excluded (excluded.csv)", hint="take some in again"
            )
        chosen = whole if self.split is None else whole[whole["split"] == self.split]
        if not len(chosen):
            reported = ", ".join(f"{name} {count}" for name, count in whole["split"].value_counts().items())
            raise DatasetError(
                where=self.uri, found=f"no image in split {self.split!r}", wanted=f"one of those here: {reported}"
            )
        return source.head.name, chosen

    def string(self) -> str:
        """The line that TorchXRayVision's datasets are printed as."""
        return (
            f"{type(self).__name__} num_samples={len(self)} name={self.name} split={self.split} "
            f"label_set={self.label_set} data_aug={self.data_aug}"
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """The image of row `idx`; raises IndexError beyond the last, DatasetError where its bytes are wrong."""
        idx = int(idx)
        if not -len(self) <= idx < len(self):
            raise IndexError(f"image {idx} of {len(self)}")
        idx %= len(self)
        row = self.csv.iloc[idx]
        members = self._reader.members(row["tar"], row["key"])
        where = f"{row['tar']}:{row['key']}"
        image = decode_png(members[IMAGE], f"{where}.{IMAGE}")
        item: dict[str, Any] = {"idx": idx, "lab": self.labels[idx], "img": xrv.utils.normalize(image, 255, True)}
        if self.pathology_masks:
            item["pathology_masks"] = self._pathology_masks(members, where)
        if self.semantic_masks:
            anatomy = decode_png(members[ANATOMY], f"{where}.{ANATOMY}")
            organs = ORGAN_NAMES if anatomy.any() else {}
            item["semantic_masks"] = {
                name: np.isin(anatomy, organ_codes)[None].astype(np.float32) for name, organ_codes in organs.items()
            }
        change = None
        if self.change_maps:
            change = decode_png(members[CHANGE], f"{where}.{CHANGE}")[None].astype(np.float32) / 255
        for transform in (self.transform, self.data_aug):
            seed = int(np.random.randint(_SEEDS))
            item = xrv.datasets.apply_transforms(item, transform, seed)
            if change is not None:
                change = xrv.datasets.apply_transforms({"img": change}, transform, seed)["img"]
        return dict(item) if change is None else {**item, "change": change}

    def _pathology_masks(self, members: dict[str, bytes], where: str) -> dict[int, npt.NDArray[np.float32]]:
        meta = parse_meta(members[META], f"{where}.{META}")
        anatomy = decode_png(members[ANATOMY], f"{where}.{ANATOMY}")
        pathology = decode_png(members[PATHOLOGY], f"{where}.{PATHOLOGY}")
        places = {name: i for i, name in enumerate(self.pathologies)}
        masks: dict[int, npt.NDArray[np.float32]] = {}
        for finding, region in shown_regions(meta, anatomy, pathology):
            for name in positive_names(finding, self.label_set) & places.keys():
                there = masks.get(places[name], np.zeros((1, *region.shape), np.float32))
                masks[places[name]] = np.maximum(there, region[None].astype(np.float32))
        return masks


def _frame(table: Any, digest: str) -> pd.DataFrame:
    """A shard's rows: its table with findings as names, and what TorchXRayVision's own datasets carry."""
    names = ["|".join(one["name"] for one in row) for row in table.column("findings").to_pylist()]
    frame: pd.DataFrame = table.drop_columns(["findings"]).to_pandas()
    frame["findings"] = names
    frame["has_masks"] = [bool(name) for name in names]
    anatomies = zip(frame["anatomy_source"], frame["anatomy_id"], frame["group"], strict=True)
    frame["patientid"] = [subject_id(source, name, digest, group) for source, name, group in anatomies]
    frame["view"] = "UNKNOWN"
    return frame


def _one_of(name: str, found: object, wanted: tuple[object, ...]) -> None:
    if found not in wanted:
        raise DatasetError(found=f"{name}={found!r}", wanted=f"{name} among {', '.join(map(repr, wanted))}")
