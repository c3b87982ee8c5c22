"""The recipe's JSON schema, for editors and for scripts that write recipes."""

from __future__ import annotations

from typing import Any

from xreal_synth.recipe.schema import Recipe


def json_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of recipe version 1, with descriptions, ranges and defaults."""
    schema = Recipe.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "xreal-synth recipe",
    }
