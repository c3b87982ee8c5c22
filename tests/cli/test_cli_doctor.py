"""`xreal-synth doctor` on this machine, and what it says of one that lacks something."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from xreal_synth.cli import doctor
from xreal_synth.cli.main import main
from xreal_synth.from_recipe import plan


def looked(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: str) -> tuple[int, dict[str, Any]]:
    monkeypatch.setattr("sys.argv", ["xreal-synth", "doctor", "--no-ray", "--json", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_this_machine_is_well(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path / "cache"))
    before = plan("quickstart").cost
    code, said = looked(monkeypatch, capsys, "-o", str(tmp_path / "out"))
    assert code == 0, said
    (file,) = (tmp_path / "cache/speeds").iterdir()
    assert str(file) in said["checks"]["speed"]["found"]
    after = plan("quickstart").cost
    ((device, seconds),) = after.device_seconds.items()
    (kept,) = json.loads(file.read_text()).values()
    assert before.device_seconds == {}
    assert seconds == pytest.approx(kept[device] * after.evaluations)
    assert f"{kept[device]:.3f} s for a network evaluation" in said["checks"]["speed"]["found"]
    assert said["ok"]
    assert {"python", "packages", "device", "memory", "storage", "arithmetic", "speed"} <= set(said["checks"])
    assert all(check["state"] in ("good", "note") for check in said["checks"].values())
    assert not list((tmp_path / "out").iterdir()), "nothing is left"


def test_what_is_wrong_is_told_beside_the_rest(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(doctor, "REFERENCE", tuple(value + 3 for value in doctor.REFERENCE))
    monkeypatch.setattr(doctor, "EXTRAS", {"nothing": "no_such_package"})
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("x" * 100)))
    monkeypatch.setattr(doctor, "_speed", lambda bundle: ("", ""))
    code, said = looked(monkeypatch, capsys, "-o", str(tmp_path / "file"))
    assert code == 2
    assert not said["ok"]
    states = {name: check["state"] for name, check in said["checks"].items()}
    assert (states["storage"], states["arithmetic"], states["python"]) == ("bad", "bad", "good")
    assert states["extras"] == "note"
    assert "xreal-synth[nothing]" in said["checks"]["extras"]["hint"]
    assert "too long" in said["checks"]["socket paths"]["found"]
    apart = re.search(r"within ([0-9.]+) grey levels", said["checks"]["arithmetic"]["found"])
    assert apart
    assert 2 < float(apart[1]) < 4
