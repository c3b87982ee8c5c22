"""Launcher, Slurm and container files: Ray's own validation, EC2's own parameter check, and linters."""

from __future__ import annotations

import copy
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
DOCKER = CLUSTER / "docker"
SBATCH = CLUSTER / "slurm" / "generate.sbatch"
IMAGE = "registry.example.com/xreal-synth:0.1.0"


def tool(name: str) -> str:
    """A linter of the dev extra."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{name} is not installed (pip install 'xreal-synth[dev]')")
    return found


def lint(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# One Ray, one image


def test_one_version_of_ray_everywhere():
    dockerfile = (DOCKER / "Dockerfile").read_text()
    version = re.search(r"ARG RAY_VERSION=([0-9.]+)", dockerfile)
    assert version is not None
    named = set(re.findall(r"rayVersion: \"([0-9.]+)\"", "".join(_texts("kuberay"))))
    named |= set(re.findall(r"ray\[default\]==([0-9.]+)", "".join(_texts("launcher"))))
    assert named == {version[1]}
    least = re.search(r"ray\[default\]>=([0-9.]+)", (ROOT / "pyproject.toml").read_text())
    assert least is not None
    assert [int(part) for part in version[1].split(".")] >= [int(part) for part in least[1].split(".")]


def test_one_image_everywhere():
    texts = [*_texts("kuberay"), *_texts("launcher")]
    images = re.findall(r"^ +image: (\S+)", "".join(texts), re.MULTILINE)
    assert len(images) == 6
    assert set(images) == {IMAGE}


def _texts(folder: str) -> list[str]:
    return [path.read_text() for path in sorted((CLUSTER / folder).glob("*.yaml"))]


# Ray's launcher


def launcher(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load((CLUSTER / "launcher" / f"{name}.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def validated(config: dict[str, Any]) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared: dict[str, Any] = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_ray_takes_the_launcher_file(name):
    config = launcher(name)
    prepared = validated(config)
    gpu = prepared["available_node_types"]["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["GPU"]) == (1, 8, 1)
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == []
    for command in (*prepared["head_start_ray_commands"], *prepared["worker_start_ray_commands"]):
        assert "ray start" not in command or "RAY_AUTH_MODE=token" in command
    assert "dashboard-host=0.0.0.0" not in str(prepared)


@pytest.mark.parametrize("name", ["aws", "gcp"])
@pytest.mark.parametrize("change", [{"idle_timeout": 5}, {"head_node_type": "heads"}, {"max_workers": 0}])
def test_ray_refuses_mistakes(name, change):
    import jsonschema

    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validated(launcher(name) | change)


def test_ec2_takes_the_nodes():
    """The parameters of RunInstances, against the description of it that boto3 brings."""
    loaders = pytest.importorskip("botocore.loaders", reason="botocore is in the s3 extra")
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    service = ServiceModel(loaders.Loader().load_service_model("ec2", "service-2"))
    shape = service.operation_model("RunInstances").input_shape
    for kind in launcher("aws")["available_node_types"].values():
        wanted = {"MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(kind["node_config"] | wanted, shape).has_errors()
        wrong = kind["node_config"] | wanted | {"InstanceTyp": "x"}
        assert ParamValidator().validate(wrong, shape).has_errors()


# Slurm


def test_the_slurm_script_is_sound():
    lint("bash", "-n", str(SBATCH))
    lint(tool("shellcheck"), str(SBATCH))
    text = SBATCH.read_text()
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", text, re.MULTILINE))
    assert directives["signal"].startswith("B:TERM@")
    assert {"requeue", "exclusive"} <= set(directives)
    assert directives["ntasks-per-node"] == "1"
    assert not re.search(r"^#SBATCH", text.split("set -uo pipefail", 1)[1], re.MULTILINE)


SRUN = '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
SCONTROL = '#!/bin/bash\nif [[ $1 == show ]]; then echo 127.0.0.1; else echo "requeued $2"; fi\n'


@pytest.mark.parametrize(
    ("driver", "code", "reported"), [("exit 0", 0, ""), ("exit 3", 3, ""), ("exit 75", 75, "requeued 4711")]
)
def test_the_slurm_script_ends_as_the_driver_does(driver, code, reported, tmp_path):
    """With stand-ins for Slurm, Ray and the driver: the script's own logic."""
    ray = "#!/bin/bash\nif [[ $1 == start ]]; then exec sleep 60; fi\n"
    python = f'#!/bin/bash\nif [[ $1 == -c ]]; then echo 127.0.0.1; exit; fi\necho "driver $*"; {driver}\n'
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "ray": ray, "python": python}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "n0", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(SBATCH), "r.yaml", "/data", "--set", "anatomies=3"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    assert "xreal_synth.jobs.generate r.yaml --output-root /data --address 127.0.0.1:24711" in done.stdout
    assert "--set anatomies=3" in done.stdout
    assert reported in done.stdout
    assert ("requeued" in done.stdout) == bool(reported)


def test_the_slurm_script_asks_for_its_arguments(tmp_path):
    done = subprocess.run(["bash", str(SBATCH)], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode != 0
    assert "usage: sbatch" in done.stderr


# Containers


def test_the_dockerfile_is_sound():
    lint(tool("hadolint"), "--failure-threshold", "style", str(DOCKER / "Dockerfile"))


def test_torch_and_torchvision_are_of_one_index():
    """Of two they do not go together: torchvision's import ends."""
    text = (DOCKER / "Dockerfile").read_text()
    (line,) = re.findall(r"^ +pip install (.* --index-url .*); \\$", text, re.MULTILINE)
    assert line.split('--index-url "${TORCH_INDEX}"')[1].split() == ["torch", "torchvision"]
    assert "--no-deps -c /wheels/constraints.txt" in line


def test_what_the_dockerfile_copies_is_there_and_not_ignored():
    text = (DOCKER / "Dockerfile").read_text()
    copied = [
        line.split()[1:-1]
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for line in ["COPY " + line]
    ]
    sources = [source for line in copied for source in line]
    ignore = (DOCKER / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] != "root"


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def test_compose_holds_together():
    document = compose()
    services = document["services"]
    assert set(services) == {"head", "worker", "job"}
    for name, service in services.items():
        assert service["shm_size"] == "1gb"
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert set(service.get("depends_on", {})) <= set(services) - {name}
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in document["volumes"] or (DOCKER / source).resolve().is_dir()
        words = shlex.split(service["command"])
        inner = shlex.split(words[2].replace("$$", "$")) if words[0] == "bash" else words
        assert "--node-ip-address=$(hostname -i)" in inner or name == "job"
    assert (DOCKER / services["head"]["build"]["context"]).resolve() == ROOT
    assert all(port.startswith("127.0.0.1:") for port in services["head"]["ports"])


def test_compose_takes_its_file():
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not here; the file's structure is checked without it")
    command = [program, "--file", str(DOCKER / "compose.yaml"), "config", "--quiet"]

    def reported(**token: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"} | token
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    assert reported(RAY_AUTH_TOKEN="x") == ""
    assert "make one first" in reported()
