"""What a user gets wrong: each ends with exit code 2, found, wanted and a hint, no traceback, and nothing written."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.doubles.fakes import fake_groups, fake_head, publish_fakes
from tests.doubles.image_folder import MANIFEST, write_image_folder
from tests.doubles.schematic import schematic_mask
from xreal_synth.cli import output
from xreal_synth.cli.main import main
from xreal_synth.dataset.finish import finish
from xreal_synth.dataset.head import head_bytes, open_dataset
from xreal_synth.models.describe import SHIPPED
from xreal_synth.models.save import read_fields, write_bundle
from xreal_synth.recipe.load import load_recipe
from xreal_synth.report.build import build
from xreal_synth.run.setup import claim, open_run
from xreal_synth.storage import LocalStore
from xreal_synth.types import ShardPlan

RECIPE = {
    "version": 1, "name": "bad", "seed": 1, "anatomies": 4, "bundle": "xreal-tiny",
    "findings": [{"weight": 1, "labels": []}, {"weight": 1, "labels": [{"name": "Pneumonia"}]}],
    "sampling": {"steps": 5}, "output": {"uri": "out", "shard_samples": 2},
}  # fmt: skip
LABEL = "findings[1].labels[0]"
CLOSED = "127.0.0.1:1"
"""Where nobody listens."""
COMMAND_LINE = [
    ("generat", "No such command 'generat'", "did you mean `generate`?"),
    ("recipe nwe", "No such command", "did you mean `new`?"),
    ("evaluate dataste made", "No such command", "did you mean `dataset`?"),
    ("bench sampl", "No such command", "did you mean `sample`?"),
    ("generate", "Missing argument 'RECIPE'", "generate -h"),
    ("submit r.yaml", "Missing option '--address'", "submit -h"),
    ("generate r.yaml samples=10", "samples=10", "--set anatomies=10"),
    ("generate r.yaml --samples 10", "--samples", "--set anatomies=VALUE"),
    ("plan r.yaml --steps 10", "--steps", "--set sampling.steps=VALUE"),
    ("generate r.yaml --outptu x", "--outptu", "did you mean `--output`?"),
    ("--quite plan r.yaml", "--quite", "did you mean `--quiet`?"),
    ("status made --every 0", "--every", "status -h"),
    ("verify made --replay -1", "--replay", "verify -h"),
    ("preview r.yaml -n 0", "-n", "preview -h"),
    ("preview r.yaml -n many", "a valid integer", "preview -h"),
    ("preview r.yaml -n -2", "-n", "a number, at least 1 and at most 64"),
    ("train denoise mini-denoiser", "denoise", "did you mean `denoiser`?"),
    ("prepare fodler images --out prep", "fodler", "did you mean `folder`?"),
    ("prepare folder images --table manifest.csv --out prep --size 3", "--size", "prepare -h"),
    ("export made new --split val --to coco", "--split", "xreal-synth export -h"),
    ("export made --out new --to coco", "--out", "xreal-synth export -h"),
    ("export made new --pubilc --to hf", "--pubilc", "did you mean `--public`?"),
    ("export made new --to cooc", "cooc", "did you mean `coco`?"),
    ("bundle random new --config tny", "tny", "did you mean `tiny`?"),
    ("generate r.yaml --set", "requires an argument", "write --set VALUE"),
]
FILES = [
    ("generate x/nowhere", "nowhere", "by name"),
    ("generate quickstrat", "quickstrat", "did you mean `quickstart`?"),
    ("preview folder", "a folder, not a plain file", "by name"),
    ("plan latin.yaml", "not a text file", "UTF-8"),
    ("plan afile", '"x"', "begin with `version: 1`"),
    ("plan cut.tar", "cut.tar", "UTF-8"),
    ("recipe check open.yaml", "line 2, column 8", "the brackets"),
    ("recipe check tag.yaml", "YAML tag", "remove the tag"),
    ("recipe check empty.yaml", "an empty file", "begin with `version: 1`"),
    ("recipe check list.yaml", "recipe", "begin with `version: 1`"),
    ("recipe check twice.yaml", "a second time (line 17)", "remove one"),
    ("recipe check tabs.yaml", "tab", "spaces"),
    ("recipe check noversion.yaml", "version: not given", "add `version: 1`"),
    ("recipe check newer.yaml", "2", "upgrade"),
    ("recipe new r.yaml", "is there already", "another name"),
    ("recipe new new.yaml --from quickstar", "quickstar", "did you mean `quickstart`?"),
    ("recipe new afile/new.yaml", "not a folder", "another"),
    (
        "plan below/r.yaml --set 'anatomy.source={masks: {path: mine}}'",
        "/below/mine",
        "--set anatomy.source.masks.path=PATH",
    ),
    ("plan r.yaml --set num_inference_steps=5", "unknown key", "`steps` belongs in `sampling`"),
    ("plan below/r.yaml --set bundle=some/bundle", "/below/some/bundle", "--set bundle=PATH"),
    ("generate evaluation", "val-masks: no such folder", "anatomy.source.masks.path"),
]
SETTINGS = [
    ("anatomies", "not an override", "KEY.PATH=VALUE"),
    ("anatomies=ten", '"ten"', "a whole number"),
    ("anatomies=0", "anatomies: 0", "at least 1"),
    ("anatomies=1_000", "1_000", "write 1000"),
    ("sample=3", "unknown key `sample`", "anatomies"),
    ("samples=3", "unknown key `samples`", "write `anatomies`"),
    ("sampling.stepz=5", "unknown key `stepz`", "did you mean `steps`"),
    ("steps=5", "unknown key `steps`", "belongs in `sampling`"),
    ("findings=[Pneumonia]", '"Pneumonia"', "write {weight: 1, labels: [{name: Pneumonia}]}"),
    ("findings[1].labels=[Pneumonia]", '"Pneumonia"', "write {name: Pneumonia}"),
    ("findings[9].weight=1", "item [9]", "items 0 to 1"),
    ("findings.weight=1", "which has no keys", "findings[0].weight"),
    ("findings[0].weight=0", "findings[0].weight", "remove the row"),
    (f"{LABEL}.name=Pneumona", "Pneumona", "did you mean `Pneumonia`"),
    (f"{LABEL}.name=Fracture", "Fracture", "a finding this version knows"),
    (f"{LABEL}.size=[8,35]", "[8, 35]", "not percent: 0.35 for 35"),
    (f"{LABEL}.size=[0.4,0.1]", "[0.4, 0.1]", "the lower one first"),
    (f"{LABEL}.side=bilateral", "bilateral", "did you mean `both`?"),
    (f"{LABEL}.side=rigth", "rigth", "did you mean `right`?"),
    (f"{LABEL}.zone=apical", "apical", "did you mean `upper`?"),
    (f"{LABEL}.box=[10,20,60,80]", "[10, 20, 60, 80]", "these look like pixels"),
    (f"{LABEL}.box=[0,0,0.1,0.1]", "of its area", "min_overlap"),
    ("split.val=20", "split.val: 20", "not percent: 0.2 for 20"),
    ("split={val: 0.7, test: 0.7}", "1.4", "lower one"),
    ("sampling.guidance=-1", "-1", "at least 0"),
    ("sampling={mode: reference, steps: 7}", "7", "5 or 8"),
    ("sampling.mode=brunch", "brunch", "did you mean `branch`?"),
    ("pairs.twin=yes please", "yes please", "true or false"),
    ("quality.profile=strikt", "strikt", "did you mean `strict`?"),
    ("quality.checks={organs: {action: warn}}", "has no segmenter", "action: off"),
    ("quality.checks={copies: {index: no-index}}", "no file no-index", "current folder"),
    ("labels.unrequested=checked", "has no classifier", "write negative or unknown"),
    ("name=Not A Name", "Not A Name", "not-a-name"),
    ("output.uri=gopher://x", "gopher://", "s3://"),
    ("output.uri=s3://key:secret@bucket/x", "credentials", "environment"),
    ("output.uri=s3:///folder", "no name after s3://", "s3://NAME/FOLDER"),
    ("bundle=gs://", "no name after gs://", "gs://NAME/FOLDER"),
    ("bundle=xreal-tiney", "no bundle 'xreal-tiney'", "did you mean `xreal-tiny`"),
    ("bundle=afile", "no bundle 'afile'", "check the name or the path"),
    ("bundle=altered", "unet/diffusion_pytorch_model.safetensors", "fetch the bundle again"),
    ("bundle=newer", "99", "newer|upgrade"),
    ("bundle=pickled", "pickle", "safetensors|convert"),
    ("bundle=uncontrolled", "no anatomy_controller", "anatomy.source: images"),
    ("anatomy.by_finding=true", "no outline of patients with", "remove anatomy.by_finding"),
    ("anatomy={by_finding: true, source: {masks: {path: folder}}}", "without the bank", "remove it"),
    ("anatomy.source=mask", "mask", "masks: {path: mask}"),
    ("anatomy.source={masks: {path: nothing}}", "no such folder", "anatomy.source.masks.path"),
    ("anatomy.source={masks: {path: foreign}}", "no PNG", "png"),
    ("anatomy.source={masks: {path: cut.tar}}", "cut.tar", "tar cf masks.tar"),
    ("anatomy.source={masks: {path: escaping.tar}}", "..", "tar"),
    ("anatomy.source={masks: {path: badmasks}}", "3 of 4 organ masks cannot be used", "exclude: [code.png, "),
    ("anatomy.source={masks: {path: badmasks, exclude: [a.png, code.png, swapped.png, text.png]}}", "not excluded", ""),
    ("anatomy.source={images: {path: nothing}}", "no such folder", "anatomy.source.images.path"),
    ("anatomy.source={images: {path: foreign}}", "no images", "PNGs or JPEGs"),
    ("anatomy.source={images: {path: images, splits: [test]}}", "no images of split test", "manifest.csv"),
]
PLACES = [
    ("generate r.yaml --output afile", "not a folder", "another"),
    ("generate r.yaml --output afile/out", "not a folder", "another"),
    ("generate r.yaml --output /proc/xreal", "/proc/xreal cannot be written", "another"),
    ("generate r.yaml --output foreign", "letter.txt", "--output"),
    ("generate r.yaml --output begun --set seed=2", "seed: 1 there, 2 here", "--output"),
    ("generate r.yaml --output made", "another recipe's dataset", "--output"),
    (f"generate r.yaml --address {CLOSED}", "Connection refused", "ray status --address"),
    ("generate r.yaml --address nonsense", "no HOST:PORT", "xreal-synth submit"),
    ("generate r.yaml --address http://127.0.0.1:8265", "no HOST:PORT", "xreal-synth submit"),
    ("generate r.yaml --address nosuchhost.invalid:6379", "nosuchhost.invalid:6379", "ray status"),
    (f"train denoiser mini-denoiser --data images --out new --address {CLOSED}", "refused", "ray status"),
    (f"submit smoke --address http://{CLOSED} --output-root /srv/x", "no answer", "port is forwarded"),
    (f"submit r.yaml --address {CLOSED} --output-root /srv/x", CLOSED, "forward port"),
    ("submit smoke --address http://a:b@127.0.0.1:1 --output-root /srv/x", "credentials", "RAY_AUTH_TOKEN"),
    (f"submit smoke --address http://{CLOSED}", "is relative", "--output-root"),
    (f"submit smoke --address http://{CLOSED} --output-root sets", "sets is relative", "write it out"),
    ("preview r.yaml --out foreign", "'foreign' is a directory", "preview -h"),
    ("preview r.yaml --out afile/x.png", "not a folder", "another"),
    ("preview r.yaml --out s3://bucket/x.png", "a s3:// URI", "copy it there"),
    ("train denoiser mini-denoiser --data images --out afile", "'afile' is a file", "train -h"),
    ("train denoiser mini-denoiser --data images --out /proc/x", "/proc", "another"),
    ("train denoiser mini-denoiser --data images --out new --device gpu", "gpu", "cpu"),
    ("train denoiser mini-denoiser --data images --out new --device cuda:99", "cuda:99", "--device cpu"),
    ("prepare folder images --table manifest.csv --out afile", "'afile' is a file", "prepare -h"),
    ("prepare folder images --table manifest.csv --out new --device tpu", "tpu", "cpu"),
    ("quality index foreign --data images", "'foreign' is a directory", "index -h"),
    ("export made /proc/x --to coco", "/proc", "another"),
    ("export made s3://bucket/x --to coco", "a s3:// URI", "copy it there"),
    ("export made new", "Missing option '--to'", "export -h"),
    ("export made made --to coco", "exists", "another place"),
    ("export made afile --to hf", "exists", "another place"),
    ("export made new --to croissant", "does not end in .json", "new/croissant.json"),
    ("bundle random afile", "already exists", "a folder that does not exist"),
    ("bundle export made --denoiser nothing", "already there", "another path"),
    ("bench sample --out folder", "'folder' is a directory", "sample -h"),
    ("replay made 0000000000-h --out foreign", "'foreign' is a directory", "replay -h"),
    ("evaluate utility made --real images --finding Pneumonia --out /proc/x", "/proc", "another"),
]
DATASETS = [
    ("status nothing", "no dataset.json here", "check the path"),
    ("status s3://", "no name after s3://", "s3://NAME/FOLDER"),
    ("status foreign", "no dataset.json here", "check the path"),
    ("verify afile", "no dataset.json here", "check the path"),
    ("report images", "no dataset.json here", "check the path"),
    ("repair nothing", "no dataset.json here", "check the path"),
    ("export nothing new --to coco", "no dataset.json here", "check the path"),
    ("evaluate leak nothing", "no dataset.json here", "check the path"),
    ("verify damaged", "dataset.json: not JSON", "restore it"),
    ("status future", "dataset format 9", "install a newer"),
    ("repair made --anatomies 2", "8 groups here", "--anatomies 8"),
    ("replay made badkey", "badkey", "0000000042-v0"),
    ("replay made 0000000000-h", "no recipe may have", "copied"),
    ("verify made --signed-by nothing.pem", "nothing.pem", "openssl"),
    ("verify made --sign afile", "afile", "openssl"),
]
TRAINING = [
    ("train denoiser mini-denoise --dry-run", "mini-denoise", "did you mean `mini-denoiser`"),
    ("train denoiser nothing.yaml --dry-run", "nothing.yaml", "correct the path"),
    ("train denoiser list.yaml --dry-run", "list", "a YAML mapping"),
    ("train segmenter mini-denoiser --dry-run", "denoiser", "segmenter"),
    ("train denoiser mini-denoiser --dry-run --set loop.step=5", "loop.step", "did you mean `loop.steps`"),
    ("train denoiser mini-denoiser --dry-run --set loop", "loop", "loop.steps=500"),
    ("train denoiser mini-denoiser --out new", "no --data", "--data IMAGES"),
    ("train denoiser mini-denoiser --data nothing --out new", "manifest.csv", "folder"),
    ("train denoiser mini-denoiser --data images --out new --workers 2 --device cpu", "--workers", "--gpus-per-worker"),
    ("prepare folder images --out new", "without --table", "--table list.csv"),
    ("prepare nih images --table manifest.csv --out new", "with --table", "leave it out"),
    ("prepare nih images --out new", "Data_Entry_2017", "--tables"),
    ("prepare folder images --table nothing.csv --out new", "nothing.csv", "path"),
    (
        "prepare folder images --table manifest.csv --image-column img --out new",
        "no column img",
        "did you mean `image`",
    ),
    ("prepare folder images --table manifest.csv --age-column years --out new", "no column years", "--age-column"),
    ("prepare folder images --table manifest.csv --splits 70/30 --out new", "70/30", "0.8/0.2"),
    ("prepare folder images --table manifest.csv --segmenter xreal-min --out new", "xreal-min", "did you mean"),
    ("prepare folder images --table manifest.csv --rename x=Y --out new", "x=Y", "pleural fluid=Effusion"),
    ("quality index new --data nothing", "manifest.csv", "folder"),
    ("quality index new --data images --split nothing", "'nothing'", "--split"),
    ("bundle show xreal-minni", "xreal-minni", "did you mean `xreal-mini`"),
    ("bundle show folder", "has no bundle.json", "check"),
    ("bundle export new --denoiser nothing", "no --autoencoder", "--base BUNDLE"),
    ("bundle add-prompt xreal-tiny text", "shipped", "copy"),
    ("bundle add-prompt nothing text", "no bundle 'nothing'", "check"),
    ("convert diffusers nothing new", "licence", "--licence"),
    ("bench sample --bundle nothing", "no bundle 'nothing'", "check"),
    ("bench sample --bundle xreal-tiny --steps 7", "7", "5 or 8"),
    ("evaluate made", "Missing option '--real'", "dataset -h"),
    ("evaluate anatomy --data nothing", "manifest.csv", "folder"),
    ("studio --token short", "a token of 5 characters", "leave it out"),
    ("studio --host no-such-host.invalid", "no-such-host.invalid:7860", "--port 0"),
]
MISTAKES = [
    *COMMAND_LINE, *FILES, *((f"generate r.yaml --set '{text}'", *wanted) for text, *wanted in SETTINGS), *PLACES,
    *DATASETS, *TRAINING,
]  # fmt: skip


def _mask(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray] = np.asarray) -> None:
    Image.fromarray(np.ascontiguousarray(change(schematic_mask(128)))).save(folder / f"{name}.png")


def _bundle(folder: Path) -> Path:
    return Path(shutil.copytree(SHIPPED / "xreal-tiny", folder))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipes, masks, images, bundles and datasets, whole and broken."""
    here = tmp_path_factory.mktemp("place")
    text = yaml.safe_dump(RECIPE)
    for name, content in {
        "r.yaml": text, "afile": "x", "open.yaml": "version: 1\nname: [", "empty.yaml": "", "list.yaml": "- 1\n",
        "tag.yaml": "version: 1\nname: !!python/object/apply:os.system [id]\n", "twice.yaml": text + "anatomies: 5\n",
        "tabs.yaml": "version: 1\npairs:\n\ttwin: true\n", "noversion.yaml": text.replace("version: 1\n", ""),
        "newer.yaml": text.replace("version: 1", "version: 2"),
    }.items():  # fmt: skip
        (here / name).write_text(content)
    (here / "below").mkdir()
    (here / "below/r.yaml").write_text(text)
    (here / "latin.yaml").write_bytes("name: Lübeck\n".encode("latin-1"))
    for name in ("folder", "foreign", "badmasks", "damaged", "future"):
        (here / name).mkdir()
    (here / "foreign/letter.txt").write_text("x")
    _mask(here / "badmasks", "a")
    _mask(here / "badmasks", "swapped", lambda mask: mask[:, ::-1])
    _mask(here / "badmasks", "code", lambda mask: np.where(mask == 4, 9, mask).astype(np.uint8))
    (here / "badmasks/text.png").write_text("not a picture")
    with tarfile.open(here / "escaping.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../a.png"), io.BytesIO())
    (here / "cut.tar").write_bytes((here / "escaping.tar").read_bytes()[:300] + b"\xff" * 100)
    write_image_folder(here / "images", MANIFEST)
    weights = _bundle(here / "altered") / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    fields = _bundle(here / "newer") / "bundle.json"
    fields.write_text(json.dumps(json.loads(fields.read_text()) | {"format_version": 99}))
    (_bundle(here / "pickled") / "unet/diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    shutil.rmtree(_bundle(here / "uncontrolled") / "anatomy_controller")
    write_bundle(here / "uncontrolled", read_fields(here / "uncontrolled/bundle.json"))
    store = LocalStore(here / "made")
    open_dataset(store, fake_head(), "version: 1\n", lambda there, here: [])
    for k in range(2):
        publish_fakes(store, ShardPlan("fakes", k, 4 * k, 4 * k + 4), fake_groups(4 * k, 4 * k + 4))
    build(store, finish(store, fake_head(), split_of=lambda group: "train"))
    (here / "damaged/dataset.json").write_bytes((here / "made/dataset.json").read_bytes()[:-40])
    (here / "future/dataset.json").write_bytes(head_bytes(replace(fake_head(), format_version=9)))
    claim(open_run(load_recipe(here / "r.yaml")), LocalStore(here / "begun"), {})
    return here


@pytest.fixture
def said(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[int, str]]:
    """Runs a command line in the place -> exit code, and what it says on one side or the other."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    heard = io.StringIO()
    for console in (output.console, output.notes):
        monkeypatch.setattr(console, "_file", heard)
        monkeypatch.setattr(console, "_width", 400)

    def run(line: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["xreal-synth", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), heard.getvalue()

    return run


def everything(place: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.lstat().st_size, path.lstat().st_mtime_ns if path.is_file() else 0) for path in place.rglob("*")
    }


@pytest.mark.parametrize(
    ("line", "found", "hint"), MISTAKES, ids=[line.replace("generate r.yaml --set ", "") for line, *_ in MISTAKES]
)
def test_a_mistake_is_told_and_nothing_is_written(
    place: Path, said: Callable[[str], tuple[int, str]], line: str, found: str, hint: str
) -> None:
    before = everything(place)
    code, text = said(line)
    assert code == 2, text
    head, _, rest = text.partition("error: ")[2].partition("wanted:")
    wanted, _, hints = rest.partition("hint:")
    assert found in head, text
    assert wanted.strip(), text
    assert any(part in wanted + hints for part in hint.split("|")), text
    assert hints.strip() or not hint, text
    assert "Traceback" not in text
    assert everything(place) == before


def test_there_are_many() -> None:
    assert len({line for line, *_ in MISTAKES}) == len(MISTAKES) > 100


@pytest.mark.parametrize(
    "group", ["", "bundle", "recipe", "evaluate", "evaluate readers", "bench", "quality", "convert"]
)
def test_a_group_without_a_command_prints_its_help_alone(
    said: Callable[[str], tuple[int, str]], capsys: pytest.CaptureFixture[str], group: str
) -> None:
    assert said(group) == (2, ""), "no error of no words"
    assert f"Usage: xreal-synth {group}".strip() in capsys.readouterr().out


def test_every_problem_of_a_recipe_is_told_at_once(said: Callable[[str], tuple[int, str]]) -> None:
    code, text = said("plan r.yaml --set anatomies=0 --set seed=-1 --set nam=x")
    assert code == 2
    assert all(name in text for name in ("3 problems", "anatomies: 0", "seed: -1", "unknown key `nam`"))


def test_verbose_says_where_an_error_comes_from_and_quiet_says_no_more_than_it(
    said: Callable[[str], tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said("plan r.yaml --quiet") == (0, "")
    assert said("-v plan nowhere")[0] == 2
    assert "Traceback" in capsys.readouterr().err
    code, text = said("plan nowhere -q")
    assert code == 2
    assert "nowhere: 1 problem" in text
