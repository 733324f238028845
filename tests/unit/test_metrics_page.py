"""The page about metrics, the alert rules and the dashboard name what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery import Celery
from prometheus_client import REGISTRY

from rebound_celery import Rebound
from rebound_celery.counters import MAX_FIELDS
from rebound_celery.metrics import Work
from rebound_celery.metrics.collector import ReboundCollector
from rebound_celery.metrics.definitions import COUNTER, HISTOGRAM, MAX_LANES, METRICS
from rebound_celery.operate.cli.exporter import PORT, exporter

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "metrics.md").read_text("utf-8")
RULES = DOCS / "prometheus" / "rebound_alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((DOCS / "prometheus" / "rebound_dashboard.json").read_text("utf-8"))
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a line of the page, without its head."""
    table = PAGE.partition(heading)[2].partition("\n\n")[0] if heading else ""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[1:]]


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def expressions() -> Iterator[str]:
    for rule in rules():
        yield rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        yield variable.get("definition", "")


def samples() -> dict[str, set[str]]:
    """Each name that a query may have, and the labels that it has."""
    found = {}
    for metric in METRICS:
        labels = set(metric.labels)
        if metric.kind == HISTOGRAM:
            for end in ("bucket", "count", "sum"):
                found[f"{metric.name}_{end}"] = labels | ({"le"} if end == "bucket" else set())
        else:
            found[metric.shown_name] = labels
    return found


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    expected = [
        [
            f"`{metric.shown_name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels)
            + ("; and those of the setting" if metric.takes_more else ""),
            metric.text,
        ]
        for metric in METRICS
    ]

    assert rows("| metric | kind | labels | what it tells |\n") == expected


def test_names_follow_the_rules_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"rebound_[a-z_]+", metric.name)
        assert not metric.name.endswith(("_total", "_count", "_sum", "_bucket"))
        assert metric.text.endswith((".", ").", ";"))
        assert metric.kind != COUNTER or metric.shown_name.endswith("_total")


def test_the_options_and_the_port_are_those_of_the_command() -> None:
    shown = {cell.split()[0].strip("`") for cell, _ in rows("| option | |\n")}

    assert shown == {option.opts[0] for option in exporter.params if option.name != "help"}
    assert f"{PORT} unless it is given" in PAGE


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"at most {MAX_FIELDS} combinations" in PAGE
    assert f"At most {MAX_LANES} lanes" in PAGE


def test_the_keys_of_the_autoscaler_are_those_of_the_code() -> None:
    (example,) = re.findall(r"/autoscale\n(\{.*\})", PAGE)

    assert [cell.strip("`") for cell, _ in rows("| key | |\n")] == list(Work.__struct_fields__)
    assert list(json.loads(example)) == list(Work.__struct_fields__)


def test_keda_is_told_a_key_that_there_is() -> None:
    (keda,) = (found for text in YAML if (found := yaml.safe_load(text)).get("kind") == "ScaledObject")
    (trigger,) = keda["spec"]["triggers"]

    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"]["valueLocation"] in Work.__struct_fields__
    assert trigger["metadata"]["url"].endswith(f":{PORT}/autoscale")
    assert keda["spec"]["minReplicaCount"] >= 1


def test_every_snippet_runs() -> None:
    app = Celery("shop", broker="redis://localhost:1/0", set_as_current=False)
    rebound = Rebound(app)
    before = set(REGISTRY._collector_to_names)
    try:
        # The settings are read once, by whoever needs them first.
        for text in reversed(PYTHON):
            exec(compile(text, "docs/metrics.md", "exec"), {"app": app})
        (added,) = set(REGISTRY._collector_to_names) - before
        assert isinstance(added, ReboundCollector)
        assert [key.label for key in rebound.settings.metrics_labels] == ["header_tenant", "source"]
    finally:
        for collector in set(REGISTRY._collector_to_names) - before:
            REGISTRY.unregister(collector)


@pytest.mark.parametrize("expression", sorted(set(filter(None, expressions()))))
def test_queries_name_metrics_and_labels_that_there_are(expression: str) -> None:
    known = samples()
    names = re.findall(r"\brebound_\w+", expression)
    labels = set().union(*(known[name] for name in names))

    assert names
    for name, selector in re.findall(r"\b(rebound_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector)) <= known[name], expression
    for listed in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        assert {label.strip() for label in listed.split(",")} <= labels, expression
    assert expression.count("(") == expression.count(")")


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]

    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"]["summary"].endswith(".")
    if promtool := shutil.which("promtool"):
        for what, file in (("check", RULES), ("test", RULES.with_name("rebound_alerts_test.yml"))):
            done = subprocess.run(
                [promtool, what, "rules", file.name], cwd=file.parent, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr + done.stdout


def test_the_dashboard_shows_every_metric_and_its_panels_do_not_overlap() -> None:
    queries = " ".join(expressions())
    for metric in METRICS:
        if metric.name not in ("rebound_behind", "rebound_lane_rate", "rebound_schedule_events"):
            assert metric.name in queries, metric.name
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
