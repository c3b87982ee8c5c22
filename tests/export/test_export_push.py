"""`export --to hf --push` against a Hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.doubles.hub import TOKEN, Hub, hub_server
from xreal_synth.cli import export as command
from xreal_synth.cli.main import main

Call = Callable[..., int]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as running:
        yield running


@pytest.fixture
def call(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs the verb here, the Hub's client set as its variables would have set it before it was imported."""
    for name, value in {
        "ENDPOINT": hub.address, "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    for name in ("HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    def run(*arguments: object) -> int:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_on_the_hub_as_it_was_exported(hub: Hub, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0",
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-m", "xreal_synth", "export", dataset, out, "--to", "hf", "--push", "me/chests", "--json"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["pushed"] == f"{hub.address}/datasets/me/chests"
    pushed = hub.files["me/chests"]
    assert pushed.pop(".gitattributes") == b""
    assert pushed == contents(out)
    assert {Path(name).suffix for name in pushed} >= {".md", ".parquet"}
    assert len(hub.large) == len([name for name in pushed if name.endswith((".parquet", ".png"))]) > 0
    assert hub.private == {"me/chests": True}
    assert TOKEN not in ended.stdout + ended.stderr


def test_public_is_asked_for(hub: Hub, dataset: Path, tmp_path: Path, call: Call) -> None:
    assert call(dataset, tmp_path / "out", "--to", "hf", "--push", "ward/chests", "--public") == 0
    assert hub.private == {"ward/chests": False}


@pytest.mark.parametrize(
    ("arguments", "found", "hint"),
    [
        ("--to coco --push me/x", "--push with --to coco", "--to hf --push me/x"),
        ("--to hf --public", "--public without --push", "--push OWNER/NAME --public"),
        ("--to hf --push me/full", "me/full holds a.parquet already", "another name"),
        ("--to hf --push me/shown", "me/shown is there and public", "--public, if everyone"),
        ("--to hf --push me/hidden --public", "me/hidden is there and private", "leave --public out"),
        ("--to hf --push me//x", "me//x is no name of a repository", "export -h"),
        ("--to hf --push wart/x", "wart/x, and the token is me's", "did you mean `ward`?"),
    ],
)
def test_what_is_refused(
    hub: Hub,
    dataset: Path,
    tmp_path: Path,
    call: Call,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    found: str,
    hint: str,
) -> None:
    hub.files = {"me/full": {"a.parquet": b"1"}, "me/shown": {}, "me/hidden": {".gitattributes": b""}}
    hub.private = {"me/full": True, "me/shown": False, "me/hidden": True}
    before = {repo: dict(files) for repo, files in hub.files.items()}
    assert call(dataset, tmp_path / "out", *arguments.split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert found in said
    assert hint in said.partition("hint:")[2]
    assert not (tmp_path / "out").exists()
    assert hub.files == before


def test_no_token_a_wrong_one_and_no_hub(
    hub: Hub,
    dataset: Path,
    tmp_path: Path,
    call: Call,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = (dataset, tmp_path / "out", "--to", "hf", "--push", "me/x")

    def read_only() -> None:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        hub.role = "read"

    cases = {
        "no token for the Hugging Face Hub": lambda: monkeypatch.delenv("HF_TOKEN"),
        "the Hub answered 401": lambda: monkeypatch.setenv("HF_TOKEN", "hf_another0canary0"),
        "a token that may only read": read_only,
        "http:// on another machine": lambda: monkeypatch.setattr(constants, "ENDPOINT", "http://hub.example.com"),
        "no answer of the Hub": lambda: monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1"),
        "no answer of the Hub: Cannot reach": lambda: monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True),
    }
    for found, happen in cases.items():
        happen()
        assert call(*arguments) == 2
        said = capsys.readouterr().err
        assert found in said
        assert "hint:" in said
        assert "canary" not in said
        assert not (tmp_path / "out").exists()
    assert not hub.files


@pytest.mark.parametrize("part", ["/create", "/lfs/", "/commit/"])
def test_a_push_that_breaks_off_leaves_the_export(
    hub: Hub, dataset: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    hub.refuse = {part: 403}
    assert call(dataset, tmp_path / "out", "--to", "hf", "--push", "me/x") == 2
    said = capsys.readouterr().err
    assert "the Hub answered 403" in said
    assert f"hf upload me/x {tmp_path / 'out'} --repo-type dataset" in " ".join(said.split())
    assert TOKEN not in said
    assert (tmp_path / "out/data").is_dir()
    assert hub.files == ({} if part == "/create" else {"me/x": {".gitattributes": b""}})


def test_patients_images_are_not_made_public(hub: Hub) -> None:
    with pytest.raises(command.StorageError, match="the images are patients'"):
        command._check_push("me/x", public=True, real_images=True)
    assert not hub.seen
