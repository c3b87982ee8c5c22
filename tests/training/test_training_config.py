from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from xreal_synth.errors import TrainingError
from xreal_synth.training.config import config_tree, load_config, parse_config
from xreal_synth.training.settings import ClassifierSettings, DenoiserSettings, SegmenterSettings

SHIPPED = Path(str(files("xreal_synth.training") / "configs"))


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_are_valid_and_survive_a_round_trip(path: Path) -> None:
    network = yaml.safe_load(path.read_text(encoding="utf-8"))["network"]
    config = load_config(network, path)
    assert parse_config(network, config_tree(config), "again") == config


@pytest.mark.parametrize("network", ["segmenter", "classifier"])
def test_a_judge_is_of_another_build_and_seed(network: str) -> None:
    mini, judge = (load_config(network, SHIPPED / f"{name}-{network}.yaml") for name in ("mini", "evaluator"))
    assert isinstance(mini.model, SegmenterSettings | ClassifierSettings)
    assert isinstance(judge.model, SegmenterSettings | ClassifierSettings)
    assert mini.model.kind != judge.model.kind
    assert mini.seed != judge.seed


def test_an_override_reaches_its_key() -> None:
    config = load_config("denoiser", SHIPPED / "mini-denoiser.yaml", ["loop.steps=7", "model.channels=[32, 64]"])
    assert isinstance(config.model, DenoiserSettings)
    assert (config.loop.steps, config.model.channels) == (7, (32, 64))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("loop.stepps=3", "loop.stepps"),
        ("loop.steps=-1", "loop.steps"),
        ("model.heads=[1]", "model.heads"),
        ("loop.steps.more=3", "override"),
        ("loop.steps", "override"),
        ("network=segmenter", "network"),
    ],
)
def test_a_wrong_override_is_named(override: str, named: str) -> None:
    with pytest.raises(TrainingError, match=named):
        load_config("denoiser", SHIPPED / "mini-denoiser.yaml", [override])


@pytest.mark.parametrize(
    ("override", "found", "hint"),
    [
        ("loop.stepps=3", "loop.stepps: unknown key", "did you mean `loop.steps`?"),
        ("lop.steps=3", "lop: unknown key", "did you mean `loop`?"),
        ("steps=3", "steps: unknown key", "did you mean `loop.steps`?"),
        ("data.warp.rotate=3", "data.warp.rotate: unknown key", "did you mean `data.warp.rotate_deg`?"),
        ("data.draw={boxd: 2}", "data.draw.boxd: unknown key", "did you mean `data.draw.boxed`?"),
        ("model.atention=[true]", "model.atention: unknown key", "did you mean `model.attention`?"),
        ("model.prediction=v-prediction", "model.prediction: Input should be", "did you mean `v_prediction`?"),
        ("loop.zzz=1", "loop.zzz: unknown key", "`loop` has steps, batch, lr"),
        ("zzz=1", "zzz: unknown key", "`a config` has network, loop, model"),
    ],
)
def test_a_key_that_is_nearly_right_has_the_right_one_as_its_hint(override: str, found: str, hint: str) -> None:
    with pytest.raises(TrainingError) as told:
        load_config("denoiser", SHIPPED / "mini-denoiser.yaml", [override])
    assert found in told.value.found
    assert hint in told.value.hint
    assert "not 3" not in told.value.found


@pytest.mark.parametrize("text", ["- a list", "network: [", "network: denoiser\nsurprise: 1\n"])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TrainingError, match=r"broken\.yaml"):
        load_config("denoiser", path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"none\.yaml"):
        load_config("denoiser", tmp_path / "none.yaml")


@pytest.mark.parametrize("text", ["loop.steps=[", f"loop.steps={'[' * 3000}", f"loop.steps={'{a: ' * 3000}"])
def test_an_override_that_is_no_yaml_is_reported(text: str) -> None:
    with pytest.raises(TrainingError, match="override"):
        load_config("denoiser", SHIPPED / "mini-denoiser.yaml", [text])
