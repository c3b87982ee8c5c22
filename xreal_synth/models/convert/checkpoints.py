"""Foreign checkpoint files and parts of diffusers folders, opened without running anything that is in them.

A `.safetensors` file holds tensors alone. A pickle (`.pth`, `.pt`, `.ckpt`, `.bin`) is read by torch's
restricted unpickler and mapped into memory where its format allows. What else a training program stored
beside the weights is left out by name, from the tables here; anything unknown is an error.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from xreal_synth.errors import ConversionError
from xreal_synth.opening import parse_json

Report = Callable[[str, int, int], None]
"""(what, done, total): progress of a long step."""

STATE_KEYS: Final = ("state_dict", "model")
"""Where a training program keeps the weights: Lightning under the first, plain loops often under the second."""

LIGHTNING_EXTRAS: Final = frozenset(
    {
        "epoch", "global_step", "pytorch-lightning_version", "callbacks", "optimizer_states", "lr_schedulers",
        "loops", "hparams_name", "hyper_parameters", "hparams_type", "datamodule_hparams_name",
        "datamodule_hyper_parameters", "datamodule_hparams_type", "native_amp_scaling_state",
        "amp_scaling_state", "NativeMixedPrecisionPlugin", "MixedPrecisionPlugin", "MixedPrecision",
        "checkpoint_callback_best_model_path", "checkpoint_callback_best_model_score",
    }
)  # fmt: skip
"""Lightning's own entries beside `state_dict`: of no use in sampling."""

LOOP_EXTRAS: Final = frozenset(
    {"optimizer", "optim", "scheduler", "lr_scheduler", "scaler", "step", "steps", "epoch", "epochs", "loss"}
)
"""What plain training loops keep beside `model`."""

STAND_INS: Final = frozenset(
    {
        "argparse.Namespace", "builtins.dict", "builtins.int", "builtins.list", "typing.Any",
        "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar", "numpy.dtype",
        "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata", "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode",
        "pathlib.PosixPath", "pathlib._local.PosixPath",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    }
)  # fmt: skip
DICT_STAND_INS: Final = frozenset(
    {
        "collections.defaultdict", "pytorch_lightning.utilities.parsing.AttributeDict",
        "lightning_fabric.utilities.data.AttributeDict", "lightning.fabric.utilities.data.AttributeDict",
    }
)  # fmt: skip
"""Classes that training programs leave in the extras. They are never imported or called: an empty object, or
a plain dictionary, stands in for each."""

_ZIP_MARK: Final = b"PK\x03\x04"
_NOT_WEIGHTS: Final = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
    b"<": "a web page (a log-in or an error page, most likely)",
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors by name, and the file they come from."""

    path: Path
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return self.path.name

    def without_prefix(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


class _StandIn:
    """Takes the place of any class of STAND_INS: accepts everything, keeps nothing."""

    def __new__(cls, *args: object) -> _StandIn:
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        return


class _DictStandIn:
    """Takes the place of any class of DICT_STAND_INS."""

    def __new__(cls, *args: object) -> OrderedDict[object, object]:  # type: ignore[misc]
        return OrderedDict()


def read_checkpoint(path: Path, *, ignore: Collection[str] = ()) -> Checkpoint:
    """The weights in a checkpoint file; `ignore` names further entries beside them to leave out.

    Raises ConversionError for a missing or broken file, a pickle with anything but data in it, an entry that
    no table knows, or something else than tensors among the weights.
    """
    path = path.expanduser()
    check_there(path)
    _refuse_other_files(path)
    data = _read_safetensors(path) if path.suffix.lower() == ".safetensors" else _read_pickle(path)
    return Checkpoint(path, _weights(path, data, ignore))


def check_there(path: Path) -> None:
    """Raises ConversionError if this is no file."""
    path = path.expanduser()
    if not path.is_file():
        raise ConversionError(
            where=str(path),
            found="no such file" if not path.exists() else "a folder",
            wanted="a checkpoint file",
            hint="check the path (a relative one starts at the current folder)",
        )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _broken(path, error) from error


def _read_pickle(path: Path) -> Any:
    zipped = zipfile.is_zipfile(path)
    names: Sequence[str] = ()
    try:
        if zipped:
            names = get_unsafe_globals_in_checkpoint(str(path))
            strange = sorted(name for name in names if name not in STAND_INS | DICT_STAND_INS)
            if strange:
                raise _code(path, f"it calls for {', '.join(strange[:5])}")
        stands: list[Any] = [(_DictStandIn if name in DICT_STAND_INS else _StandIn, name) for name in names]
        with safe_globals(stands):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise _code(path, f"it calls for {called[1]}" if called else "instructions beyond data") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _broken(path, error) from error


def _weights(path: Path, data: Any, ignore: Collection[str]) -> dict[str, Tensor]:
    """The mapping of tensors inside what a file holds."""
    if not isinstance(data, dict):
        raise _layout(path, f"a {type(data).__name__}")
    inside = next((key for key in STATE_KEYS if isinstance(data.get(key), dict)), None)
    if inside is not None:
        known = LIGHTNING_EXTRAS | LOOP_EXTRAS | set(ignore) | {inside}
        unknown = sorted(str(key) for key in data if key not in known)
        if unknown:
            raise ConversionError(
                where=str(path),
                found=f"{_few(unknown)} beside {inside!r}",
                wanted="nothing but what training programs are known to keep there",
                hint=f"if it is of no use in sampling, add {' '.join(f'--ignore {key}' for key in unknown)}",
            )
        data = data[inside]
    entries: dict[object, object] = dict(data)
    weights = {k: v for k, v in entries.items() if isinstance(k, str) and isinstance(v, Tensor)}
    others = sorted(str(k) for k in entries if k not in weights)
    if not weights:
        raise _layout(path, f"entries {_few(others)}" if others else "no entry")
    if others:
        raise ConversionError(
            where=str(path), found=f"{_few(others)} among the weights", wanted="tensors alone",
            hint="save the weights again, without them",
        )  # fmt: skip
    return weights


def _refuse_other_files(path: Path) -> None:
    with path.open("rb") as file:
        head = file.read(32)
    for mark, what in _NOT_WEIGHTS.items():
        if b"\0" not in head and head.lstrip().startswith(mark):
            raise ConversionError(where=str(path), found=what, wanted="weights", hint="fetch the file again")
    if head.startswith(_ZIP_MARK) and not zipfile.is_zipfile(path):
        raise ConversionError(
            where=str(path),
            found=f"a file cut short at {path.stat().st_size:,} bytes: its list of contents is missing",
            wanted="the whole checkpoint",
            hint="fetch it again, and compare its size with the publisher's",
        )


def _broken(path: Path, error: Exception) -> ConversionError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return ConversionError(
        where=str(path),
        found=f"cannot be read: {reason}",
        wanted="a whole file of safetensors, or of torch.save",
        hint="fetch it again, and compare its size with the publisher's",
    )


def _code(path: Path, found: str) -> ConversionError:
    return ConversionError(
        where=str(path),
        found=f"a pickle with more than weights in it, which could run code: {found}",
        wanted="tensors, numbers, texts, lists and dictionaries alone",
        hint="do not use the file; if you trust its maker, open it with the maker's own program in a place of "
        "its own, save its weights alone as safetensors, and convert that",
    )


def _layout(path: Path, found: str) -> ConversionError:
    return ConversionError(
        where=str(path),
        found=found,
        wanted=f"weights by name, or under one of {', '.join(map(repr, STATE_KEYS))}",
        hint="check that this is the file meant",
    )


DIFFUSERS_STEMS: Final = ("diffusion_pytorch_model",)


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; raises ConversionError."""
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(
            where=str(path),
            found="no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}",
            wanted="a part's configuration in diffusers layout",
            hint="give the folder that holds model_index.json, whole",
        ) from error
    if not isinstance(data, dict):
        raise ConversionError(where=str(path), found="not a JSON object", wanted="a configuration")
    return data


def read_weights(folder: Path, stems: Sequence[str], variant: str | None = None) -> Checkpoint:
    """The weights of a part: STEM.safetensors, else STEM.bin; `variant` as in STEM.fp16.safetensors.

    Raises ConversionError if there are none, or only in several pieces.
    """
    middle = f".{variant}" if variant else ""
    for suffix in ("safetensors", "bin"):
        for stem in stems:
            path = folder / f"{stem}{middle}.{suffix}"
            if path.is_file():
                return read_checkpoint(path)
    files = sorted(file.name for file in folder.glob("*")) if folder.is_dir() else []
    found = f"{', '.join(files) or 'no files'}"
    pieces = any(name.endswith(".index.json") for name in files)
    raise ConversionError(
        where=str(folder),
        found=found,
        wanted=" or ".join(f"{stem}{middle}.safetensors" for stem in stems) + ", or the same as .bin",
        hint="save the part in one piece: save_pretrained(..., max_shard_size='100GB')"
        if pieces
        else "fetch the folder again; weights such as model.fp16.safetensors are taken with --variant fp16",
    )


def build_empty(make: Callable[[], Any]) -> Any:
    """The network that `make` builds, its weights without memory until load_whole assigns them."""
    with torch.device("meta"):
        return make()


def load_whole(what: str, network: nn.Module, weights: Mapping[str, Tensor], unused: Sequence[str] = ()) -> nn.Module:
    """The network with exactly these weights, ready for inference; `unused` are keys that found no place.

    Tensors are taken over without a copy. Raises ConversionError naming the keys and shapes that differ.
    """
    wanted = network.state_dict()
    problems = []
    surplus = sorted([*unused, *(key for key in weights if key not in wanted)])
    missing = [key for key in wanted if weights.get(key) is None]
    if surplus:
        problems.append(f"{len(surplus)} keys without a place: {_few(surplus)}")
    if missing:
        problems.append(f"nothing for {len(missing)} weights (by their names here): {_few(missing)}")
    shapes = [
        f"{key} {list(weights[key].shape)} where {list(value.shape)} is wanted"
        for key, value in wanted.items()
        if key not in missing and weights[key].shape != value.shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} other shapes: {_few(shapes)}")
    if problems:
        raise mismatch(what, "; ".join(problems))
    network.load_state_dict(dict(weights), strict=True, assign=True)
    empty = [name for name, value in network.state_dict(keep_vars=True).items() if value.is_meta]
    assert not empty, f"{what}: {empty} were not assigned"
    return network.eval()


def untouched(source: Mapping[str, Tensor], converted: Mapping[str, Tensor | None]) -> list[str]:
    """Keys of the source of which no converted value is a view: a converter left them out."""
    used = {value.data_ptr() for value in converted.values() if value is not None}
    return [key for key, value in source.items() if value.data_ptr() not in used]


def mismatch(what: str, found: str) -> ConversionError:
    """The weights are not those of the architecture."""
    return ConversionError(
        where=what,
        found=found,
        wanted="every weight of the architecture, and no other",
        hint="check that the file is the one meant and whole; weights of other sizes need --config, the YAML "
        "that they were trained with",
    )


def without_place(what: str, keys: Collection[str]) -> ConversionError:
    """Keys that no table knows."""
    return mismatch(what, f"{len(keys)} keys without a place: {_few(sorted(keys))}")


def _few(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
