"""Counts of what the gate did: from a shard's rows and refused attempts, and summed over shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from xreal_synth.findings import NO_FINDING
from xreal_synth.types import Acceptance, Rejected, SampleMeta, ShardRecord

PLACEMENT = "placement"


def count_acceptance(metas: Sequence[SampleMeta], rejected: Iterable[Rejected]) -> Acceptance:
    """A shard's images, a group's side by side, and its refused attempts; what had no place was not tried."""
    tried, accepted, reasons, flags = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for _, members in groupby(metas, key=lambda meta: meta.group):
        reported = list(members)
        accepted.update(_asked([finding.name for meta in reported for finding in meta.findings]))
        for meta in reported:
            flags.update(() if meta.quality is None else meta.quality.flags)
    tried.update(accepted)
    for reject in rejected:
        reasons[reject.check] += 1
        if reject.check != PLACEMENT:
            tried.update(_asked(reject.findings))
    return Acceptance(*(dict(sorted(one.items())) for one in (tried, accepted, reasons, flags)))


def added(one: Acceptance | None, other: Acceptance | None) -> Acceptance | None:
    """The sums by name; None is what was made without a gate."""
    if one is None or other is None:
        return one or other
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("tried", "accepted", "reasons", "flags"))
    return Acceptance(*(dict(sorted((Counter(a) + Counter(b)).items())) for a, b in pairs))


def refused_by_check(record: ShardRecord) -> dict[str, int]:
    """A shard's rejected attempts by the check that refused them; without a gate only boxes can have no place."""
    if record.gate is not None:
        return record.gate.reasons
    return {PLACEMENT: record.rejected} if record.rejected else {}


def _asked(findings: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(findings)) or (NO_FINDING,)
