"""`xreal-synth VERB`: one file per verb; a user's mistake ends with a message and exit code 2."""

from __future__ import annotations

import errno
import sys
from typing import Annotated

import typer

from xreal_synth import __version__
from xreal_synth.cli import (
    bench,
    bundle,
    convert,
    doctor,
    evaluate,
    export,
    generate,
    plan,
    prepare,
    preview,
    quality,
    recipe,
    repair,
    replay,
    report,
    status,
    studio,
    submit,
    train,
    verify,
)
from xreal_synth.cli.options import notes
from xreal_synth.engine.quiet import quiet_ray
from xreal_synth.errors import XrealError

app = typer.Typer(
    name="xreal-synth",
    help="Labelled synthetic chest X-rays from a recipe: plan, preview, generate, verify.",
    epilog="Exit codes: 0 complete, 2 a mistake in what was asked (nothing written), "
    "3 partial (what failed is listed), 75 stopped, run the same command again to go on.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


_OF_PLACES = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOENT, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ESTALE, errno.EIO,
)  # fmt: skip
"""What the system says of a place that cannot be used; anything else is our own bug."""


def _version(show: bool) -> None:
    if show:
        typer.echo(f"xreal-synth {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Prints the version.")
    ] = False,
) -> None:
    pass


for module in (
    doctor,
    plan,
    preview,
    studio,
    generate,
    submit,
    status,
    verify,
    repair,
    replay,
    report,
    prepare,
    train,
    evaluate,
    bench,
    export,
):
    module.register(app)
app.add_typer(recipe.app, name="recipe")
app.add_typer(bundle.app, name="bundle")
app.add_typer(convert.app, name="convert")
app.add_typer(quality.app, name="quality")


def main() -> None:
    """The console script."""
    quiet_ray()
    try:
        app()
    except XrealError as error:
        notes.print(f"error: {error}", soft_wrap=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        if error.errno not in _OF_PLACES:
            raise
        notes.print(f"error: {_place_error(error)}", soft_wrap=True)
        sys.exit(2)


def _place_error(error: OSError) -> XrealError:
    named = f"{error.filename}: " if error.filename is not None else ""
    return XrealError(
        found=f"{named}{error.strerror}", wanted="a place that is there, may be written, and has room",
        hint="make room, or give another place; TMPDIR says where temporary files go",
    )  # fmt: skip


if __name__ == "__main__":
    main()
