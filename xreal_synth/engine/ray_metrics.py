"""Metrics told to the agent of this process's node, which Prometheus asks. Where there is no agent, nothing happens."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from xreal_synth.engine.metrics import Emit, Metric


def run_metrics(dataset: str) -> Emit:
    """Where a driver tells. Ray must be up."""
    return _Exported({"dataset": dataset})


def actor_metrics(dataset: str, actor: str) -> Emit:
    """Where an actor tells."""
    return _Exported({"dataset": dataset, "actor": actor})


class _Exported:
    """Ray's objects by metric, made at first use."""

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags = tags
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def __call__(self, metric: Metric, value: float, **tags: str) -> None:
        reported = self._made.get(metric.name)
        if reported is None:
            reported = self._made[metric.name] = self._make(metric)
        if isinstance(reported, Counter):
            reported.inc(value, tags=tags)
        elif isinstance(reported, Gauge):
            reported.set(value, tags=tags)
        else:
            reported.observe(value, tags=tags)

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        keys = (*self._tags, *metric.tags)
        made: Counter | Gauge | Histogram
        if metric.kind == "counter":
            made = Counter(metric.full_name, metric.help, keys)
        elif metric.kind == "gauge":
            made = Gauge(metric.full_name, metric.help, keys)
        else:
            made = Histogram(metric.full_name, metric.help, list(metric.buckets), keys)
        made.set_default_tags(self._tags)
        return made
