"""Figures that these images do not have: NaN inside, null in JSON, which has no NaN."""

from __future__ import annotations

import math
from typing import Any


def null_for_nan(value: Any) -> Any:
    """Plain data with None for every NaN."""
    if isinstance(value, dict):
        return {key: null_for_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [null_for_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def nan_for_null(value: Any) -> Any:
    """Plain data with NaN for every None."""
    if isinstance(value, dict):
        return {key: nan_for_null(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [nan_for_null(inner) for inner in value]
    return math.nan if value is None else value
