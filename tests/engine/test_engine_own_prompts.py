"""Prompts that the bundle lacks: encoded once by the driver, kept with the dataset, read by all that follows."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray
import torch

from xreal_synth.cli.main import main
from xreal_synth.engine import ray_submit
from xreal_synth.engine.backend import Networks
from xreal_synth.engine.own_prompts import encoded, kept, stored_encoder, with_table
from xreal_synth.engine.parcel import Parcel
from xreal_synth.engine.ray_actor import Generator, Order, Ready
from xreal_synth.engine.reopen import reopen
from xreal_synth.engine.resources import Resources, actor_shape
from xreal_synth.engine.setup import Run, check_before_start, claim, open_run
from xreal_synth.engine.worker import environment, make_group, replay, run_shard
from xreal_synth.errors import BundleError, ConversionError, DatasetError, RecipeError
from xreal_synth.jobs.generate import _opened, parser
from xreal_synth.models.add_prompt import add_prompt
from xreal_synth.models.describe import SHIPPED, BundleInfo, describe
from xreal_synth.models.own_prompts import TextSource, encode_own
from xreal_synth.models.prompt_table import pack, read_about, unpack
from xreal_synth.models.tiny import build_tiny
from xreal_synth.recipe.load import LoadedRecipe, load_recipe, recipe_from_text
from xreal_synth.shards.head import read_head
from xreal_synth.shards.verify import verify
from xreal_synth.storage import LocalStore, sha256_file

pytest.importorskip("tokenizers")

RECIPE = """
version: 1
name: own
seed: 3
samples: 2
bundle: BUNDLE
findings:
  - {weight: 1, labels: [{name: Pneumonia, prompt: patchy opacity}]}
  - {weight: 1, labels: [{name: Effusion, side: right}, {name: Edema}], joint: true}
sampling: {steps: 4}
compute: {precision: fp32}
output: {uri: unset, shard_samples: 2}
"""
TEXTS = ("patchy opacity", "Effusion Edema")
Opens = Callable[..., Run]


@pytest.fixture(scope="module")
def spelling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with a text encoder of its own."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    shutil.copytree(SHIPPED / "xreal-tiny" / "anatomy_bank", folder / "anatomy_bank")
    build_tiny(folder, text=True)
    return folder


@pytest.fixture(scope="module")
def without(spelling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same bundle without it."""
    from xreal_synth.models.save import read_fields, write_bundle

    folder = tmp_path_factory.mktemp("without") / "b"
    shutil.copytree(spelling, folder, ignore=shutil.ignore_patterns("text_encoder", "tokenizer"))
    write_bundle(folder, read_fields(folder / "bundle.json"))
    return folder


def open_own(bundle: Path, source: TextSource | None = None, **settings: object) -> Run:
    text = RECIPE.replace("BUNDLE", str(bundle))
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    loaded = LoadedRecipe(recipe_from_text(text, overrides=overrides), text)
    return open_run(loaded, None if source is None else source.identity)


class Counting:
    """Encodes, and counts how often it was asked to."""

    def __init__(self, source: TextSource | None = None) -> None:
        self.source, self.times = source, 0

    def __call__(self, info: BundleInfo, texts: Sequence[str], encoder: str) -> bytes:
        self.times += 1
        return encode_own(info, texts, encoder, self.source)


def make(run: Run, store: LocalStore, encode: Counting | None) -> None:
    """What the driver does around its actors, without Ray."""
    head = check_before_start(run, store)
    with kept(run, store, head, encode) as ready:
        backend = Networks().open(ready, actor_shape(ready.recipe.compute, Resources(1, 0)))
        claim(ready, store, environment(backend))
        if not store.exists("records/own-000000.json"):
            run_shard(ready, backend, ready.plan.shard(0), store)


def table_problems(store: LocalStore) -> list[str]:
    return [problem.found for problem in verify(store).problems if problem.path == "prompts.safetensors"]


@pytest.fixture(scope="module")
def dataset(spelling: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made with the bundle's own text encoder; not to be written to."""
    folder = tmp_path_factory.mktemp("data") / "d"
    encode = Counting()
    make(open_own(spelling), LocalStore(folder), encode)
    assert encode.times == 1
    return folder


def test_the_dataset_keeps_the_table_and_names_its_hash(dataset: Path, spelling: Path) -> None:
    head = read_head(LocalStore(dataset))
    assert head.prompts is not None
    assert head.prompts.sha256 == sha256_file(dataset / "prompts.safetensors")
    encoder, texts = read_about((dataset / "prompts.safetensors").read_bytes())
    assert (encoder, texts) == (head.settings["text_encoder"], TEXTS)
    assert open_own(spelling).digest == head.digest
    assert table_problems(LocalStore(dataset)) == []


def test_films_are_those_of_a_bundle_with_the_prompts_added(
    dataset: Path, spelling: Path, tmp_path: Path
) -> None:
    grown = Path(shutil.copytree(spelling, tmp_path / "grown"))
    for text in TEXTS:
        add_prompt(grown, text, None)
    theirs = open_own(grown)
    assert theirs.own is None
    run = with_table(open_own(spelling), LocalStore(dataset), read_head(LocalStore(dataset)).prompts)
    shape = actor_shape(run.recipe.compute, Resources(1, 0))
    for index in (0, 1):
        pairs = zip(
            *(make_group(each, Networks().open(each, shape), index) for each in (run, theirs)), strict=True
        )
        for ours, other in pairs:
            assert np.array_equal(ours.film, other.film)
            assert ours.meta.prompt == other.meta.prompt
            assert ours.meta.prompt in ("patchy opacity", "Effusion Edema + Effusion Edema")


def test_resuming_and_replay_need_no_text_encoder(dataset: Path, tmp_path: Path) -> None:
    store = LocalStore(Path(shutil.copytree(dataset, tmp_path / "d")))
    head = read_head(store)
    (tmp_path / "d" / "records" / "own-000000.json").unlink()
    run = reopen(store, head, samples=2)
    make(run, store, None)
    backend = Networks().open(run, actor_shape(run.recipe.compute, Resources(1, 0)))
    made = replay(run, backend, "0000000000-v0")
    assert made.meta.prompt in ("patchy opacity", "Effusion Edema + Effusion Edema")
    assert table_problems(store) == []


def test_an_actor_reads_the_table_and_refuses_another(dataset: Path, spelling: Path, tmp_path: Path) -> None:
    run = open_own(spelling)
    stamp = read_head(LocalStore(dataset)).prompts
    assert run.own is not None
    assert stamp is not None
    shape = actor_shape(run.recipe.compute, Resources(1, 0))
    order = Order(
        "a0",
        run.loaded,
        run.digest,
        str(dataset),
        shape,
        Networks(),
        str(tmp_path),
        None,
        run.own.encoder,
        stamp,
    )
    assert isinstance(Generator(order).ready(), Ready)
    told = Generator(replace(order, prompts=replace(stamp, sha256="0" * 64))).ready()
    assert not isinstance(told, Ready)
    assert "prompts.safetensors" in told.reason


def test_a_path_stands_in_for_what_the_bundle_lacks(
    dataset: Path, spelling: Path, without: Path, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="no embedding for 'patchy opacity'") as caught:
        open_own(without)
    assert "bundle add-prompt" in caught.value.mend
    assert "--text-encoder" in caught.value.mend
    source = TextSource(spelling)
    run, store = open_own(without, source), LocalStore(tmp_path / "d")
    make(run, store, Counting(source))
    assert (tmp_path / "d" / "prompts.safetensors").read_bytes() != b""
    ours, theirs = (
        unpack((folder / "prompts.safetensors").read_bytes()) for folder in (tmp_path / "d", dataset)
    )
    assert all(torch.equal(ours[text], theirs[text]) for text in TEXTS)
    again = open_run(run.loaded, lambda: stored_encoder(store))
    assert again.digest == run.digest
    make(again, store, None)


def test_nothing_stays_where_no_dataset_was_begun(spelling: Path, tmp_path: Path) -> None:
    run, store = open_own(spelling), LocalStore(tmp_path / "new" / "d")
    seen = []

    def start_nothing() -> None:
        with kept(run, store, None, Counting()):
            seen.append(store.exists("prompts.safetensors"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start_nothing()
    assert seen == [True]
    assert not (tmp_path / "new").exists()


def test_what_a_broken_off_start_left_is_taken_if_it_fits(spelling: Path, tmp_path: Path) -> None:
    run, store, encode = open_own(spelling), LocalStore(tmp_path), Counting()
    assert run.own is not None
    table = encode(run.bundle, run.own.texts, run.own.encoder)
    store.put_if_absent("prompts.safetensors", table)
    with kept(run, store, None, encode) as ready:
        assert ready.own == replace(run.own, table=table)
    assert (encode.times, store.exists("prompts.safetensors")) == (1, True)
    other = open_own(spelling, **{"findings[0].labels[0].prompt": "nodule"})
    with kept(other, store, None, encode) as ready:
        assert ready.own is not None
        assert set(unpack(ready.own.table)) == {"nodule", "Effusion Edema"}
    store.put_if_absent("prompts.safetensors", b"not a table")
    with kept(run, store, None, encode) as ready:
        assert ready.own == replace(run.own, table=table)


def test_a_changed_or_lost_table(dataset: Path, spelling: Path, tmp_path: Path) -> None:
    store = LocalStore(Path(shutil.copytree(dataset, tmp_path / "d")))
    run, head, whole = open_own(spelling), read_head(store), store.read_bytes("prompts.safetensors")
    store.delete("prompts.safetensors")
    assert len(table_problems(store)) == 1
    with kept(run, store, head, Counting()):
        assert store.read_bytes("prompts.safetensors") == whole
    store.replace("prompts.safetensors", whole[:-1] + b"x")
    with pytest.raises(DatasetError, match="not the file"), kept(run, store, head, Counting()):
        pass
    store.delete("prompts.safetensors")

    def other(info: BundleInfo, texts: Sequence[str], encoder: str) -> bytes:
        return pack({text: torch.zeros(40, 16) for text in texts}, encoder)

    with pytest.raises(DatasetError, match="other bytes"), kept(run, store, head, other):
        pass
    with pytest.raises(BundleError, match="nothing encodes"), kept(run, store, head, None):
        pass


def test_what_the_digest_takes_in(spelling: Path, tmp_path: Path) -> None:
    run = open_own(spelling)
    assert open_own(spelling, **{"findings[0].labels[0].prompt": "nodule"}).digest != run.digest
    other = Path(shutil.copytree(spelling, tmp_path / "other"))
    (other / "tokenizer" / "vocab.txt").write_text("changed")
    assert open_own(spelling, TextSource(other)).digest != run.digest
    known = open_own(spelling, **{"findings[0].labels[0].prompt": "Edema", "findings[1].joint": "null"})
    assert "text_encoder" not in known.settings
    assert known.own is None


def test_a_vocabulary_is_part_of_a_bundle(spelling: Path, tmp_path: Path) -> None:
    from xreal_synth.models.save import read_fields, write_bundle

    other = Path(shutil.copytree(spelling, tmp_path / "other"))
    words = (other / "tokenizer" / "vocab.txt").read_text().split("\n")
    (other / "tokenizer" / "vocab.txt").write_text("\n".join([*words[:4], words[5], words[4], *words[6:]]))
    assert (
        write_bundle(other, read_fields(other / "bundle.json")).content_hash
        != describe(spelling).content_hash
    )


def test_an_encoder_that_did_not_make_the_bundle_is_refused(spelling: Path, tmp_path: Path) -> None:
    shutil.copytree(SHIPPED / "xreal-tiny" / "anatomy_bank", tmp_path / "b" / "anatomy_bank")
    build_tiny(tmp_path / "b", seed=1, text=True)
    source = TextSource(tmp_path / "b")
    with pytest.raises(BundleError, match="another text encoder"):
        encoded(open_own(spelling, source), Counting(source))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"findings[0].joint": "true"}, "without several findings"),
        ({"findings[1].labels[0].prompt": "x"}, "beside a label's own"),
        ({"findings[1].joint": "false"}, "joint"),
    ],
)
def test_joint_agrees_with_its_row(settings: dict[str, object], named: str, spelling: Path) -> None:
    with pytest.raises(RecipeError, match=named):
        open_own(spelling, **settings)


def test_options_that_change_nothing_or_lack_a_file(
    spelling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE.replace("BUNDLE", str(spelling)))
    needless = ["--set", "findings[0].labels[0].prompt=null", "--set", "findings[1].joint=null"]
    wrong = [
        (["--text-encoder", str(spelling), *needless], "every prompt"),
        (["--vocab", "vocab.txt"], "--vocab without --text-encoder"),
        (["--text-encoder", "no-such-folder"], "no-such-folder"),
        (["--text-encoder", str(spelling), "--vocab", "v.txt"], "own tokenizer"),
    ]
    for options, named in wrong:
        monkeypatch.setattr("sys.argv", ["xreal-synth", "plan", str(tmp_path / "r.yaml"), *options])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        assert named in capsys.readouterr().err


def test_preview_encodes_for_itself(
    spelling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("BUNDLE", str(spelling)))
    monkeypatch.setattr("sys.argv", ["xreal-synth", "preview", "r.yaml", "-n", "1", "--output", "out"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "encoding 2 prompts" in capsys.readouterr().err
    assert (tmp_path / "own-preview.png").exists()
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_is_told() -> None:
    whole = pack({"a": torch.ones(2, 3)}, "e")
    assert unpack(whole)["a"].shape == (2, 3)
    for broken in (b"", whole[:20], whole[:-4], pack({}, "e")[:12]):
        with pytest.raises(DatasetError):
            unpack(broken)
    with pytest.raises(ConversionError):
        TextSource.given(None, Path("v.txt"))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Parcel, list[str]]]:
    """What `submit` would hand to a cluster, in place of handing it over."""
    caught: list[tuple[Parcel, list[str]]] = []

    def submit(cluster: object, parcel: Parcel, arguments: list[str], **_: object) -> str:
        caught.append((parcel, arguments))
        return "job-1"

    monkeypatch.setattr(
        ray_submit, "connect", lambda address, **how: ray_submit.Cluster(None, address, ray.__version__)
    )
    monkeypatch.setattr(ray_submit, "submit", submit)
    return caught


def submitted(monkeypatch: pytest.MonkeyPatch, *options: str) -> object:
    given = [
        "submit",
        "r.yaml",
        "--address",
        "http://h:8265",
        "--output-root",
        "/sets",
        "--no-wait",
        *options,
    ]
    monkeypatch.setattr("sys.argv", ["xreal-synth", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_submit_takes_the_text_encoder_along(
    spelling: Path, without: Path, sent: list[tuple[Parcel, list[str]]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What arrives on the node is opened there as the job does: the same dataset as here."""
    work, node = tmp_path / "work", tmp_path / "node"
    work.mkdir()
    monkeypatch.chdir(work)
    (work / "r.yaml").write_text(RECIPE.replace("BUNDLE", "bundle").replace("unset", "out"))
    shutil.copytree(without, work / "bundle")
    shutil.copytree(spelling, work / "source")
    assert submitted(monkeypatch, "--text-encoder", "source") == 0
    parcel, arguments = sent[0]
    assert arguments[-2:] == ["--text-encoder", "source"]
    assert {name.parts[1] for name in parcel.files if name.parts[0] == "source"} == {
        "text_encoder",
        "tokenizer",
    }
    parcel.write(tmp_path / "parcel.zip")
    with zipfile.ZipFile(tmp_path / "parcel.zip") as archive:
        archive.extractall(node)
    monkeypatch.chdir(node)
    there = _opened(parser().parse_args([str(parcel.recipe), *arguments]), load_recipe(Path(parcel.recipe)))
    assert there.own is not None
    assert there.digest == open_own(without, TextSource(spelling)).digest


def test_submit_refuses_text_encoders_that_a_node_could_not_read(
    spelling: Path, without: Path, sent: list[tuple[Parcel, list[str]]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.replace("BUNDLE", "bundle").replace("unset", "out"))
    shutil.copytree(without, tmp_path / "bundle")
    (tmp_path / "weights.pt").write_bytes(b"")
    refused = [
        ([], "--text-encoder"),
        (["--text-encoder", "s3://models/roentgen"], "--keep-text-encoder"),
        (["--text-encoder", "weights.pt"], "no --vocab goes with it"),
        (["--text-encoder", "no-such-folder"], "no-such-folder"),
        (["--text-encoder", str(spelling)], "nothing says that the nodes have it"),
        (["--vocab", "v.txt"], "--vocab without --text-encoder"),
    ]
    for options, told in refused:
        assert submitted(monkeypatch, *options) == 2, options
        assert told in capsys.readouterr().err, options
    assert sent == []
    assert submitted(monkeypatch, "--text-encoder", "/models/roentgen", "--on-nodes") == 0
    assert "/models/roentgen is taken to be on every node" in capsys.readouterr().err
    assert sent[0][1][-2:] == ["--text-encoder", "/models/roentgen"]
