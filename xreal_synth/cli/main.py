"""`xreal-synth VERB`: one file per verb; a user's mistake ends with a message and exit code 2."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer import Option
from typer.core import TyperGroup

from xreal_synth import __version__
from xreal_synth.cli.options import examples
from xreal_synth.cli.output import console, note, notes, say
from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.errors import RecipeError, XrealError
from xreal_synth.models.describe import describe, shipped_bundles
from xreal_synth.recipe.explain import RENAMED, known_keys
from xreal_synth.recipe.kinds import near, number_words
from xreal_synth.storage import is_remote, require_writable, scheme_of

_ANYWHERE: Final = ("-q", "--quiet", "-v", "--verbose")


class _Commands(TyperGroup):
    """Takes --quiet and --verbose behind a command too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ours = [arg for arg in args if arg in _ANYWHERE]
        return super().parse_args(ctx, ours + [arg for arg in args if arg not in _ANYWHERE])


app = typer.Typer(
    name="xreal-synth",
    cls=_Commands,
    help="Labelled synthetic chest X-rays from a recipe: plan, preview, generate, verify.",
    epilog="Exit codes: 0 complete, 2 a mistake in what was asked (nothing written), 3 partial (what failed is "
    "listed), 75 stopped, run the same command again to go on; 130 interrupted at once.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


_OF_PLACES = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE, errno.EIO,
)  # fmt: skip
"""What the system says of a place that cannot be used; anything else is our own bug."""
_INTERRUPTED: Final = 130


def _version(show: bool) -> None:
    if show:
        typer.echo(f"xreal-synth {__version__}")
        raise typer.Exit


def _license(show: bool) -> None:
    if show:
        lines = ["code: Apache-2.0"]
        for info in map(describe, shipped_bundles()):
            lines += [f"bundle {info.name}: {info.licence}; {info.use_restriction}"]
            lines += [f"  trained on {info.training_data}"]
        lines += ["datasets: that of the bundle which made them; each says so in its README.md"]
        say("\n".join(lines))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, Option("--version", "-V", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
    licences: Annotated[
        bool, Option("--license", callback=_license, is_eager=True, help="Prints the licences of code, bundles, data.")
    ] = False,
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Prints no more than warnings, errors and --json; after a command too.")
    ] = False,
    verbose: Annotated[
        bool, Option("--verbose", "-v", help="Prints where in the code an error comes from; after a command too.")
    ] = False,
) -> None:
    console.quiet = quiet


PANELS: Final = {
    "Begin": ("studio", "doctor", "recipe", "bundle"),
    "Make a dataset": ("plan", "preview", "generate", "submit"),
    "Look after a dataset": ("status", "verify", "repair", "replay", "report", "export"),
    "Train and convert models": ("prepare", "train", "convert"),
    "Measure": ("evaluate", "bench", "quality"),
}
"""The verbs, each a module of this room, with an `app` of its own or a function of the verb's name."""
for panel, verbs in PANELS.items():
    for verb in verbs:
        module: Any = import_module(f"xreal_synth.cli.{verb}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=verb)
        else:
            app.command(epilog=examples(*module.EXAMPLES))(getattr(module, verb))
    entries: list[Any] = [*app.registered_commands, *app.registered_groups]
    for entry in entries:
        if not isinstance(entry.rich_help_panel, str):
            entry.rich_help_panel = panel


def main() -> None:
    """The console script."""
    quiet_ray()
    command: Any = typer.main.get_command(app)
    check_options(command)
    console.quiet = False
    try:
        code = command(prog_name="xreal-synth", standalone_mode=False)
    except BrokenPipeError:
        code = 0
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except (XrealError, UsageError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _OF_PLACES:
            raise
        if {"-v", "--verbose"} & set(sys.argv):
            traceback.print_exc()
        if isinstance(error, OSError):
            error = _place_error(error)
        ours = error if isinstance(error, XrealError) else usage_error(error)
        if ours.found:  # of a group without a command typer has printed the help, and says nothing more
            note(f"error: {ours}{_missing_hint(ours)}")
        code = 2
    if code == _INTERRUPTED:
        notes.print("interrupted: what is finished is kept; the same command goes on, or begins again")
    sys.exit(code if isinstance(code, int) else 0)


def _missing_hint(error: XrealError) -> str:
    """Where to read on, for an error that has no hint of its own."""
    if isinstance(error, RecipeError):
        hinted = all(problem.hint for problem in error.problems)
        hint = "xreal-synth recipe schema prints every key with its range and default"
    else:
        hinted = bool(error.hint)
        verb = [word for word in sys.argv[1:2] if not word.startswith("-")]
        hint = " ".join(["xreal-synth", *verb, "-h"])
    return "" if hinted else f"\n  hint:   {hint}"


def _place_error(error: OSError) -> XrealError:
    named = f"{error.filename}: " if error.filename is not None else ""
    return XrealError(
        found=f"{named}{error.strerror}", wanted="a place that is there, may be written, and has room",
        hint="make room, or give another place; TMPDIR says where temporary files go",
    )  # fmt: skip


UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]
"""typer's own, or click's: whichever parses."""


def usage_error(error: Any) -> XrealError:
    """What a command line was refused for, as one of our errors."""
    context, param = error.ctx, getattr(error, "param", None)
    path = context.command_path if context is not None else "xreal-synth"
    found = re.sub(r"\.?( \(Possible options.*| Did you mean.*)|Value error, |\.$", "", error.format_message())
    wanted = getattr(param, "help", None) or (
        context.get_usage().partition(" ")[2] if context else "its value after it"
    )
    kind = getattr(param, "type", param)  # click's types have the range, or typer's own options
    low, high = (getattr(kind, limit, None) for limit in ("min", "max"))
    if low is not None or high is not None:
        wanted = f"{number_words('a number', ge=low, le=high)}: {wanted}"
    return XrealError(found=found, wanted=wanted, hint=_hint(error) or f"{path} -h")


def _hint(error: Any) -> str:
    option = getattr(error, "option_name", "")
    takes_set = error.ctx is not None and any("--set" in param.opts for param in error.ctx.command.params)
    if option and error.ctx is None:  # the last word of a line, without its value
        return f"write {option} VALUE"
    if option:
        key = RENAMED.get(option.lstrip("-"), option.lstrip("-").replace("-", "_"))
        if takes_set and (home := _home(key)):
            return f"a key of the recipe: --set {home}=VALUE"
        names = [name for param in error.ctx.command.params for name in param.opts]
        return near(option, [name for name in names if name.startswith("-")])
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


if __name__ == "__main__":
    main()
