"""Mistakes on the command line itself, told like all others; and what all commands have in common."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import typer

from xreal_synth.errors import XrealError
from xreal_synth.recipe.explain import RENAMED, known_keys
from xreal_synth.recipe.kinds import near, number_words
from xreal_synth.storage import is_remote, require_writable, scheme_of

UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]
"""typer's own, or click's: whichever parses."""


def usage_error(error: Any) -> XrealError:
    """What a command line was refused for, as one of our errors."""
    context, param = error.ctx, getattr(error, "param", None)
    path = context.command_path if context is not None else "xreal-synth"
    found = re.sub(r"\.?( \(Possible options.*| Did you mean.*)|Value error, |\.$", "", error.format_message())
    wanted = getattr(param, "help", None) or (context.get_usage().partition(" ")[2] if context else "")
    kind = getattr(param, "type", param)  # click's types have the range, or typer's own options
    low, high = (getattr(kind, limit, None) for limit in ("min", "max"))
    if low is not None or high is not None:
        wanted = f"{number_words('a number', ge=low, le=high)}: {wanted}"
    return XrealError(found=found, wanted=wanted, hint=_hint(error) or f"{path} -h")


def _hint(error: Any) -> str:
    option = getattr(error, "option_name", "")
    takes_set = error.ctx is not None and any("--set" in param.opts for param in error.ctx.command.params)
    if option:
        key = RENAMED.get(option.lstrip("-"), option.lstrip("-").replace("-", "_"))
        if takes_set and (home := _home(key)):
            return f"a key of the recipe: --set {home}=VALUE"
        return near(option, [name for param in error.ctx.command.params for name in param.opts])
    if takes_set and (extra := re.search(r"extra argument.*\((\w[^= ]*)=([^) ]*)", error.message)):
        return f"--set {RENAMED.get(extra[1], extra[1])}={extra[2]}"
    word, *choices = re.findall(r"'([^']+)'", error.message) or [""]
    return near(word, choices or getattr(error.ctx and error.ctx.command, "commands", []))


def _home(key: str) -> str:
    """The path of a recipe's key: `sampling.steps` of `steps`; the outermost where there are several."""
    homes = [[*place, key] for place, keys in known_keys().items() if key in keys and "[]" not in place]
    return ".".join(sorted(homes, key=len)[0]) if homes else ""


def check_options(command: Any) -> None:
    """Has every command below this one look at --out and --device before it does anything; and take the other
    spelling of --licence."""
    for param in command.params:
        if "--licence" in param.opts:
            param.opts.append("--license")
        check = _CHECKS.get(param.name)
        if check is not None and param.callback is None:
            param.callback = check
    for inner in getattr(command, "commands", {}).values():
        check_options(inner)


def _out(context: Any, param: Any, value: Any) -> Any:
    """An output that can be written: raises XrealError, and leaves nothing."""
    if value is not None:
        text = str(value).replace(":/", "://", 1).replace(":///", "://", 1)
        if is_remote(text):
            raise XrealError(
                where=param.opts[0], found=f"a {scheme_of(text)}:// URI", wanted="a local folder or file",
                hint="write it here, then copy it there",
            )  # fmt: skip
        path = Path(value).expanduser()
        require_writable(path if path.is_dir() else path.parent)
    return value


def _device(context: Any, param: Any, value: Any) -> Any:
    """A device that torch knows and this machine has. Raises XrealError."""
    if value is None:
        return value
    import torch

    kind, _, number = str(value).partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise XrealError(
            where=param.opts[0], found=str(value), wanted="cpu, cuda, or one of several: cuda:1",
            hint=near(kind, ["cpu", "cuda"]) or "--device cuda for an NVIDIA GPU",
        )  # fmt: skip
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count() or "no"
        raise XrealError(
            where=param.opts[0], found=f"{value}, and torch sees {count} GPU on this machine",
            wanted="a device that is there", hint="--device cpu, or look with xreal-synth doctor",
        )  # fmt: skip
    return value


_CHECKS: Final = {"out": _out, "device": _device}
