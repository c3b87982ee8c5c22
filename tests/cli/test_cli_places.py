"""Places and texts that a command meets: unwritable, odd, bracketed; told in a sentence, never a traceback."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xreal_synth.cli.main import main
from xreal_synth.engine import ray_session
from xreal_synth.errors import EngineError, StorageError
from xreal_synth.models.describe import SHIPPED
from xreal_synth.uris import is_remote, local_folder

SMOKE = Path(__file__).parents[2] / "recipes/smoke.yaml"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["xreal-synth", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_brackets_and_colons_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for odd in ("run[/x]", "run[red]x", "run:dog:"):
        assert run(monkeypatch, "plan", SMOKE, "--output", tmp_path / odd) == 0
        assert odd in capsys.readouterr().out
    bundle = tmp_path / "bundle"
    shutil.copytree(SHIPPED / "xreal-tiny", bundle)
    text = (bundle / "bundle.json").read_text()
    (bundle / "bundle.json").write_text(
        text.replace('"training_data": "', '"training_data": "[/ward] [b]', 1)
    )
    assert run(monkeypatch, "bundle", "show", bundle) == 0
    assert "[/ward] [b]" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{" * 3000, "? " * 3000 + "a", "[" * 3000, "a: " + "{b: " * 3000])
def test_deep_nesting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "deep.yaml").write_text(text)
    assert run(monkeypatch, "plan", tmp_path / "deep.yaml") == 2
    assert "deeper than 20" in capsys.readouterr().err


def test_a_place_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert run(monkeypatch, "preview", SMOKE, "-n", "1", "--out", tmp_path / "file/x.png") == 2
    assert str(tmp_path / "file") in capsys.readouterr().err.replace("\n", "")


def test_a_full_disk_is_told_and_our_own_bugs_are_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for code, told in ((errno.ENOSPC, True), (errno.EBADF, False)):

        def fail(*_: object, code: int = code, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr("xreal_synth.report.contact_sheet.contact_sheet", fail)
        given = ("preview", SMOKE, "-n", "1", "--out", tmp_path / "x.png")
        if told:
            assert run(monkeypatch, *given) == 2
            assert os.strerror(code) in capsys.readouterr().err
        else:
            with pytest.raises(OSError, match=os.strerror(code)):
                run(monkeypatch, *given)


def test_a_long_temporary_folder_gives_ray_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", f"/tmp/{'x' * 60}")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(ray_session, "_SHORT_FOLDERS", (str(tmp_path / "nowhere"), "/tmp"))
    assert ray_session._short_folder() == {"RAY_TMPDIR": "/tmp"}
    monkeypatch.setattr(ray_session, "_SHORT_FOLDERS", ())
    with pytest.raises(EngineError, match="RAY_TMPDIR"):
        ray_session._short_folder()
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert ray_session._short_folder() == {}


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a%20b/c", "/a b/c"), ("file://localhost/a%25", "/a%"), ("file:/a/b", "/a/b"), ("/a%20b", "/a%20b"),
        ("a b", "a b"), ("local:///x", "/x"),
    ],
)  # fmt: skip
def test_file_uris_are_paths(uri: str, path: str) -> None:
    assert not is_remote(uri)
    assert local_folder(uri) == Path(path)


def test_what_comes_back_from_as_uri_is_the_path(tmp_path: Path) -> None:
    for odd in ("a b", "ä%20", "[x]#?", "100%"):
        assert local_folder((tmp_path / odd).as_uri()) == tmp_path / odd


@pytest.mark.parametrize("uri", ["file://host/x", "~nobody-of-this-name/x"])
def test_places_that_are_not_here_are_refused(uri: str) -> None:
    with pytest.raises(StorageError):
        local_folder(uri)


def test_no_home_and_no_name_in_the_system(tmp_path: Path) -> None:
    """As in a container that runs under a number alone."""
    code = (
        "import pwd, sys\n"
        "def nobody(number): raise KeyError(number)\n"
        "pwd.getpwuid = nobody\n"
        "sys.argv = ['xreal-synth', *sys.argv[1:]]\n"
        "from xreal_synth.cli.main import main\nmain()\n"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", SMOKE, "--output", "/tmp/x"], env=environment, cwd="/",
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
