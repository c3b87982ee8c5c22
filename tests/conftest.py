"""Which tests share a worker; one Ray head for all that need Ray, started and ended here; films to edit."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from object_store import ObjectStore, serving
from PIL import Image

from xreal_synth.shards.phantoms import phantom_anatomy

if TYPE_CHECKING:
    from xreal_synth.engine.chaos.ray_cluster import LocalCluster

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", patient, derandomize=True)
settings.register_profile("new", patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""The same examples in every run, however busy the machine; HYPOTHESIS_PROFILE=new draws others."""


os.environ.setdefault("XREAL_PSEUDONYM_KEY", "of the tests alone")


@functools.cache
def starts_ray(file: Path) -> bool:
    """Whether tests of this file need a Ray, by their mark."""
    return "pytest.mark.ray" in file.read_text(encoding="utf-8")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that need a Ray come first."""
    items.sort(key=lambda item: not starts_ray(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With pytest-xdist one worker takes all files that need a Ray, from the beginning: there is one head, and its
    actors are to be disturbed by one test at a time. The others take the rest, file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class RayTogether(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if starts_ray(config.rootpath / file) else file

    config.option.loadscopereorder = False
    return RayTogether(config, log)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[LocalCluster]:
    """A head on loopback with a temporary folder of its own, ended by the ids of its processes."""
    from xreal_synth.engine.chaos.ray_cluster import local_cluster

    with pytest.MonkeyPatch.context() as patch:  # a job's `python` is this one, as in a cluster's image
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("RAY_metrics_report_interval_ms", "1000")  # ten seconds otherwise
        with local_cluster(cpus=3) as cluster:
            yield cluster


@pytest.fixture(scope="session")
def joined_ray(ray_head: LocalCluster) -> LocalCluster:
    """This process is connected to the head."""
    import ray

    ray.init(address=ray_head.address, log_to_driver=False, logging_level="ERROR")
    return ray_head


@pytest.fixture(scope="module")
def object_store() -> Iterator[ObjectStore]:
    """A real S3 API on loopback; the environment leads s3:// there while the module's tests run."""
    with serving() as store:
        yield store


MANIFEST = """\
image,mask,labels,patient_id,age,split
a.png,masks/a.png,No Finding,1,61,train
b.png,masks/b.png,Pneumonia,2,62,train
c.png,masks/c.png,Pneumonia|Mass,2,63,train
d.png,masks/d.png,Effusion,3,64,val
e.png,masks/e.png,No Finding,4,65,val
f.png,masks/f.png,,5,66,val
"""
BOXES = """\
image,finding,x0,y0,x1,y1
b.png,Pneumonia,60,40,80,60
c.png,Pneumonia,20,36,36,56
c.png,Mass,60,50,72,60
d.png,Pleural Effusion,18,50,38,70
"""


@pytest.fixture
def film_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes six films of 96 x 96 with organ masks, manifest.csv and boxes.csv; keywords replace files' text."""

    def write(name: str = "films", manifest: str | None = MANIFEST, boxes: str = BOXES) -> Path:
        folder = tmp_path / name
        (folder / "masks").mkdir(parents=True)
        for i, film in enumerate("abcdef"):
            rng = np.random.default_rng(i)
            mask = phantom_anatomy(96, rng)
            pixels = 150 - 20 * mask + rng.integers(-9, 9, mask.shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{film}.png")
            Image.fromarray(mask).save(folder / "masks" / f"{film}.png")
        if manifest is not None:
            (folder / "manifest.csv").write_text(manifest)
        (folder / "boxes.csv").write_text(boxes)
        return folder

    return write
