"""`xreal-synth recipe schema | check`."""

from __future__ import annotations

import typer

from xreal_synth.cli.options import RecipeArgument, SetOption, console, examples, print_json

app = typer.Typer(help="The recipe's schema, and a check of a recipe.", no_args_is_help=True)


@app.command(epilog=examples("xreal-synth recipe schema > recipe.schema.json"))
def schema() -> None:
    """Prints the JSON schema of recipe version 1, for editors."""
    from xreal_synth.recipe.schema import json_schema

    print_json(json_schema())


@app.command(
    epilog=examples(
        "xreal-synth recipe check recipes/quickstart.yaml",
        "xreal-synth recipe check mine.yaml --set anatomies=100",
    )
)
def check(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Checks a recipe by itself and prints every problem at once; bundle and masks are not opened."""
    from xreal_synth.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    console.print(f"{recipe}: a valid recipe of version {loaded.recipe.version}.")
