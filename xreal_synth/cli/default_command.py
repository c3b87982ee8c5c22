"""A group of commands of which one need not be named: `evaluate out/set` is `evaluate dataset out/set`."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from typer.core import TyperGroup


def group_with_default(command: str) -> type[TyperGroup]:
    """A group that takes `command` where the first word is none of its commands, and no mistyped one."""

    class WithDefault(TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if args and not self._is_own(args[0], ctx):
                args = [command, *args]
            return super().parse_args(ctx, args)

        def _is_own(self, word: str, ctx: Any) -> bool:
            if word in self.commands or word in ctx.help_option_names:
                return True
            return bool(get_close_matches(word, list(self.commands))) and not Path(word).exists()

    return WithDefault
