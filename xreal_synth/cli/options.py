"""What the verbs share: options and the console."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import filesize
from rich.console import Console
from rich.table import Table
from rich.text import Text

from xreal_synth.escaping import for_terminal


class _Terminal(Console):
    """Shows texts as they are, brackets and colons too, but so that none steers the terminal or tells a credential."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(for_terminal(text), **how)


console = _Terminal(highlight=False, soft_wrap=False, markup=False, emoji=False)
notes = _Terminal(stderr=True, highlight=False, markup=False, emoji=False)

RecipeArgument = Annotated[
    Path,
    typer.Argument(help="The recipe: a YAML file, or a name from `recipe list`.", show_default=False, metavar="RECIPE"),
]
OutputOption = Annotated[
    str | None, typer.Option("--output", "-o", metavar="URI", help="Replaces output.uri.", show_default="the recipe's")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Replaces one field of the recipe, e.g. anatomies=64 or findings[1].weight=2; may be repeated.",
        show_default=False,
    ),
]
AddressOption = Annotated[
    str | None, typer.Option(help="A running Ray cluster's address; without it a local Ray is started and ended.")
]
BundlePlaceOption = Annotated[
    str | None, typer.Option("--bundle", help="Where the bundle is, if not where it was.", show_default="the dataset's")
]
ImagesPlaceOption = Annotated[
    str | None,
    typer.Option(
        "--images",
        help="Where its real images or organ masks are, if not where they were.",
        show_default="the recipe's",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Prints one JSON object for scripts.")]


def first_sentence(text: str) -> str:
    """Of a YAML file's first comment."""
    lines = takewhile(lambda line: line.startswith("# "), text.splitlines())
    return re.split(r"(?<=[.:]) ", " ".join(line[1:].strip() for line in lines))[0].rstrip(".:")


def examples(*lines: str) -> str:
    """The epilog of a verb's help: commands that can be copied."""
    return "Examples:\n\n" + "\n\n".join(f"  {line}" for line in lines)


def facts_table(facts: Iterable[tuple[str, str]], **how: Any) -> Table:
    """Names with what is said of each; `how` is rich's."""
    table = Table(show_header=False, **how)
    for name, text in facts:
        table.add_row(name, text)
    return table


def gpus_here() -> float:
    """1 where torch sees a GPU."""
    import torch

    return float(torch.cuda.is_available())


def note(line: str) -> None:
    """A line beside the output."""
    notes.print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write(re.sub(r"[\x7f-\x9f]", lambda one: f"\\u{ord(one[0]):04x}", text) + "\n")


def told(as_json: bool, fields: dict[str, object], line: str) -> None:
    """A command's result: for scripts, or in a line."""
    if as_json:
        print_json(fields)
    else:
        console.print(line, soft_wrap=True)


def progress_console(as_json: bool) -> Console:
    """Where progress is shown: beside the output where that is JSON."""
    return notes if as_json and not console.quiet else console


def seconds_text(seconds: float) -> str:
    """`42 s`, `3.5 min`, `7.2 h`, `12 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:,.0f} days"


def bytes_text(size: float) -> str:
    """`12.3 MB`, powers of 1000."""
    return filesize.decimal(round(size))
