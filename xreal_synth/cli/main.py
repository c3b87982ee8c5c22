"""`xreal-synth VERB`: one file per verb; a user's mistake ends with a message and exit code 2."""

from __future__ import annotations

import errno
import sys
import traceback
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from xreal_synth import __version__
from xreal_synth.cli.options import examples
from xreal_synth.cli.output import console, notes
from xreal_synth.cli.usage import UsageError, check_options, usage_error
from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.errors import RecipeError, XrealError
from xreal_synth.models.describe import describe, shipped_bundles

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
        console.print("\n".join(lines), soft_wrap=True)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
    licences: Annotated[
        bool,
        typer.Option("--license", callback=_license, is_eager=True, help="Prints the licences of code, bundles, data."),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option("--quiet", "-q", help="Prints no more than warnings, errors and --json; after a command too."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Prints where in the code an error comes from; after a command too.")
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
"""The verbs, each a module of this room: with `register`, an `app` of its own, or a function of the verb's name."""
for panel, verbs in PANELS.items():
    for verb in verbs:
        module: Any = import_module(f"xreal_synth.cli.{verb}")
        if hasattr(module, "register"):
            module.register(app)
        elif hasattr(module, "app"):
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
        notes.print(f"error: {ours}{_missing_hint(ours)}", soft_wrap=True)
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


if __name__ == "__main__":
    main()
