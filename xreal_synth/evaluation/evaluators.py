"""The networks that judge images, which no training and no gate has used: segmenter, classifier, perhaps a locator.

A locator is a classifier that says where it sees a finding; what needs one says so where there is none. They lie in
`evaluator_networks/` beside this file, with `evaluators.json`, which lists their files' sizes and hashes.
A folder of the same layout with evaluators trained on other images can be given instead:

`xreal-synth train segmenter evaluator-segmenter ...`, `xreal-synth train classifier evaluator-classifier ...`,
`xreal-synth train classifier evaluator-locator ...`,
`python -m xreal_synth.training.export --segmenter RUN --classifier RUN --locator RUN FOLDER`,
`python -m xreal_synth.evaluation.evaluators FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from xreal_synth.errors import BundleError, XrealError, faults
from xreal_synth.models.load import WEIGHTS, network_from
from xreal_synth.opening import UnreadableError, hashed_bytes, hashed_copy
from xreal_synth.storage import LocalStore, sha256_bytes, sha256_file
from xreal_synth.types import GreyImage

SHIPPED_EVALUATORS: Final = Path(__file__).parent / "evaluator_networks"
EVALUATORS_FILE: Final = "evaluators.json"
LOCATOR: Final = "locator"
PARTS: Final = ("segmenter", "classifier", LOCATOR)
FILES: Final = tuple(f"{part}/{name}" for part in PARTS for name in ("config.json", WEIGHTS))


class _EvaluatorFile(BaseModel, extra="forbid", frozen=True):
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _EvaluatorsFile(BaseModel, extra="forbid", frozen=True):
    format_version: Literal[1] = 1
    files: dict[Literal[FILES], _EvaluatorFile]  # type: ignore[valid-type]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluators:
    """The networks, ready; `sha256` is of evaluators.json, which holds the hashes of all files.

    `findings` are the classifier's, `placed_findings` the locator's, none where there is no locator.
    """

    segmenter: Any
    classifier: Any
    locator: Any | None
    findings: tuple[str, ...]
    placed_findings: tuple[str, ...]
    sha256: str
    device: torch.device

    def batch(self, images: list[GreyImage]) -> Tensor:
        """uint8 images [H, W] of one size -> [B, 1, H, W] in [0, 1] on the evaluators' device."""
        grey = np.stack(images).astype(np.float32) / 255.0
        return torch.from_numpy(grey)[:, None].to(self.device)


def load_evaluators(folder: Path | None = None, device: torch.device | str = "cpu") -> Evaluators:
    """The shipped evaluators, or those in `folder`, with hashes checked; raises BundleError."""
    root = folder or SHIPPED_EVALUATORS
    try:
        text = (root / EVALUATORS_FILE).read_bytes()
        record = _EvaluatorsFile.model_validate_json(text)
    except (OSError, ValidationError) as error:
        raise BundleError(
            where=str(root / EVALUATORS_FILE),
            found=faults(error) if isinstance(error, ValidationError) else f"cannot be read: {error}",
            wanted="sizes and hashes of the evaluators' files",
            hint="leave --evaluators out to use the shipped ones, or write it for networks of your own: "
            "python -m xreal_synth.evaluation.evaluators FOLDER",
        ) from error
    there = [part for part in PARTS if part != LOCATOR or any(name.startswith(part) for name in record.files)]
    networks = {part: _network(root, part, record.files).eval().requires_grad_(False).to(device) for part in there}
    classifier, locator = networks["classifier"], networks.get(LOCATOR)
    return Evaluators(
        segmenter=networks["segmenter"],
        classifier=classifier,
        locator=locator,
        findings=tuple(classifier.config["findings"]),
        placed_findings=() if locator is None else tuple(locator.config["findings"]),
        sha256=sha256_bytes(text),
        device=torch.device(device),
    )


def write_evaluators(folder: Path) -> None:
    """Writes evaluators.json for the networks in `folder`; raises BundleError if a file is missing."""
    files = {}
    whole = FILES if (folder / LOCATOR).is_dir() else [name for name in FILES if not name.startswith(LOCATOR)]
    for name in whole:
        path = folder / name
        if not path.is_file():
            raise BundleError(
                where=str(path),
                found="missing",
                wanted=f"the files {', '.join(whole)}",
                hint="export the networks into the folder (python -m xreal_synth.training.export)",
            )
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    text = json.dumps({"format_version": 1, "files": files}, indent=1) + "\n"
    LocalStore(folder).replace(EVALUATORS_FILE, text.encode())


def _network(root: Path, part: str, files: Mapping[str, _EvaluatorFile]) -> Any:
    """One network of the files that evaluators.json was written for; raises BundleError."""
    config, weights = f"{part}/config.json", f"{part}/{WEIGHTS}"
    missing = [name for name in (config, weights) if name not in files]
    try:
        if missing:
            raise UnreadableError(f"{missing[0]} is not listed in {EVALUATORS_FILE}")
        text = hashed_bytes(root / config, files[config].sha256)
        with hashed_copy(root / weights, files[weights].sha256) as copy:
            kind = "classifier" if part == LOCATOR else part
            network: Any = network_from(kind, root / part, text, copy)
    except (OSError, UnreadableError) as error:
        raise BundleError(
            where=str(root / part),
            found="a file is missing"
            if isinstance(error, FileNotFoundError)
            else f"not the files that evaluators.json was written for: {error}",
            wanted="the evaluator networks as they were shipped",
            hint="install the package again; for evaluators of your own, write evaluators.json again",
        ) from error
    if part != "segmenter" and network.places != (part == LOCATOR):
        raise BundleError(
            where=str(root / part),
            found=f"a classifier with{'' if network.places else 'out'} maps of places",
            wanted="a locator/ that has them, and a classifier/ that has not",
            hint="export them from runs of evaluator-locator and evaluator-classifier",
        )
    return network


def main() -> int:
    """The command: writes evaluators.json of a folder of networks; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(
        prog="python -m xreal_synth.evaluation.evaluators",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, help="holds segmenter/, classifier/, perhaps locator/; evaluators.json is written"
    )
    given = parser.parse_args()
    try:
        write_evaluators(given.folder)
        evaluators = load_evaluators(given.folder)
    except XrealError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.folder}: evaluators of {', '.join(evaluators.findings)}; sha256 {evaluators.sha256}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
