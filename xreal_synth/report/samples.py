"""Samples of a dataset by key or by number, read from its tars."""

from __future__ import annotations

from collections.abc import Iterator

from xreal_synth.dataset.check import local_copy
from xreal_synth.dataset.head import DatasetHead
from xreal_synth.dataset.names import RECORDS, parse_key, shards_in, stem_of, tar_key
from xreal_synth.dataset.tar import read_tar
from xreal_synth.errors import DatasetError
from xreal_synth.storage import Store
from xreal_synth.types import Sample


def find_sample(store: Store, head: DatasetHead, key: str) -> Sample:
    """The sample of this key; raises DatasetError if the dataset does not hold it."""
    shard = parse_key(key).group // head.shard_samples
    stem = stem_of(head.name, shard)
    if store.exists(tar_key(stem)):
        with local_copy(store, tar_key(stem)) as path:
            for sample in read_tar(path):
                if sample.meta.key == key:
                    return sample
    raise DatasetError(
        found=f"{store.uri} holds no sample {key}",
        wanted="a key of this dataset, e.g. 0000000000-h or 0000000000-v0",
        hint="look in samples.parquet, or list a tar's members with `tar tf`",
    )


def first_samples(store: Store, head: DatasetHead, limit: int) -> Iterator[Sample]:
    """Up to `limit` samples in order of shards; whole groups, so that twins stand beside variants."""
    count, last_group = 0, -1
    for shard in shards_in(store, RECORDS, head.name):
        with local_copy(store, tar_key(stem_of(head.name, shard))) as path:
            for sample in read_tar(path):
                if count >= limit and sample.meta.group != last_group:
                    return
                count, last_group = count + 1, sample.meta.group
                yield sample
