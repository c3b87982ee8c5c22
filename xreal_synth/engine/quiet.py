"""What of Ray's own talk is left out of our output. Imports nothing, so that --help stays quick."""

from __future__ import annotations

import os

RAY_CHATTER = "A worker died or was killed|Raylet is terminated|The node with node id"
"""What Ray prints to standard output of deaths that our own events tell, with pages of its logs."""


def quiet_ray() -> None:
    """Leaves that out, unless the user has set what to leave out. To be called before Ray is imported."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", RAY_CHATTER)
