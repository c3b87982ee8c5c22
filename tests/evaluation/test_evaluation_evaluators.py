"""Evaluator networks: checked by hash, loaded strictly."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from xreal_synth.errors import BundleError
from xreal_synth.evaluation import evaluators
from xreal_synth.evaluation.evaluators import SHIPPED_EVALUATORS, load_evaluators, write_evaluators
from xreal_synth.models.describe import describe
from xreal_synth.models.load import load_network

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def broken(evaluators: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluators, tmp_path / "evaluators"))


def test_evaluators_load_ready_to_judge(evaluators: Path) -> None:
    found = load_evaluators(evaluators)
    assert found.findings == ("Pneumonia", "Infiltration", "Atelectasis", "Effusion", "Edema")
    assert not found.classifier.training
    assert not any(p.requires_grad for p in found.segmenter.parameters())


def test_the_shipped_evaluators_are_small_and_not_the_bundles_own() -> None:
    found = load_evaluators()
    info = describe("xreal-mini")
    assert set(found.findings) == set(info.prompts)
    assert sum(path.stat().st_size for path in SHIPPED_EVALUATORS.rglob("*")) < 12_000_000
    for part, evaluator in (("segmenter", found.segmenter), ("classifier", found.classifier)):
        own = load_network(info, part)
        assert {n: p.shape for n, p in own.named_parameters()} != {n: p.shape for n, p in evaluator.named_parameters()}


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda f: flip_last_byte(f / "classifier" / WEIGHTS), "not the file"),
        (lambda f: (f / "segmenter" / WEIGHTS).unlink(), "missing"),
        (lambda f: (f / "segmenter" / WEIGHTS).write_bytes(b"short"), "another file"),
        (lambda f: (f / "evaluators.json").unlink(), "cannot be read"),
        (lambda f: (f / "evaluators.json").write_text("{"), "evaluators.json"),
        (lambda f: (f / "evaluators.json").write_text('{"format_version": 2, "files": {}}'), "format_version"),
        (lambda f: (f / "evaluators.json").write_text('{"files": {"../x": {}}}'), r"\.\./x"),
        (lambda f: (f / "evaluators.json").write_text('{"files": {}}'), "not listed"),
    ],
)
def test_a_spoilt_folder_is_refused(broken: Path, spoil: Callable[[Path], object], named: str) -> None:
    spoil(broken)
    with pytest.raises(BundleError, match=named) as caught:
        load_evaluators(broken)
    assert caught.value.hint


def test_a_network_of_another_kind_is_refused(broken: Path) -> None:
    config = broken / "classifier" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "OrganSegmenter"}))
    write_evaluators(broken)
    with pytest.raises(BundleError, match="OrganSegmenter"):
        load_evaluators(broken)
    config.write_text(json.dumps({**json.loads(config.read_text()), "_class_name": "FindingClassifier", "width": 9}))
    write_evaluators(broken)
    with pytest.raises(BundleError, match="do not belong together"):
        load_evaluators(broken)


def test_a_locator_is_an_optional_part_and_the_only_one_with_places(
    with_locator: Path, evaluators: Path, tmp_path: Path
) -> None:
    assert (load_evaluators(evaluators).locator, load_evaluators(evaluators).placed_findings) == (None, ())
    found = load_evaluators(with_locator)
    assert found.placed_findings == ("Edema", "Pneumonia", "Mass")
    assert found.locator is not None
    folder = Path(shutil.copytree(with_locator, tmp_path / "swapped"))
    shutil.rmtree(folder / "locator")
    shutil.copytree(folder / "classifier", folder / "locator")
    write_evaluators(folder)
    with pytest.raises(BundleError, match="without maps of places"):
        load_evaluators(folder)
    shutil.rmtree(folder / "locator")
    with pytest.raises(BundleError, match="locator"):
        load_evaluators(folder)


def test_the_command_writes_the_record(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (broken / "evaluators.json").read_text()
    (broken / "evaluators.json").unlink()
    monkeypatch.setattr(sys, "argv", ["evaluators", str(broken)])
    assert evaluators.main() == 0
    assert (broken / "evaluators.json").read_text() == before
    (broken / "classifier" / WEIGHTS).unlink()
    assert evaluators.main() == 2
    assert "export" in capsys.readouterr().err
