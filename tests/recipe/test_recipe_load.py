"""Good recipes load; every kind of bad input is told with its path and its hint, all at once."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.load import load_recipe, recipe_from_text
from xreal_synth.recipe.schema import json_schema

RECIPES = Path(__file__).parents[2] / "recipes"
SHIPPED = sorted(RECIPES.glob("*.yaml"))

GOOD = """\
version: 1
name: tiny
anatomies: 3
bundle: xreal-tiny
findings:
  - {weight: 1, labels: []}
  - {weight: 2, labels: [{name: Pneumonia, side: left}]}
  - {weight: 1, labels: [{name: Pneumonia, box: [0.1, 0.2, 0.4, 0.6]}]}
output: {uri: out/tiny}
"""


def problems(text: str = GOOD, *overrides: str) -> dict[str, Problem]:
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, "r.yaml", overrides)
    assert len({p.path for p in caught.value.problems}) == len(caught.value.problems)
    assert all(str(p) in str(caught.value).replace("\n  ", "\n") for p in caught.value.problems)
    return {p.path: p for p in caught.value.problems}


def test_the_shipped_recipes_load_and_fit_the_json_schema() -> None:
    assert {"pneumonia-balance", "quickstart", "smoke", "multi-finding"} <= {path.stem for path in SHIPPED}
    for path in SHIPPED:
        loaded = load_recipe(path)
        assert loaded.recipe.name == path.stem
        assert loaded.text == path.read_text()
        jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(loaded.text))


def test_the_json_schema_refuses_what_the_loader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    good = yaml.safe_load(GOOD)
    assert validator.is_valid(good)
    for change in ({"anatomies": 0}, {"sampels": 1}, {"findings": []}, {"findings": [{"weight": 1}]},
                   {"sampling": {"mode": "papre"}}):  # fmt: skip
        assert not validator.is_valid(good | change), change
    json.dumps(json_schema())


def test_defaults_and_aliases() -> None:
    recipe = recipe_from_text(GOOD.replace("{name: Pneumonia, side: left}", "{name: Pleural Effusion}"))
    assert recipe.findings[1].labels[0].name == "Effusion"
    assert recipe.findings[2].labels[0].box == (0.1, 0.2, 0.4, 0.6)
    assert recipe.seed == 0
    assert recipe.anatomy.source == "bank"
    assert recipe.sampling.steps is None
    assert recipe.output.shard_size == 64


def test_output_and_overrides_replace_and_are_validated() -> None:
    recipe = recipe_from_text(
        GOOD, "r", ["anatomies=7", "findings[1].labels[0].side=right", "sampling.steps=5"], output="/d"
    )
    assert (recipe.anatomies, recipe.output.uri, recipe.sampling.steps) == (7, "/d", 5)
    assert recipe.findings[1].labels[0].side == "right"
    assert recipe_from_text(GOOD, "r", ["anatomies=7", "anatomies=8"]).anatomies == 8
    masks = recipe_from_text(GOOD, "r", ["anatomy.source={masks: {path: my/masks}}"]).anatomy.source
    assert masks != "bank"
    assert masks.masks.path == "my/masks"


def test_output_given_makes_the_key_unneeded() -> None:
    text = GOOD.replace("output: {uri: out/tiny}\n", "")
    assert "--output" in problems(text)["output"].hint
    assert recipe_from_text(text, "r", output="out/x").output.uri == "out/x"


BAD = [
    # change of GOOD as overrides, path, in found, in wanted, in hint
    ("anatomies=0", "anatomies", "0", "at least 1", ""),
    ("anatomies=-3", "anatomies", "-3", "at least 1", ""),
    ("anatomies=2.0", "anatomies", "2.0", "whole number", "write 2"),
    ("anatomies=1_000", "anatomies", "1_000", "whole number", "write 1000"),
    ("anatomies=true", "anatomies", "true", "whole number", ""),
    ("anatomes=3", "anatomes", "unknown key", "anatomies", "did you mean `anatomies`"),
    ("samples=3", "samples", "unknown key", "anatomies", "write `anatomies`"),
    ("findings[0].films=any", "findings[0].films", "unknown key", "images", "write `images`"),
    ("steps=3", "steps", "unknown key", "sampling", "belongs in `sampling`"),
    ("side=left", "side", "unknown key", "", "belongs in `findings[].labels[]`"),
    ("sampling.stps=3", "sampling.stps", "command line", "steps", "did you mean `steps`"),
    ("seed=-1", "seed", "-1", "at least 0", ""),
    ("seed=9223372036854775808", "seed", "9223372036854775808", "at most 9223372036854775807", ""),
    ("version=2", "version", "2", "version: 1", "newer"),
    ("name=My Set", "name", "My Set", "lower-case", "my-set"),
    ("bundle=7", "bundle", "7", "text", "quotes"),
    ("findings=[]", "findings", "empty", "", "at least one"),
    ("findings=3", "findings", "3", "a list", ""),
    ("findings[0].weight=0", "findings[0].weight", "0", "above 0", "remove the row"),
    ("findings[0].weight=-1", "findings[0].weight", "-1", "above 0", "remove the row"),
    ("findings[0].weight=.nan", "findings[0].weight", "NaN", "", ""),
    ("findings[1].labels[0].name=Pneumona", "findings[1].labels[0].name", "Pneumona", "Edema", "`Pneumonia`"),
    ("findings[1].labels[0].name=pneumonia", "findings[1].labels[0].name", "pneumonia", "", "`Pneumonia`"),
    ("findings[1].labels[0].name=No Finding", "findings[1].labels[0].name", "No Finding", "", "labels: []"),
    ("findings[1].labels[0].side=lft", "findings[1].labels[0].side", "lft", "left, right", "`left`"),
    ("findings[1].labels[0].size=[0.4, 0.1]", "findings[1].labels[0].size", "0.4", "rising", "[0.1, 0.4]"),
    ("findings[1].labels[0].size=[0, 0.1]", "findings[1].labels[0].size", "0", "above 0", ""),
    ("findings[1].labels[0].size=0.1", "findings[1].labels[0].size", "0.1", "two", ""),
    ("findings[2].labels[0].box=[0.4, 0.2, 0.1, 0.6]", "findings[2].labels[0].box", "0.4", "x0 < x1", "corner"),
    ("findings[2].labels[0].box=[10, 20, 40, 60]", "findings[2].labels[0].box", "10", "shares", "pixels"),
    ("findings[2].labels[0].box=[0.1, -0.2, 0.4, 0.6]", "findings[2].labels[0].box", "-0.2", "0 <=", ""),
    ("findings[2].labels[0].side=left", "findings[2].labels[0].box", "`box` together", "either", "remove `box`"),
    ("findings[1].labels[0]={name: Edema, zone: upper}", "findings[1].labels[0].zone", "`zone`", "both lungs", "Edema"),
    ("findings[1].labels[0]={name: Cardiomegaly, side: both}", "findings[1].labels[0].side", "side", "the heart", ""),
    ("anatomy.source=bnk", "anatomy.source", "bnk", "bank", "`bank`"),
    ("anatomy.source=my/masks", "anatomy.source", "my/masks", "bank", "masks: {path: my/masks}"),
    ("anatomy.source={images: {path: x}, masks: {path: y}}", "anatomy.source", "images", "bank", "one of them"),
    ("anatomy.source={image: {path: x}}", "anatomy.source", "image", "bank", "`images`"),
    ("anatomy.source={mask: {path: x}}", "anatomy.source", "mask", "bank", "`masks`"),
    ("anatomy.source={masks: {pth: x, path: x}}", "anatomy.source.masks.pth", "unknown", "path", "`path`"),
    ("anatomy.augment.heart_scale=[0.1, 1]", "anatomy.augment.heart_scale", "0.1", "0.5 to 2", ""),
    ("anatomy.augment.heart_scale=3", "anatomy.augment.heart_scale", "3", "0.5 to 2", ""),
    ("anatomy.augment.lungs_scale=[0.9, 1.4]", "anatomy.augment.lungs_scale", "1.4", "0.7 to 1.3", ""),
    ("anatomy.augment.lungs_scale=[1.2, 0.9]", "anatomy.augment.lungs_scale", "1.2", "0.7 to 1.3", "[0.9, 1.2]"),
    ("anatomy.augment.shift=-1", "anatomy.augment.shift", "-1", "a number, at least 0 and at most 0.2", ""),
    ("sampling.steps=0", "sampling.steps", "0", "a whole number, at least 1 and at most 1000", ""),
    ("sampling.steps=ten", "sampling.steps", "ten", "a whole number, at least 1 and at most 1000", ""),
    ("sampling.guidance=99", "sampling.guidance", "99", "a number, at least 0 and at most 50", ""),
    ("labels.negative_below=1", "labels.negative_below", "1", "a number, above 0 and below 1", ""),
    ("sampling.mode=papre", "sampling.mode", "papre", "branch, reference, paper", "`paper`"),
    ("sampling={mode: paper, soft: 0.2, guidance: 7.0}", "sampling.soft", "soft: 0.2, guidance", "print", "remove"),
    ("sampling={mode: paper, solver: multistep}", "sampling.solver", "solver: \"multistep\" with", "print", "remove"),
    ("sampling={mode: reference, steps: 30}", "sampling.steps", "steps: 30", "divides 1000", "25 or 40"),
    ("sampling.hold=1.5", "sampling.hold", "1.5", "at most 1", ""),
    ("sampling.control=control-net", "sampling.control", "control-net", "xreal, controlnet, none", "`controlnet`"),
    ("sampling={control: none, hold: 0.5}", "sampling.hold", "hold: 0.5 with control: none", "xreal alone", "remove"),
    ("sampling={control: controlnet, soft: 0}", "sampling.soft", "soft: 0", "xreal alone", "remove `soft`"),
    ("sampling.resample=0", "sampling.resample", "0", "at least 1", ""),
    ("quality.profile=strikt", "quality.profile", "strikt", "none, standard, strict", "`strict`"),
    ("quality.checks.organs.hart=0.8", "quality.checks.organs.hart", "unknown key", "heart", "`heart`"),
    ("quality.checks.organs.heart=1.8", "quality.checks.organs.heart", "1.8", "at most 1", ""),
    ("quality.checks.seam.action=drop", "quality.checks.seam.action", "drop", "off, warn, reject", ""),
    ("labels.unrequested=cheked", "labels.unrequested", "cheked", "negative, unknown, checked", "`checked`"),
    ("labels.negative_below=0.2", "labels.negative_below", "without `checked`", "checked", "remove"),
    ("pairs.twin=yes", "pairs.twin", "yes", "true or false", "write true"),
    ("pairs.sham=1.5", "pairs.sham", "1.5", "at most 1", ""),
    ("findings[0]={weight: 1}", "findings[0].labels", "missing", "`variants`", "`labels: []`"),
    ("findings[1].variants=[{labels: [Mass]}]", "findings[1].variants[0].labels[0]", "Mass", "group of keys", ""),
    ("findings[1].variants=[{labels: []}]", "findings[1].variants[0].labels", "empty", "", "at least one"),
    (
        "findings[1].variants=[{labels: [{name: Mass}]}]", "findings[1].variants",
        "`variants` together with `labels`", "one of them", "first of the variants",
    ),
    ("anatomy.source={masks: {path: x, suffix: png}}", "anatomy.source.masks.suffix", "png", ".anatomy.png", ""),
    ("placement.overlap=never", "placement.overlap", "never", "allow", ""),
    ("pairs.variants=0", "pairs.variants", "0", "at least 1", ""),
    ("split={val: 0.7, test: 0.7}", "split", "1.4", "at most 1", "lower"),
    ("output.upscale=1", "output.upscale", "1", "at least 2", ""),
    ("output.upscale=4x", "output.upscale", "4x", "whole number", ""),
    ("sampling.upscale_steps=10", "sampling.upscale_steps", "without `output.upscale`", "both or neither", "remove"),
    ("output.shard_samples=0", "output.shard_samples", "0", "auto, or a whole number from 1 to 10000", ""),
    ("output.shard_samples=Auto", "output.shard_samples", "Auto", "auto", ""),
    ("compute.actors=1.5", "compute.actors", "1.5", "whole number", ""),
    ("compute.actors={min: 5, max: 4}", "compute.actors.min", "min 5 above max 4", "min up to max", "min: 4"),
    ("compute.actors={min: 2}", "compute.actors.max", "not given", "", "max"),
    ("compute.gpus_per_actor=2", "compute.gpus_per_actor", "2", "a share of one GPU", "write 1"),
    ("compute.boot_timeout=60", "compute.boot_timeout", "unknown key", "boot_timeout_s", "boot_timeout_s"),
    ("compute.precision=fp16", "compute.precision", "fp16", "bf16", ""),
    ("placement.prior=nih", "placement.prior", "nih", "nih-rsna", ""),
    ("anatomies.x=1", "--set anatomies.x=1", "`anatomies` is 3", "", "anatomies={"),
    ("findings[9].weight=1", "--set findings[9].weight=1", "[9]", "items 0 to 2", ""),
    ("findings.0.weight=1", "--set findings.0.weight=1", "which has no keys", "", ""),
    ("anatomies", "--set anatomies", "not an override", "KEY.PATH=VALUE", ""),
    ("a..b=1", "--set a..b=1", "not an override", "KEY.PATH=VALUE", ""),
    ("name=[1", "--set name=[1", "not YAML", "", ""),
    ("name=!!python/name:os.system x", "--set name=!!python/name:os.system x", "tag", "without tags", ""),
]  # fmt: skip


@pytest.mark.parametrize(("change", "path", "found", "wanted", "hint"), BAD, ids=[case[0] for case in BAD])
def test_bad_values_are_reported(change: str, path: str, found: str, wanted: str, hint: str) -> None:
    reported = problems(GOOD, change)
    assert list(reported) == [path]
    assert found in reported[path].found
    assert wanted in reported[path].wanted
    assert hint in reported[path].hint
    for word in ("pydantic", "validat", "Input should", "type=", "Literal"):
        assert word not in str(reported[path])


def test_weights_that_sum_to_nothing_are_reported_row_by_row() -> None:
    reported = problems(GOOD, *(f"findings[{i}].weight=0" for i in range(3)))
    assert list(reported) == [f"findings[{i}].weight" for i in range(3)]


def test_every_problem_comes_at_once_with_its_line() -> None:
    text = GOOD.replace("anatomies: 3", "anatomies: 0").replace("side: left", "sid: left") + "split: {val: 2}\n"
    reported = problems(text, "bundel=x", "findings[7]=1")
    assert set(reported) == {"anatomies", "findings[1].labels[0].sid", "split.val", "bundel", "--set findings[7]=1"}
    assert "(line 3)" in reported["anatomies"].found
    assert "(line 7)" in reported["findings[1].labels[0].sid"].found
    assert "command line" in reported["bundel"].found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [1, 2", "not YAML"),
        ("a:\n\t- b", "not YAML"),
        ("a: 'x", "not YAML"),
        ("", "an empty file"),
        ("- 1\n- 2", "[1, 2]"),
        ("just words", "just words"),
        ("a: !!python/object/apply:os.system ['true']", "YAML tag"),
        ("a: !local x", "YAML tag"),
        ("a: &x [1]\nb: 2", "anchor `&x`"),
        ("a: 1\na: 2", "a second time"),
        ("? [1, 2]\n: 3", "not a word"),
        ("a: 1\n---\nb: 2", "second document"),
        ("a: " + "[" * 5000, "nesting"),
        ("a: \x07", "not YAML"),
        ("a: " + "x" * 1_100_000, "bytes"),
    ],
)
def test_bad_yaml_is_reported(text: str, found: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, "r.yaml")
    assert found in str(caught.value)


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    assert any("*a10" in p.found for p in problems_of_text("\n".join(lines)))


def problems_of_text(text: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        recipe_from_text(text, "r.yaml")
    return list(caught.value.problems)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match=r"No such file[\s\S]*other\.yaml"):
        load_recipe(tmp_path / "missing.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(RecipeError, match="not a text file"):
        load_recipe(tmp_path / "bytes.yaml")


def test_yaml_words_are_not_converted() -> None:
    for text in ("yes", "010", "12:30", "0x10", "1_000"):
        assert recipe_from_text(GOOD, "r", [f"bundle={text}"]).bundle == text
    assert recipe_from_text(GOOD, "r", ["sampling.guidance=1e1"]).sampling.guidance == 10.0


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
_sections = ["version", "name", "anatomies", "anatomy", "findings", "sampling", "output", "compute", "split", "x"]


def reported_or_loaded(text: str, *overrides: str) -> int:
    """How many problems there are; any other exception is the test's failure."""
    try:
        recipe_from_text(text, "r.yaml", overrides)
    except RecipeError as error:
        return len(error.problems)
    return 0


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(_sections), _values)
def test_any_value_anywhere_loads_or_is_reported(section: str, value: object) -> None:
    text = yaml.safe_dump(yaml.safe_load(GOOD) | {section: value}, allow_unicode=True)
    count = reported_or_loaded(text)
    assert count or section != "x"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_reported(text: str) -> None:
    assert reported_or_loaded(text) > 0


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["", "anatomies", "findings[0]", "sampling.steps", "x"]), st.text(max_size=20))
def test_any_override_loads_or_is_reported(key: str, text: str) -> None:
    count = reported_or_loaded(GOOD, f"{key}={text}")
    assert count or key not in ("", "x")


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e400"])
def test_numbers_without_an_integer_are_reported(text: str) -> None:
    assert reported_or_loaded(GOOD, f"anatomies={text}") == 1
