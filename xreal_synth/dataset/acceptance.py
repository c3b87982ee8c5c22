"""Counts of what the gate did: from a shard's rows and refused attempts, and summed over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from xreal_synth.findings import NO_FINDING
from xreal_synth.types import Acceptance, Rejected, SampleMeta, ShardRecord

PLACEMENT = "placement"


@dataclass(slots=True)
class GateTally:
    """Adds up what the gate did; `total` is None while nothing gated was added."""

    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    gated: bool = False

    def add(self, gate: Acceptance | None) -> None:
        """Adds a shard's counts; None is a shard that was made without a gate."""
        if gate is None:
            return
        self.gated = True
        self.tried.update(gate.tried)
        self.accepted.update(gate.accepted)
        self.reasons.update(gate.reasons)
        self.flags.update(gate.flags)

    @property
    def total(self) -> Acceptance | None:
        """The sums by name, None if no shard had a gate."""
        if not self.gated:
            return None
        return Acceptance(*(_sorted(one) for one in (self.tried, self.accepted, self.reasons, self.flags)))


def count_acceptance(metas: Sequence[SampleMeta], rejected: Iterable[Rejected]) -> Acceptance:
    """A shard's images, a group's side by side, and its refused attempts; what had no place was not tried."""
    tally = GateTally(gated=True)
    for _, members in groupby(metas, key=lambda meta: meta.group):
        reported = list(members)
        names = _asked(tuple(finding.name for meta in reported for finding in meta.findings))
        tally.tried.update(names)
        tally.accepted.update(names)
        for meta in reported:
            tally.flags.update(() if meta.quality is None else meta.quality.flags)
    for reject in rejected:
        tally.reasons[reject.check] += 1
        if reject.check != PLACEMENT:
            tally.tried.update(_asked(reject.findings))
    total = tally.total
    assert total is not None
    return total


def refused_by_check(record: ShardRecord) -> dict[str, int]:
    """A shard's rejected attempts by the check that refused them; without a gate only boxes can have no place."""
    if record.gate is not None:
        return record.gate.reasons
    return {PLACEMENT: record.rejected} if record.rejected else {}


def _asked(findings: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(findings)) or (NO_FINDING,)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
