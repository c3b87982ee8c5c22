"""`xreal-synth submit RECIPE --address URL`."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from typer import Option

from xreal_synth.cli.options import JsonOption, RecipeArgument, SetOption
from xreal_synth.cli.output import console, note, notes, print_json
from xreal_synth.dataset.status import read_note
from xreal_synth.engine.job_package import megabytes, output_place, pack_job
from xreal_synth.engine.progress import COMPLETE, STOPPED
from xreal_synth.errors import AnatomyError, BundleError, XrealError
from xreal_synth.escaping import for_terminal
from xreal_synth.from_recipe import open_recipe
from xreal_synth.recipe.load import load_recipe, recipe_file
from xreal_synth.recipe.schema import Recipe
from xreal_synth.run.setup import require_placeable
from xreal_synth.storage import open_store

if TYPE_CHECKING:
    from xreal_synth.engine.ray_submit import Cluster, JobEnd

LEFT = 130
"""Ctrl-C: this command ends, the job does not."""

EXAMPLES = (
    "xreal-synth submit recipes/smoke.yaml --address http://127.0.0.1:8265 --output-root /shared/sets",
    "xreal-synth submit mine.yaml --address http://127.0.0.1:8265 --output-root s3://bucket/sets --no-wait",
)


def submit(
    recipe: RecipeArgument,
    address: Annotated[
        str,
        Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help="The cluster's dashboard, http://HOST:8265. A token is taken from RAY_AUTH_TOKEN or "
            "~/.ray/auth_token, with RAY_AUTH_MODE=token.",
        ),
    ],
    output_root: Annotated[
        str | None, Option(metavar="URI", help="An absolute place; a relative output.uri of the recipe goes below it.")
    ] = None,
    overrides: SetOption = None,
    working_dir: Annotated[
        Path,
        Option(
            exists=True,
            file_okay=False,
            help="Where the recipe's relative paths start. Only the recipe and what it names are taken along.",
        ),
    ] = Path(),
    on_nodes: Annotated[
        bool, Option("--on-nodes", help="Absolute paths of bundle, masks and images are the same on every node.")
    ] = False,
    ship_code: Annotated[
        bool, Option("--ship-code", help="Takes this very package along, for nodes with another version.")
    ] = False,
    plain_token: Annotated[
        bool, Option("--plain-token", help="Lets the token go unencrypted over http:// to another machine.")
    ] = False,
    wait: Annotated[bool, Option("--wait/--no-wait", help="Follows the job to its end, or just starts it.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Runs a recipe on a Ray cluster: checks it here, sends it, follows it, ends with the driver's exit code.

    Ctrl-C leaves the job running. Submitting the same again goes on after the last finished shard.
    """
    recipe = recipe_file(recipe)
    loaded = _checked(recipe, overrides, output_root, working_dir, on_nodes)
    from xreal_synth.engine.ray_submit import connect, submit

    package = pack_job(loaded, recipe, working_dir, on_nodes=on_nodes, code=ship_code)
    cluster = connect(address, plain_token=plain_token)
    for line in (*package.notes, *cluster.notes):
        note(f"note: {line}")
    arguments = ["--output-root", output_root] if output_root else []
    arguments += [part for override in overrides or () for part in ("--set", override)]
    note(f"taking along {len(package.files)} files, {megabytes(package.bytes)}")
    job = submit(cluster, package, arguments, name=f"xreal_synth:{loaded.name}", drain_s=loaded.compute.drain_s)
    place = output_place(loaded.output.uri, output_root)
    for line in (
        f"job {job} makes {place}",
        f"  how far it is: xreal-synth status {place} --watch",
        f"  its lines:     ray job logs --address {address} --follow {job}",
        f"  to stop it:    ray job stop --address {address} {job}",
    ):
        (notes if as_json else console).print(line, soft_wrap=True)
    if not wait:
        if as_json:
            print_json({"job": job, "uri": place, "exit_code": None})
        return
    end = _followed(cluster, job, sys.stderr if as_json else sys.stdout)
    code = end.exit_code
    if code == STOPPED and _complete(place):
        code = COMPLETE
    if code:
        note(f"job {job} ended with {code}: {end.message}")
    if as_json:
        print_json({"job": job, "uri": place, "exit_code": code})
    raise typer.Exit(code)


def _followed(cluster: Cluster, job: str, out: TextIO) -> JobEnd:
    """The job's end; its lines go to `out` until then."""
    from xreal_synth.engine.ray_submit import follow

    def pass_on(text: str) -> None:
        print(for_terminal(text), end="", file=out, flush=True)

    try:
        return follow(cluster, job, pass_on)
    except KeyboardInterrupt:
        notes.print(f"\nnot following any more; job {job} goes on (see above how to follow or stop it)")
        raise typer.Exit(LEFT) from None


def _complete(place: str) -> bool:
    """Whether a job that was stopped, of whose end Ray says no more, has finished its dataset, as far as it can be
    seen from here."""
    try:
        note = read_note(open_store(place))
    except (XrealError, OSError):
        return False
    return note is not None and note.exit_code == COMPLETE


def _checked(file: Path, overrides: list[str] | None, root: str | None, folder: Path, on_nodes: bool) -> Recipe:
    """The recipe, checked as far as this machine can: whole where its bundle is here, else its text alone."""
    recipe = load_recipe(file, overrides=overrides or ()).recipe
    place = output_place(recipe.output.uri, root)
    file = file.absolute()
    with contextlib.chdir(folder):
        try:
            run = open_recipe(file, overrides=overrides or (), output=place, say=note)
            require_placeable(run, str(file))
        except (AnatomyError, BundleError) as error:
            if not on_nodes:
                raise
            note(f"note: checked without bundle and masks, which are not here: {error.found}")
    return recipe
