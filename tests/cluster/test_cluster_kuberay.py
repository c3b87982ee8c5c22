"""KubeRay's manifests against KubeRay's own schema, every unknown field found, and the pitfalls they must avoid."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from xreal_synth.engine.job_package import output_place
from xreal_synth.jobs.generate import parser
from xreal_synth.recipe.load import load_recipe

ROOT = Path(__file__).parents[2]
KUBERAY = ROOT / "cluster" / "kuberay"
QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
Manifest = dict[str, Any]


def strict(schema: Any) -> Any:
    """The schema with every object closed that names its fields, as the API server prunes (or, asked to, refuses)."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema and schema.get("type") == "object":
        closed["additionalProperties"] = bool(schema.get("x-kubernetes-preserve-unknown-fields", False))
    return closed


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    file = Path(__file__).parent / "crd" / "rayjob.v1.json.gz"
    job = strict(json.loads(gzip.decompress(file.read_bytes())))
    spec = job["properties"]["spec"]["properties"]["rayClusterSpec"]
    return {"RayJob": job, "RayCluster": {**job, "properties": {**job["properties"], "spec": spec}}}


def manifest(name: str) -> Manifest:
    loaded = yaml.safe_load((KUBERAY / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def cluster_of(document: Manifest) -> Manifest:
    spec: Manifest = document["spec"]
    return spec.get("rayClusterSpec", spec)


def groups_of(document: Manifest) -> list[Manifest]:
    cluster = cluster_of(document)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def problems(document: Manifest, schemas: dict[str, Any]) -> list[str]:
    check = jsonschema.Draft7Validator(schemas[document["kind"]])
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in check.iter_errors(document)]


NAMES = ("rayjob", "raycluster")


def test_every_manifest_is_known_here():
    assert sorted(path.stem for path in KUBERAY.glob("*.yaml")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_manifest_fits_the_schema(name, schemas):
    assert problems(manifest(name), schemas) == []


def _rename(path: str, new: str) -> Callable[[Manifest], None]:
    def change(cluster: Manifest) -> None:
        *way, last = path.split(".")
        node: Any = cluster
        for step in way:
            node = node[int(step)] if step.isdigit() else node[step]
        node[new] = node.pop(last)

    return change


def _set(path: str, value: object) -> Callable[[Manifest], None]:
    def change(cluster: Manifest) -> None:
        *way, last = path.split(".")
        node: Any = cluster
        for step in way:
            node = node[int(step)] if step.isdigit() else node[step]
        node[last] = value

    return change


POD = "workerGroupSpecs.0.template.spec"


@pytest.mark.parametrize(
    "mistake",
    [
        _rename("autoscalerOptions.idleTimeoutSeconds", "idleTimeoutSecond"),
        _rename("enableInTreeAutoscaling", "enableAutoscaling"),
        _rename("workerGroupSpecs.0.maxReplicas", "maxReplica"),
        _rename(f"{POD}.tolerations.0.effect", "effects"),
        _rename(f"{POD}.containers.0.resources", "resource"),
        _rename(f"{POD}.volumes.0.emptyDir", "emptydir"),
        _rename(f"{POD}.containers.0.securityContext.capabilities", "capability"),
        _set("authOptions.mode", "tokens"),
        _set("workerGroupSpecs.0.replicas", "1"),
        _set("headGroupSpec.rayStartParams.num-cpus", 0),
        _set(f"{POD}.containers.0.resources.limits", {"memory": "24 GB"}),
        _set(f"{POD}.restartPolicy", None),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_found(name, mistake, schemas):
    document = copy.deepcopy(manifest(name))
    mistake(cluster_of(document))
    assert problems(document, schemas)


def containers(document: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    for group in groups_of(document):
        pod = group["template"]["spec"]
        for container in pod["containers"]:
            yield pod, container


@pytest.mark.parametrize("name", NAMES)
def test_pods_hold_together(name):
    """What the API server checks beyond the schema."""
    for pod, container in containers(manifest(name)):
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = [mount["name"] for mount in container["volumeMounts"]]
        assert set(mounts) == volumes
        assert len({mount["mountPath"] for mount in container["volumeMounts"]}) == len(mounts)
        asked, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert all(QUANTITY.fullmatch(value) for value in (*asked.values(), *limits.values()))
        assert asked["memory"] == limits["memory"]
        for port in container.get("ports", ()):
            assert len(port["name"]) <= 15


@pytest.mark.parametrize("name", NAMES)
def test_pitfalls(name):
    document = manifest(name)
    cluster = cluster_of(document)
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    for group in groups_of(document):
        pod = group["template"]["spec"]
        shm = [volume for volume in pod["volumes"] if volume["name"] == "shm"]
        assert shm[0]["emptyDir"]["medium"] == "Memory"
        assert {"name": "shm", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store < int(shm[0]["emptyDir"]["sizeLimit"].removesuffix("Gi")) << 30
        assert pod["securityContext"]["runAsNonRoot"] is True
    for group in cluster["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert any(one["key"] == "nvidia.com/gpu" for one in pod["tolerations"])
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_a_job_ends_and_goes_on():
    spec = manifest("rayjob")["spec"]
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["submissionMode"] == "K8sJobMode"
    assert "suspend" not in spec
    assert "deletionStrategy" not in spec
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_the_entry_point_takes_these_arguments():
    words = manifest("rayjob")["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "xreal_synth.jobs.generate"]
    given = parser().parse_args(words[3:])
    recipe = load_recipe(ROOT / "recipes" / "pneumonia-balance.yaml", overrides=given.set).recipe
    assert recipe.compute.gpus_per_actor == 1
    assert recipe.compute.actors == cluster_of(manifest("rayjob"))["workerGroupSpecs"][0]["maxReplicas"]
    assert output_place(recipe.output.uri, given.output_root).startswith("s3://")
    mounts = {mount["mountPath"] for _, one in containers(manifest("rayjob")) for mount in one["volumeMounts"]}
    assert str(given.recipe.parent) in mounts
