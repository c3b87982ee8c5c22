"""A run handed to a cluster through Ray's job API, and followed to its end."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import ray
from ray.dashboard.modules.job.common import JobStatus
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from xreal_synth.engine.job_package import JobPackage
from xreal_synth.engine.progress import COMPLETE, STOPPED
from xreal_synth.engine.ray_session import environment
from xreal_synth.errors import EngineError
from xreal_synth.opening import parse_json
from xreal_synth.storage import is_loopback, scrubbed

STOP_MARGIN_S: Final = 240.0
"""What a stopping run may take beyond its drain: closing actors, uploading what is made."""

LOST_S: Final = 300.0
"""How long a cluster that does not answer is waited for while a job is followed."""

_FAILED: Final = 1
_ASK_S: Final = 15.0
_MOST_REPORTED: Final = 65_536
_OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_UNREACHED = (ConnectionError, RuntimeError, OSError, aiohttp.ClientError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster's job API. `ray_version` is the one that runs there, `open` says that it asks for no token."""

    client: JobSubmissionClient
    address: str
    ray_version: str
    open: bool = False

    @property
    def notes(self) -> list[str]:
        """What to know before anything is sent to it: that it asks for no token, or has another Ray than this machine,
        which the job API bridges."""
        notes = []
        if self.ray_version != ray.__version__:
            notes.append(
                f"Ray {ray.__version__} here, {self.ray_version} on the cluster: the job runs with the cluster's, and "
                "so does what was checked here not prove that its image is of this version of the package"
            )
        if self.open:
            notes.append(f"{self.address} asks for no token: whoever reaches it can run code there, and read what runs")
        return notes


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended: the driver's own exit code where Ray knows it, and Ray's message otherwise."""

    exit_code: int
    message: str


def connect(address: str, *, plain_token: bool = False) -> Cluster:
    """The cluster whose dashboard is at `address`, `http://HOST:8265`; whether it asks for a token is looked at first,
    without one. `plain_token` lets a token go over http:// beyond this machine.

    RAY_ADDRESS, which Ray would take instead, is left aside. Raises EngineError, without the token.
    """
    if not address.startswith(("http://", "https://")):
        raise EngineError(
            where="--address", found=address, wanted="the dashboard's address, http://HOST:8265",
            hint="the head prints it when it starts; on a cluster, forward port 8265 to this machine first",
        )  # fmt: skip
    if "@" in address or "?" in address:
        raise EngineError(
            where="--address", found="credentials or a query in it", wanted="http://HOST:8265",
            hint="give the token in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token",
        )  # fmt: skip
    with_token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token"
    if with_token and not plain_token and address.startswith("http://") and not is_loopback(address):
        raise EngineError(
            where="--address", found=f"a token would go to {address} unencrypted", wanted="https://, or loopback",
            hint="forward port 8265 to this machine (ssh -L, kubectl port-forward); on a network that you trust, say "
            "--plain-token",
        )  # fmt: skip
    with environment(dict.fromkeys(_OVERRIDES)), _reported(address):
        mode = _authentication(address)
        client = JobSubmissionClient(address)
        version = str(client._server_ray_version)
    return Cluster(client, address, version, mode == "disabled")


def _authentication(address: str) -> str | None:
    """What the dashboard says of its tokens, asked without one; None from a Ray that does not say."""
    try:
        asked = f"{address.rstrip('/')}/api/authentication_mode"
        with urllib.request.urlopen(asked, timeout=_ASK_S) as answer:  # noqa: S310 (http:// or https://, looked at)
            reported = parse_json(answer.read(_MOST_REPORTED))
    except (urllib.error.HTTPError, ValueError):
        return None
    mode = reported.get("authentication_mode") if isinstance(reported, dict) else None
    return mode if isinstance(mode, str) else None


def submit(cluster: Cluster, package: JobPackage, arguments: Sequence[str], *, name: str, drain_s: float) -> str:
    """Uploads the package and starts the job; its id. `arguments` are those of xreal_synth.jobs.generate, `name` is
    how Ray's dashboard names the job.

    Raises EngineError.
    """
    import shlex

    own = [] if package.code else ["-P"]  # nothing is imported from the working directory
    entry = ["python", *own, "-u", "-m", "xreal_synth.jobs.generate", str(package.recipe), *arguments]
    with tempfile.TemporaryDirectory(prefix="xreal-job-") as folder:
        archive = Path(folder) / "package.zip"
        package.write(archive)
        with _reported(cluster.address):
            return str(
                cluster.client.submit_job(
                    entrypoint=shlex.join(entry),
                    runtime_env={
                        "working_dir": str(archive),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{drain_s + STOP_MARGIN_S:.0f}"},
                    },
                    metadata={"job_name": name, "recipe": str(package.recipe)},
                )
            )


def follow(cluster: Cluster, job: str, say: Callable[[str], None]) -> JobEnd:
    """Passes on what the job prints until it ends; lost connections are taken up again where they broke.

    Raises EngineError if the cluster does not answer for LOST_S; the job may go on.
    """
    said, lost_at = 0, None

    async def listen() -> None:
        """What the job prints comes from its beginning at each connection, and is said once."""
        nonlocal said
        seen = 0
        async for text in cluster.client.tail_job_logs(job):
            fresh = text[max(said - seen, 0) :]
            seen += len(text)
            if fresh:
                said = seen
                say(fresh)

    while True:
        try:
            asyncio.run(listen())
            info = cluster.client.get_job_info(job)
            lost_at = None
            if info.status.is_terminal():
                return _end_of(info)
        except _UNREACHED as error:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > LOST_S:
                raise _not_answering(cluster.address, error) from error
        time.sleep(1)


def _end_of(info: Any) -> JobEnd:
    message = str(info.message or "").strip()
    if info.driver_exit_code is not None:
        return JobEnd(int(info.driver_exit_code), message)
    if info.status == JobStatus.SUCCEEDED:
        return JobEnd(COMPLETE, message)
    return JobEnd(STOPPED if info.status == JobStatus.STOPPED else _FAILED, message)


@contextmanager
def _reported(address: str) -> Iterator[None]:
    """Ray's and the network's errors as ours."""
    try:
        yield
    except AuthenticationError as error:
        raise EngineError(
            where=address, found="the cluster refuses this token, or asks for one", wanted="the cluster's token",
            hint="export RAY_AUTH_MODE=token, and the token in RAY_AUTH_TOKEN or ~/.ray/auth_token",
        ) from error  # fmt: skip
    except _UNREACHED as error:
        raise _not_answering(address, error) from error


def _not_answering(address: str, error: BaseException) -> EngineError:
    return EngineError(
        where=address, found=f"no answer from the cluster's job API: {scrubbed(str(error))}",
        wanted="a running cluster's dashboard", hint="check the address, that its port is forwarded, RAY_AUTH_MODE",
    )  # fmt: skip
