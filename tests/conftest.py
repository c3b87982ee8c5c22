"""Which tests share a worker; one Ray head for all that need Ray, started and ended here; images to edit."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import setuptools  # noqa: F401  # torch.compile wants it, and it refuses after the standard library's distutils
from hypothesis import HealthCheck, settings
from object_store import ObjectStore, serving

from tests.doubles.image_folder import write_image_folder

if TYPE_CHECKING:
    from tests.doubles.local_cluster import LocalCluster

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("same", patient, derandomize=True)
settings.register_profile("new", patient)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
"""The same examples in every run, however busy the machine; HYPOTHESIS_PROFILE=new draws others."""


os.environ.setdefault("XREAL_PSEUDONYM_KEY", "of the tests alone")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this user's cache holds, as the speeds that doctor measured, is not seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XREAL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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
    actors are to be disturbed by one test at a time. The others take the rest, file by file. Faults mostly wait: each
    goes to a worker that is free, which has a head of its own."""
    from xdist.scheduler import LoadScopeScheduling

    class RayTogether(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith("tests/faults/"):
                return nodeid
            file = nodeid.partition("::")[0]
            return "ray" if starts_ray(config.rootpath / file) else file

    config.option.loadscopereorder = False
    return RayTogether(config, log)


@pytest.fixture(scope="session")
def ray_head() -> Iterator[LocalCluster]:
    """A head on loopback with a temporary folder of its own, ended by the ids of its processes."""
    from tests.doubles.local_cluster import local_cluster

    with pytest.MonkeyPatch.context() as patch:  # a job's `python` is this one, as in a cluster's image
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        patch.setenv("RAY_metrics_report_interval_ms", "3000")  # ten seconds otherwise
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


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes six images of 96 x 96 with organ masks, manifest.csv and boxes.csv; keywords replace files' text."""
    return lambda name="images", **text: write_image_folder(tmp_path / name, **text)
