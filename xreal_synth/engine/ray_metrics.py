"""Metrics told to the agent of this process's node, which Prometheus asks. Where there is no agent, nothing happens."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

from xreal_synth.engine.metrics import SECONDS, Metric


class Exported:
    """Where a driver tells, or an actor by its name. Ray must be up; its objects are made at a metric's first use."""

    def __init__(self, dataset: str, actor: str = "") -> None:
        self._tags = {"dataset": dataset, "actor": actor} if actor else {"dataset": dataset}
        self._made: dict[str, Counter | Gauge | Histogram] = {}

    def __call__(self, metric: Metric, value: float, **tags: str) -> None:
        made = self._made.get(metric.name) or self._make(metric)
        if isinstance(made, Counter):
            made.inc(value, tags=tags)
        elif isinstance(made, Gauge):
            made.set(value, tags=tags)
        else:
            made.observe(value, tags=tags)

    def _make(self, metric: Metric) -> Counter | Gauge | Histogram:
        about = metric.full_name, metric.help
        keys = (*self._tags, *metric.tags)
        made: Counter | Gauge | Histogram
        if metric.kind == "histogram":
            made = Histogram(*about, list(map(float, SECONDS)), keys)
        else:
            made = (Counter if metric.kind == "counter" else Gauge)(*about, keys)
        made.set_default_tags(self._tags)
        self._made[metric.name] = made
        return made
