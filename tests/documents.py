"""The repository's documents and the code in them: README, guides beside their rooms, cluster, tests, and so on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "cluster").glob("*.md"),
        *(ROOT / "tests").glob("*.md"),
        *(ROOT / "xreal_synth").rglob("*.md"),
    ]
    if "bundles" not in path.parts
)


def guide(room: str) -> Path:
    """The guide of a room of the package."""
    return ROOT / "xreal_synth" / room / "README.md"


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(document: Path) -> Iterator[list[str]]:
    """The words of every command in its sh blocks, comments and `NAME=value` before it left out."""
    for block in blocks(document, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"\w+=", words[0]):
                words = words[1:]
            if words:
                yield words


def inline_commands(document: Path) -> Iterator[list[str]]:
    """The words of every command of ours in text and tables; `convert ..` stands for `xreal-synth convert ..`."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", text):
        if code.startswith(("xreal-synth ", "python -m ", "make ")):
            yield shlex.split(code)
        elif code.startswith("convert "):
            yield ["xreal-synth", *shlex.split(code)]
