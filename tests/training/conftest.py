"""A small folder of made-up images, a tiny config of each network, and their runs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from xreal_synth.training.run import train

SIDE = 40
LABELS = ["No Finding", "Pneumonia", "Effusion|Pneumonia", "Nodule", "Edema", "Infiltration|Atelectasis"]

TINY_DATA = {"image_size": 32, "warp": {"rotate_deg": 3, "scale": 0.05, "shift": 0.02}}
TINY_LOOP = {"batch": 2, "lr": 1e-3, "warmup_steps": 2, "log_every": 1, "validate_every": 2, "preview_every": 4}
TINY_MODELS: dict[str, dict[str, Any]] = {
    "autoencoder": {
        "refiner_width": 8,
        "refiner_blocks": 1,
        "adversarial_weight": 0.5,
        "adversarial_after": 1,
        "critic_width": 8,
    },
    "anatomy-controller": {"width": 8, "blocks": 1},
    "denoiser": {"channels": [32, 32], "attention": [False, True], "token_width": 8},
    "controlnet": {"hint_channels": [4, 8, 8, 8]},
    "segmenter": {"inner_size": 16, "channels": [8, 8]},
    "classifier": {"kind": "densenet", "inner_size": 32, "blocks": [1, 1], "width": 8, "growth": 4},
}


def make_pair(number: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """An image whose brightness follows its organ codes, with a little texture."""
    random = np.random.default_rng(number)
    label_map = np.zeros((side, side), np.uint8)
    top = 4 + number % 3
    label_map[top:30, 22:34], label_map[top:30, 6:18], label_map[20:32, 16:26], label_map[8:14, 19:23] = (1, 2, 3, 4)
    image = 150 - 25.0 * np.isin(label_map, (1, 2)) + 40.0 * (label_map > 2) + random.normal(0, 6, (side, side))
    return image.clip(0, 255).astype(np.uint8), label_map


def write_folder(folder: Path, images: int = 8) -> list[dict[str, str]]:
    """`manifest.csv` and its files; the last two images are the validation split."""
    rows = []
    for number in range(images):
        image, label_map = make_pair(number)
        Image.fromarray(image).save(folder / f"image{number}.png")
        Image.fromarray(label_map).save(folder / f"mask{number}.png")
        rows.append(
            {
                "image": f"image{number}.png",
                "mask": f"mask{number}.png",
                "labels": LABELS[number % len(LABELS)],
                "patient_id": str(number),
                "split": "val" if number >= images - 2 else "train",
            }
        )
    write_manifest(folder, rows)
    return rows


def write_manifest(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def overrides_for(network: str, runs: dict[str, Path]) -> list[str]:
    if network in ("denoiser", "anatomy-controller"):
        return [f"model.autoencoder={runs['autoencoder']}/network/vae"]
    if network == "controlnet":
        return [f"model.autoencoder={runs['autoencoder']}/network/vae", f"model.denoiser={runs['denoiser']}/network"]
    return []


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder)
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(network, loop settings) -> path of a tiny config."""
    folder = tmp_path_factory.mktemp("configs")

    def make(network: str, **loop: Any) -> Path:
        tree = {
            "network": network,
            "seed": 3,
            "data": TINY_DATA,
            "model": TINY_MODELS[network],
            "loop": {**TINY_LOOP, "steps": 4, **loop},
        }
        path = folder / f"{network}-{len(list(folder.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def runs(data: Path, config: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny networks, each trained for 4 steps: network -> its run folder."""
    root = tmp_path_factory.mktemp("runs")
    done: dict[str, Path] = {}
    for network in TINY_MODELS:
        train(network, config(network), data, root / network, overrides_for(network, done), "cpu")
        done[network] = root / network
    return done


@pytest.fixture(scope="session")
def folder_writer() -> Callable[[Path], list[dict[str, str]]]:
    return write_folder


@pytest.fixture(scope="session")
def manifest_writer() -> Callable[[Path, list[dict[str, str]]], None]:
    return write_manifest


@pytest.fixture(scope="session")
def overrides(runs: dict[str, Path]) -> dict[str, list[str]]:
    """The overrides each network was trained with."""
    return {network: overrides_for(network, runs) for network in runs}
