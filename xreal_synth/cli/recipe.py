"""`xreal-synth recipe list | new | schema | check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from xreal_synth.cli.options import JsonOption, RecipeArgument, SetOption, examples, first_sentence
from xreal_synth.cli.output import print_json, say, table_of, told
from xreal_synth.errors import Problem, RecipeError
from xreal_synth.recipe.kinds import near
from xreal_synth.recipe.load import load_recipe, shipped_recipes
from xreal_synth.recipe.schema import json_schema
from xreal_synth.storage import require_writable

app = typer.Typer(
    help="The recipes that come with the package, their schema, and a check of a recipe.", no_args_is_help=True
)


@app.command("list", epilog=examples("xreal-synth recipe list", "xreal-synth generate quickstart"))
def list_recipes(as_json: JsonOption = False) -> None:
    """Names the recipes that come with the package; every command takes them by name."""
    about = {name: first_sentence(path.read_text("utf-8")) for name, path in shipped_recipes().items()}
    told(as_json, about, table_of(about.items(), "recipe", "what it makes", show_edge=False))


@app.command(
    epilog=examples("xreal-synth recipe new mine.yaml", "xreal-synth recipe new mine.yaml --from multi-finding")
)
def new(
    file: Annotated[Path, Argument(help="The file to write.")],
    like: Annotated[str, Option("--from", metavar="NAME", help="A recipe that comes with the package.")] = "quickstart",
) -> None:
    """Writes a recipe to begin with, with its comments; `name` and output.uri are the file's name."""
    known = shipped_recipes()
    if like not in known:
        raise RecipeError(
            "--from", [Problem("", f"no recipe {like!r}", f"one of {', '.join(known)}", near(like, known))]
        )
    name = re.sub(r"[^a-z0-9._-]+", "-", file.stem.lower()).strip("-._") or "mine"
    text = known[like].read_text(encoding="utf-8")
    text = re.sub(r"(?m)^name: \S+", f"name: {name}", text).replace(f"out/{like}", f"out/{name}")
    text = text.replace(f"{like}-000000", f"{name}-000000")
    text = text.replace(f"recipes/{like}.yaml", str(file))
    require_writable(file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise RecipeError(str(file), [Problem("", "is there already", "a new file", "give another name")]) from None
    say(f"{file}: a recipe like {like}; next: xreal-synth plan {file}")


@app.command(epilog=examples("xreal-synth recipe schema > recipe.schema.json"))
def schema() -> None:
    """Prints the JSON schema of recipe version 1, for editors."""
    print_json(json_schema())


@app.command(
    epilog=examples(
        "xreal-synth recipe check recipes/quickstart.yaml", "xreal-synth recipe check mine.yaml --set anatomies=100"
    )
)
def check(recipe: RecipeArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Checks a recipe by itself and prints every problem at once; bundle and masks are not opened."""
    loaded = load_recipe(recipe, overrides=overrides or ()).recipe
    told(as_json, loaded.model_dump(mode="json"), f"{recipe}: a valid recipe of version {loaded.version}.")
