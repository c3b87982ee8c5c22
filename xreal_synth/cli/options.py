"""Options and arguments that several verbs take, and texts of their help and lists."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

DatasetArgument = Annotated[str, Argument(help="A dataset folder or URI.", metavar="DATASET")]
RecipeArgument = Annotated[
    Path, Argument(help="The recipe: a YAML file, or a name from `recipe list`.", metavar="RECIPE")
]
OutputOption = Annotated[
    str | None, Option("--output", "-o", metavar="URI", help="Replaces output.uri.", show_default="the recipe's")
]
SetOption = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Replaces one field of the recipe, e.g. anatomies=64 or findings[1].weight=2; may be repeated.",
    ),
]
AddressOption = Annotated[
    str | None, Option(help="A running Ray cluster's address; without it a local Ray is started and ended.")
]
BundlePlaceOption = Annotated[
    str | None, Option(help="Where the bundle is, if not where it was.", show_default="the dataset's")
]
ImagesPlaceOption = Annotated[
    str | None,
    Option(help="Where its real images or organ masks are, if not where they were.", show_default="the recipe's"),
]
JsonOption = Annotated[bool, Option("--json", help="Prints one JSON object for scripts.")]


def examples(*lines: str) -> str:
    """The epilog of a verb's help: commands that can be copied."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def first_sentence(text: str) -> str:
    """Of a YAML file's first comment."""
    lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
    return re.split(r"(?<=[.:]) ", " ".join(line[1:].strip() for line in lines))[0].rstrip(".:")
