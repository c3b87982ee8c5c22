from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from xreal_synth.cli.main import main
from xreal_synth.errors import TrainingError
from xreal_synth.models.networks.patch_autoencoder import PatchAutoencoder
from xreal_synth.training.export import EMBEDDINGS, export_parts
from xreal_synth.training.look import append_metrics, read_metrics
from xreal_synth.training.loop import EXIT_STOPPED
from xreal_synth.training.run import train
from xreal_synth.training.tasks.evaluators import SegmenterTask

pytestmark = pytest.mark.numeric

Config = Callable[..., Path]
NETWORKS = ["autoencoder", "anatomy-controller", "denoiser", "controlnet", "segmenter", "classifier"]


def last_state(run: Path) -> dict[str, torch.Tensor]:
    name = json.loads((run / "state" / "latest.json").read_text(encoding="utf-8"))["state"]
    return load_file(run / "state" / name / "state.safetensors")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_run_writes_what_it_promises(network: str, runs: dict[str, Path]) -> None:
    run = runs[network]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [r["step"] for r in records if r["split"] == "train"] == [1, 2, 3, 4]
    assert [r["step"] for r in records if r["split"] == "val"] == [2, 4]
    for name in ("curves.png", "samples/step-0000004.png", "network", "best", "refused.json"):
        assert (run / name).exists(), name
    assert len(list((run / "state").iterdir())) == 2


@pytest.mark.parametrize("network", NETWORKS)
def test_a_resumed_run_has_the_same_bits(
    network: str, runs: dict[str, Path], overrides: dict[str, list[str]], data: Path, config: Config, tmp_path: Path
) -> None:
    given = overrides[network]
    path = config(network)
    train(network, path, data, tmp_path, [*given, "loop.minutes=1e-9"], "cpu")
    for _ in range(3):
        train(network, path, data, tmp_path, [*given, f"loop.minutes={_one_step_more(tmp_path)}"], "cpu")
    train(network, path, data, tmp_path, given, "cpu")
    straight, resumed = last_state(runs[network]), last_state(tmp_path)
    assert straight.keys() == resumed.keys()
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []


def _one_step_more(run: Path) -> float:
    name = json.loads((run / "state" / "latest.json").read_text(encoding="utf-8"))["state"]
    record = json.loads((run / "state" / name / "state.json").read_text(encoding="utf-8"))
    return float(record["seconds"]) / 60 + 1e-9


def test_an_autoencoder_goes_on_from_another_with_its_patch_transform(
    runs: dict[str, Path], data: Path, config: Config, tmp_path: Path
) -> None:
    first = runs["autoencoder"] / "network" / "vae"
    train("autoencoder", config("autoencoder", steps=1), data, tmp_path, [f"model.init={first}"], "cpu")
    before = load_file(first / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "network" / "vae" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed.isdisjoint({"basis", "offset", "gain"})


def test_a_signal_saves_and_stops(data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = SegmenterTask.loss

    def loss_and_signal(*given: object) -> dict[str, torch.Tensor]:
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmenterTask, "loss", loss_and_signal)
    arguments = ["train", "segmenter", str(config("segmenter")), "--data", str(data), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["xreal-synth", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == EXIT_STOPPED
    assert (tmp_path / "state" / "step-0000001").is_dir()


def test_other_settings_are_refused_on_resume(runs: dict[str, Path], data: Path, config: Config) -> None:
    with pytest.raises(TrainingError, match=r"loop\.lr: 0\.001, now 0\.5"):
        train("segmenter", config("segmenter"), data, runs["segmenter"], ["loop.lr=0.5"], "cpu")


def test_a_setting_that_came_later_counts_as_its_default(data: Path, config: Config, tmp_path: Path) -> None:
    train("segmenter", config("segmenter", steps=1), data, tmp_path, [], "cpu")
    path = tmp_path / "state" / "step-0000001" / "state.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    del record["config"]["model"]["kind"], record["config"]["loop"]["clip_norm"]
    path.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"loop\.clip_norm: 1\.0, now 2"):
        train("segmenter", config("segmenter", steps=2), data, tmp_path, ["loop.clip_norm=2"], "cpu")
    assert train("segmenter", config("segmenter", steps=2), data, tmp_path, [], "cpu").step == 2


def test_a_user_error_ends_the_command_with_2(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "denoiser", str(config("denoiser")), "--data", str(data), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["xreal-synth", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "model.autoencoder" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run(
    data: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_number(task: SegmenterTask, *given: object) -> dict[str, torch.Tensor]:
        return {"loss": next(task.module.parameters()).sum() * float("nan")}

    monkeypatch.setattr(SegmenterTask, "loss", no_number)
    with pytest.raises(TrainingError, match="step 0 is nan"):
        train("segmenter", config("segmenter"), data, tmp_path, [], "cpu")


def test_metrics_after_the_last_state_are_dropped_on_resume(data: Path, config: Config, tmp_path: Path) -> None:
    train("segmenter", config("segmenter", steps=2), data, tmp_path, [], "cpu")
    append_metrics(tmp_path, {"step": 9, "split": "train", "loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 10, "spl')
    train("segmenter", config("segmenter", steps=3), data, tmp_path, [], "cpu")
    steps = [record["step"] for record in read_metrics(tmp_path) if record["split"] == "train"]
    assert steps == [1, 2, 3]


def test_the_curves_on_a_board_go_on_where_the_state_was_saved(data: Path, config: Config, tmp_path: Path) -> None:
    board = tmp_path / "tensorboard"
    train("segmenter", config("segmenter", steps=2), data, tmp_path, [], "cpu")
    with SummaryWriter(str(board), purge_step=3) as killed:
        killed.add_scalar("loss/train", 9.0, 3)
        killed.add_scalar("loss/train", 9.0, 5)
    train("segmenter", config("segmenter", steps=4), data, tmp_path, [], "cpu")
    by_age = sorted(board.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(by_age):  # named by the second, in which several may begin here
        path.rename(board / f"events.out.tfevents.{number}")
    events = EventAccumulator(str(board)).Reload()
    for part in ("train", "val"):
        shown = {event.step: event.value for event in events.Scalars(f"loss/{part}")}
        recorded = {r["step"]: r["loss"] for r in read_metrics(tmp_path) if r["split"] == part}
        assert shown == pytest.approx(recorded)
    assert [event.step for event in events.Scalars("lr/train")] == [1, 2, 3, 4]


def test_a_damaged_state_is_named(runs: dict[str, Path], data: Path, config: Config, tmp_path: Path) -> None:
    train("segmenter", config("segmenter", steps=1), data, tmp_path, [], "cpu")
    (tmp_path / "state" / "step-0000001" / "state.safetensors").write_bytes(b"short")
    with pytest.raises(TrainingError, match="state"):
        train("segmenter", config("segmenter", steps=1), data, tmp_path, [], "cpu")


def test_exported_parts_are_half_precision_folders(runs: dict[str, Path], tmp_path: Path) -> None:
    export_parts(
        tmp_path,
        autoencoder=runs["autoencoder"],
        controller=runs["anatomy-controller"],
        denoiser=runs["denoiser"],
        controlnet=runs["controlnet"],
        segmenter=runs["segmenter"],
    )
    names = {"vae", "anatomy_controller", "unet", "controlnet", "segmenter"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"scheduler", EMBEDDINGS}
    for name in names:
        weights = load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")
        assert {w.dtype for w in weights.values()} == {torch.float16}
        assert "_class_name" in json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
    table = load_file(tmp_path / EMBEDDINGS)
    assert len(table) == 33
    assert table["<null>"].shape == table["No Finding"].shape == (6, 8)


def test_a_controller_is_exported_with_the_given_decoder(runs: dict[str, Path], tmp_path: Path) -> None:
    autoencoder = PatchAutoencoder.from_pretrained(runs["autoencoder"] / "network" / "vae", low_cpu_mem_usage=False)
    torch.nn.init.constant_(autoencoder.refiner.inlet.bias, 0.25)
    autoencoder.save_pretrained(tmp_path / "retrained" / "network" / "vae")
    out = tmp_path / "out"
    export_parts(out, autoencoder=tmp_path / "retrained", controller=runs["anatomy-controller"])
    weights = load_file(out / "anatomy_controller" / "diffusion_pytorch_model.safetensors")
    assert bool((weights["first_stage.refiner.inlet.bias"] == 0.25).all())
    autoencoder.basis.mul_(-1)
    autoencoder.save_pretrained(tmp_path / "other" / "network" / "vae")
    with pytest.raises(TrainingError, match="another autoencoder"):
        export_parts(out, autoencoder=tmp_path / "other", controller=runs["anatomy-controller"])


def test_exporting_an_unfinished_run_names_it(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="vae"):
        export_parts(tmp_path / "out", autoencoder=tmp_path)
