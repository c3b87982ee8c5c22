"""The Grafana board: its queries parse, and ask for what this package and the installed Ray export."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from xreal_synth.engine.metrics import ACTOR, RUN

FOLDER = Path(__file__).parents[2] / "cluster" / "grafana"
BOARD = json.loads((FOLDER / "xreal_synth.json").read_text())
EVERYWHERE = {"dataset", "SessionName", "NodeAddress", "WorkerId", "Component", "Version", "le"}
"""Tags of every metric of ours: our own, and those that Ray adds; `le` is a histogram's bucket."""
OURS = {
    name: EVERYWHERE | set(metric.tags) | ({"actor"} if metric in ACTOR else set())
    for metric in (*RUN, *ACTOR)
    for name in metric.series
}
RAYS = {f"ray_{name}": {"SessionName", *gauge.view.columns} for name, gauge in METRICS_GAUGES.items()}


def queries(board: dict[str, Any]) -> list[str]:
    """The panels' queries with Grafana's variables filled in."""
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return [
        re.sub(r"\$__(rate_interval|range)", "5m", text).replace("$dataset", ".+").replace("$session", ".+")
        for text in expressions
    ]


def selectors(query: str) -> list[tuple[str, set[str]]]:
    """The metrics that a query reads, each with the tags it filters by."""
    text = promql_parser.parse(query).prettify()
    found = re.findall(r"\b(ray_[a-z_]+)\{([^}]*)\}", text)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", tags))) for name, tags in found]


def grouped(query: str) -> set[str]:
    """The tags by which it sums."""
    return {tag.strip() for tags in re.findall(r"\bby \(([^)]*)\)", query) for tag in tags.split(",")}


@pytest.mark.parametrize("query", queries(BOARD))
def test_a_query_asks_for_what_there_is(query: str) -> None:
    read = selectors(query)
    assert read
    for name, tags in read:
        known = OURS.get(name) or RAYS.get(name)
        assert known is not None, f"nobody exports {name}"
        assert tags <= known, name
        assert grouped(query) <= known, name


def test_every_metric_of_ours_is_on_the_board() -> None:
    read = {name for query in queries(BOARD) for name, _ in selectors(query)}
    left_out = {metric.name for metric in (*RUN, *ACTOR) if read.isdisjoint(metric.series)}
    assert left_out == {"images_generated"}, "images per second tell it"


def test_a_parser_that_would_find_mistakes() -> None:
    for wrong in ("sum by (dataset (ray_x)", "rate(ray_x)", 'ray_x{dataset=~".+"', "histogram_quantile(ray_x[5m])"):
        with pytest.raises(ValueError):
            promql_parser.parse(wrong)
    assert selectors('sum(ray_x{a="b", c=~".+"}) / sum(rate(ray_y_total{d!="e"}[5m]))') == [
        ("ray_x", {"a", "c"}), ("ray_y_total", {"d"}),
    ]  # fmt: skip


def test_the_board_as_grafana_wants_it() -> None:
    panels = BOARD["panels"]
    assert BOARD["uid"] == "xreal-synth"
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    variables = {one["name"]: one for one in BOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "session", "dataset"}
    for name in ("session", "dataset"):
        metric, tag = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variables[name]["definition"]).groups()
        assert tag in (OURS.get(metric) or RAYS[metric])
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert all(target["datasource"] == panel["datasource"] for target in panel["targets"])


def test_prometheus_finds_the_pods() -> None:
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    for name in ("raycluster.yaml", "rayjob.yaml"):
        cluster = yaml.safe_load((FOLDER.parent / "kuberay" / name).read_text())["spec"]
        cluster = cluster.get("rayClusterSpec", cluster)
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            (container,) = group["template"]["spec"]["containers"]
            ports = {port["name"]: port["containerPort"] for port in container["ports"]}
            assert str(ports[endpoint["port"]]) == group["rayStartParams"]["metrics-export-port"]
