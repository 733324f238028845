"""`celery rebound exporter` as a process, and the counters while workers are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from rebound_celery import Rebound
from rebound_celery.metrics.definitions import METRICS
from tests.acceptance.apps.worker import close_redis_connections
from tests.servers import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Process

APP = "tests.acceptance.apps.orders"
LATER_S = 3600


@pytest.fixture
def rebound(redis_url: str) -> Iterator[Rebound]:
    rebound = Rebound(Celery("orders", broker=redis_url, set_as_current=False))
    yield rebound
    rebound.close()
    close_redis_connections()


@pytest.fixture
def export(run_process: Callable[..., Process], redis_url: str) -> Callable[..., tuple[Process, str]]:
    """`export(*options)` starts an exporter on a free port; returns it, and its URL."""

    def export(*options: str, **environment: str) -> tuple[Process, str]:
        process = run_process(
            *("-m", "celery", "-A", APP, "rebound", "exporter", "--port", "0", *options),
            env={"ORDERS_REDIS": redis_url, **environment},
        )
        said = process.wait_for_output("Metrics are at ", timeout=60)
        found = re.search(r"Metrics are at (http://\S+)/metrics", said)
        assert found is not None
        return process, found[1]

    return export


def get(url: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def samples(url: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value."""
    status, content_type, text = get(f"{url}/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_it_serves_metrics_health_and_what_an_autoscaler_needs(
    rebound: Rebound, export: Callable[..., tuple[Process, str]]
) -> None:
    rebound.schedule_retries([{"destination": "kafka://orders", "id": f"m{n}"} for n in range(3)])
    rebound.pending.reschedule(f"+{LATER_S}s", "m2")
    rebound.pending.run_now("m0", "m1")

    process, url = export("--queue", "celery")

    assert url.startswith("http://127.0.0.1:"), "nobody else reaches it"
    found = samples(url)
    assert found["rebound_up", "rebound"] == found["rebound_up", "celery"] == 1
    assert found["rebound_waiting", "kafka:orders", "rebound"] == 3
    assert found["rebound_due", "kafka:orders", "rebound"] == 2
    assert {name for name, *_ in found} <= {
        f"{metric.shown_name}{end}" for metric in METRICS for end in ("", "_bucket", "_count", "_sum")
    }
    assert get(f"{url}/healthz")[::2] == (200, "ok\n")
    status, content_type, text = get(f"{url}/autoscale")
    work = json.loads(text)
    assert (status, content_type) == (200, "application/json")
    assert (work["queue"], work["due"], work["leased"], work["work"], work["waiting"]) == ("rebound", 2, 0, 2, 3)
    assert 0 <= work["oldest_due_age_seconds"] < 60
    assert json.loads(get(f"{url}/autoscale?queue=celery")[2])["due"] == 0
    assert get(f"{url}/autoscale?queue=nothing")[0] == 404
    assert get(f"{url}/etc/passwd")[0] == 404
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.output


def test_the_lag_of_groups_is_there_once_kafka_has_told_it(
    export: Callable[..., tuple[Process, str]],
    kafka_brokers: str,
    topic: str,
    produce: Callable[..., Any],
) -> None:
    produce(topic, [(b"k", b"v", [])], partition=2)

    process, url = export("--lag", f"new-group:{topic}", REBOUND_KAFKA_BROKERS=kafka_brokers)

    wait_until(lambda: samples(url).get(("rebound_consumer_lag", "new-group", "2", topic)) == 1, timeout=40)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.output


def test_kafka_that_is_away_leaves_the_other_metrics(export: Callable[..., tuple[Process, str]]) -> None:
    process, url = export("--lag", "group:orders", REBOUND_KAFKA_BROKERS="127.0.0.1:1")

    process.wait_for_output("the lag of group group is not known", timeout=40)
    assert samples(url)["rebound_up", "rebound"] == 1
    assert not [name for name, *_ in samples(url) if name == "rebound_consumer_lag"]
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "Traceback" not in process.output


def test_an_app_with_the_schedule_alone_has_it_too(run_process: Callable[..., Process], redis_url: str) -> None:
    process = run_process(
        *("-m", "celery", "-A", "tests.acceptance.apps.scheduled", "rebound", "exporter", "--port", "0"),
        env={"TEST_REDIS_URL": redis_url},
    )
    said = process.wait_for_output("Metrics are at ", timeout=60)
    (url,) = re.findall(r"Metrics are at (http://\S+)/metrics", said)

    assert json.loads(get(f"{url}/autoscale")[2])["queue"] == "celery"
    assert samples(url)["rebound_leased", "celery"] == 0
    process.signal(signal.SIGINT)
    assert process.wait() == 0


def test_while_redis_is_away_it_says_so_and_goes_on_afterwards(export: Callable[..., tuple[Process, str]]) -> None:
    with RedisServer() as server:
        process, url = export(ORDERS_REDIS=server.url)
        assert samples(url)["rebound_up", "rebound"] == 1
        server.stop()
        assert samples(url)["rebound_up", "rebound"] == 0
        status, _, text = get(f"{url}/healthz")
        assert (status, "cannot be reached" in text or "Redis" in text) == (503, True)
        status, _, text = get(f"{url}/autoscale")
        assert status == 503, "a zero would stop all workers"
        assert "error" in json.loads(text)
        server.start()
        wait_until(lambda: samples(url)["rebound_up", "rebound"] == 1, timeout=20)
        assert get(f"{url}/autoscale")[0] == 200
    assert "Traceback" not in process.output


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (("--port", "TAKEN"), 1, "nothing can listen on 127.0.0.1:"),
        (("--host", "no.such.host.invalid"), 1, "nothing can listen on no.such.host.invalid:"),
        (("--port", "65536"), 2, "65536"),
        (("--lag", "orders"), 2, "GROUP:TOPIC"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(
    run_process: Callable[..., Process], redis_url: str, options: tuple[str, ...], status: int, text: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [port if option == "TAKEN" else option for option in options]
        process = run_process(
            *("-m", "celery", "-A", APP, "rebound", "exporter", *given), env={"ORDERS_REDIS": redis_url}
        )
        assert process.wait(60) == status
    assert text in process.output
    assert "Traceback" not in process.output


def test_the_counters_are_true_after_workers_are_killed(
    rebound: Rebound,
    redis_url: str,
    kafka_brokers: str,
    topic: str,
    run_process: Callable[..., Process],
    export: Callable[..., tuple[Process, str]],
) -> None:
    """Each message counts once, with the step that removed it, whoever was killed before."""
    number = 6_000

    def start() -> Process:
        return run_process(
            *("-m", "celery", "-A", APP, "worker", "-P", "prefork", "-c", "2", "--loglevel=WARNING"),
            env={"ORDERS_REDIS": redis_url, "REBOUND_KAFKA_BROKERS": kafka_brokers, "REBOUND_LEASE": "2"},
        )

    def done() -> int:
        return int(rebound.pending.stats().counters.get("done", 0))

    rebound.schedule_retries([{"destination": f"kafka://{topic}", "id": f"m{n}"} for n in range(number)])
    rebound.pending.run_now(filter=_all())
    for least in (1, number // 3):
        worker = start()
        wait_until(lambda least=least: done() >= least, timeout=60, message=worker.tail)
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
    last = start()
    wait_until(lambda: rebound.pending.stats().waiting == 0, timeout=90, message=last.tail)
    wait_until(lambda: rebound.pending.stats().leased == 0, timeout=30, message=last.tail)

    _, url = export()
    found = samples(url)

    assert found["rebound_schedule_events_total", "done", "rebound"] == number
    assert found["rebound_deliveries_total", "kafka", "retry", "rebound", "delivered"] == number
    assert found["rebound_retries_total", "2", "rebound"] == number
    assert found["rebound_delivery_latency_seconds_count", "kafka", "rebound"] == number
    claims = found["rebound_scheduling_latency_seconds_count", "rebound"]
    assert claims == found["rebound_schedule_events_total", "claimed", "rebound"]
    assert (
        found["rebound_lease_expiries_total", "rebound"]
        + found.get(("rebound_schedule_events_total", "unconfirmed", "rebound"), 0)
        == claims - number
    )
    assert 1 <= found["rebound_lost_workers_total", "rebound"] <= 2


def test_a_process_of_the_pool_that_dies_is_counted(
    rebound: Rebound, redis_url: str, run_process: Callable[..., Process], export: Callable[..., tuple[Process, str]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url_of_receiver = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        worker = run_process(
            *("-m", "celery", "-A", APP, "worker", "-P", "prefork", "-c", "1", "--loglevel=WARNING"),
            env={"ORDERS_REDIS": redis_url},
        )
        rebound.schedule_retry(url_of_receiver, b"v", id="m", base_delay=1)
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            (child,) = _children_of(worker.pid)
            os.kill(child, signal.SIGKILL)
            wait_until(
                lambda: rebound.pending.stats().counters.get("lost_workers", 0) == 1, timeout=30, message=worker.tail
            )
        worker.kill()
    _, url = export()
    assert samples(url)["rebound_lost_workers_total", "rebound"] == 1


def _children_of(pid: int) -> list[int]:
    from pathlib import Path

    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _all() -> Any:
    from rebound_celery.selection import Filter

    return Filter()
