"""Metrics on a real Redis: counters change with what they count, are bounded, and survive every restart."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from kafka import KafkaConsumer, TopicPartition
from prometheus_client import CollectorRegistry

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.counters import MAX_FIELDS
from rebound_celery.message import Origin
from rebound_celery.message.address import HttpAddress, KafkaAddress
from rebound_celery.metrics import Source, register
from rebound_celery.metrics.exporter import Exporter
from rebound_celery.metrics.lag import ConsumerLag
from rebound_celery.schedule.port import Hold, Tally
from rebound_celery.schedule.store.claims import DONE, ClaimId, End
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.scheduling import Taken, entry, now_ms, take
from tests.servers import RedisServer, redis_programs, redis_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE_MS = 30_000
LANE = ["0"]
FIELD = 'retries|{"attempt":"2"}'


@pytest.fixture(scope="module", params=redis_programs(), ids=redis_version)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Every kind of server; see REBOUND_TEST_REDIS_BINARIES."""
    with RedisServer(program=request.param) as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "q", (0, 3, 6, 9)))


def tally(number: int = 1, field: str = FIELD, instead: str | None = None, most: int = MAX_FIELDS) -> Tally:
    return Tally({field: (field if instead is None else instead, number)}, most)


def counted(store: Store, metric: str = "retries") -> dict[str, int]:
    return dict(store.measure(LATE_MS).tallies.get(metric, {}))


def ends(taken: Taken, of: Tally) -> list[End]:
    return [End(identity, token, DONE, None, of) for identity, token in taken.leases]


# In the same step


def test_what_is_settled_counts_once_however_often_it_is_settled(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms()) for n in range(3)])
    of_job = ends(take(store, 3), tally(3))

    assert [store.settle(of_job) for _ in range(3)] == [3, 0, 0]

    assert counted(store) == {'{"attempt":"2"}': 3}
    assert store.stats() == {"stored": 3, "claimed": 3, "done": 3}, "they are not among the plain counters"


def test_jobs_that_are_settled_together_count_each_and_one_across_several_calls_counts_once(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms()) for n in range(1_200)])
    taken = [take(store, 400) for _ in range(3)]
    jobs = [ends(one, tally(400)) for one in taken]

    assert store.settle([end for job in jobs for end in job]) == 1_200

    assert counted(store) == {'{"attempt":"2"}': 1_200}


def test_a_job_whose_leases_are_void_counts_for_nothing(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms()) for n in range(2)])
    taken = take(store, 2)
    store.enqueue([entry(str(n), now_ms() + 50_000) for n in range(2)])

    assert store.settle(ends(taken, tally(2))) == 0
    assert counted(store) == {}


def test_a_job_that_ends_after_its_leases_counts_if_nobody_else_has_its_messages(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms()) for n in range(2)])
    taken = take(store, 2, 1)
    wait_until(lambda: store.counts().leased == 0 or (take(store, 0, lanes=LANE) and store.counts().leased == 0))

    assert store.settle(ends(taken, tally(2))) == 2
    assert counted(store) == {'{"attempt":"2"}': 2}


def test_what_is_stored_again_counts_once_however_many_calls_that_takes(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms(), lane="a") for n in range(1_200)], tally=tally(7))
    assert counted(store) == {'{"attempt":"2"}': 7}

    # These replace messages in a lane that the first round does not know.
    store.enqueue([entry(str(n), now_ms(), lane="b") for n in range(10)], tally=tally(5), hold=Hold("t", now_ms()))

    assert counted(store) == {'{"attempt":"2"}': 12}


def test_a_metric_has_no_more_fields_than_it_may_have_and_loses_no_count(store: Store) -> None:
    def of(topic: str) -> str:
        return f'dead_letters|{{"reason":"x","topic":"{topic}"}}'

    for n in range(30):
        store.enqueue([entry("a", now_ms() + 50_000)], tally=tally(2, of(f"t{n}"), of("other"), most=10))
    store.enqueue([entry("a", now_ms() + 50_000)], tally=tally(1, of("t3"), of("other"), most=10))
    store.enqueue([entry("a", now_ms() + 50_000)], tally=tally(1, most=1))

    found = counted(store, "dead_letters")
    assert len(found) == 11
    assert sum(found.values()) == 61
    assert found['{"reason":"x","topic":"other"}'] == 40
    assert found['{"reason":"x","topic":"t3"}'] == 3, "what has a field keeps it"
    assert counted(store) == {'{"attempt":"2"}': 1}, "each metric has a bound of its own"


def test_a_full_redis_still_counts_what_is_settled(store: Store, client: redis.Redis, server: RedisServer) -> None:
    if int(client.info()["redis_version"].split(".")[0]) < 7:
        pytest.skip("scripts cannot run without memory on this server")
    store.enqueue([entry("a", now_ms())])
    taken = take(store, 1)
    client.config_set("maxmemory", 1)
    try:
        assert store.settle(ends(taken, tally())) == 1
    finally:
        client.config_set("maxmemory", 0)
    assert counted(store) == {'{"attempt":"2"}': 1}


# What a claim counts


def test_a_claim_counts_for_how_long_messages_were_due(store: Store) -> None:
    now = now_ms()
    store.enqueue([entry(str(n), now - delay) for n, delay in enumerate((0, 0, 40_000, 40_000, 5_000_000))])

    take(store, 10)

    found = store.measure(LATE_MS).tallies
    assert sum(found["claim_delay"].values()) == 5
    assert found["claim_delay"]["60000"] == 2
    assert found["claim_delay"]["inf"] == 1
    assert 5_080_000 <= found["claim_delay_sum"][""] < 5_090_000


def test_a_claim_that_is_asked_again_counts_once(store: Store) -> None:
    store.enqueue([entry("a", now_ms())])
    claim = ClaimId("w", 1)
    for _ in range(3):
        store.claim(claim, 10, 60_000, 60_000, ["3", "0"])

    found = store.measure(LATE_MS).tallies
    assert sum(found["claim_delay"].values()) == store.stats()["claimed"] == 1


def test_a_worker_whose_leases_run_out_is_counted_once_and_again_if_it_is_lost_again(store: Store) -> None:
    store.enqueue([entry(str(n), now_ms()) for n in range(250)])

    def lose() -> None:
        assert take(store, 250, 1).ids
        wait_until(lambda: take(store, 0, lanes=LANE) and store.counts().leased == 0)

    lose()
    stats = store.stats()
    assert (stats["ran_out"], stats["lost_workers"]) == (250, 1), "250 leases take several rounds"
    lose()
    assert store.stats()["lost_workers"] == 2


# Measuring


def test_a_queue_is_measured(store: Store) -> None:
    now = now_ms()
    store.enqueue([entry(f"late{n}", now - 60_000, lane="kafka:a") for n in range(3)])
    store.enqueue([entry("due", now - 1_000, lane="kafka:a", priority=0), entry("later", now + 60_000, lane="kafka:a")])
    store.enqueue([entry(f"paused{n}", now - 90_000, lane="http:b:80") for n in range(2)])
    store.pause("http:b:80", now + 60_000)
    store.set_rate("kafka:c", 5.0)

    found = store.measure(LATE_MS)

    lanes = {lane.name: lane for lane in found.lanes}
    assert (lanes["kafka:a"].waiting, lanes["kafka:a"].due, lanes["kafka:a"].late) == (5, 4, 3)
    assert (lanes["http:b:80"].due, lanes["http:b:80"].is_paused) == (2, True)
    assert (lanes["kafka:c"].waiting, lanes["kafka:c"].rate) == (0, 5.0)
    assert (found.waiting, found.due, found.leased) == (7, 4, 0)
    assert 60_000 <= found.overdue_ms < 80_000
    assert found.unclaimed_ms == found.overdue_ms, "nobody has claimed"
    take(store, 2)
    found = store.measure(LATE_MS)
    assert (found.leased, found.due) == (2, 2)
    assert found.unclaimed_ms < 10_000


def test_an_empty_queue_is_measured(store: Store) -> None:
    found = store.measure(LATE_MS)

    assert (found.waiting, found.due, found.leased, found.overdue_ms, found.unclaimed_ms) == (0, 0, 0, 0, 0)
    assert (found.lanes, found.counters, found.tallies) == ([], {}, {})


def test_a_measurement_looks_at_no_more_lanes_than_it_should(store: Store, client: redis.Redis) -> None:
    store.enqueue([entry(f"m{n}", now_ms() + 90_000 + n, lane=f"http:h{n}:80") for n in range(1_500)])
    store.enqueue([entry("due", now_ms(), lane="http:due:80")])
    client.config_resetstat()

    found = store.measure(LATE_MS)

    stats = client.info("commandstats")
    assert stats["cmdstat_zcard"]["calls"] < 400
    assert stats["cmdstat_zcount"]["calls"] == 1, "only of a lane that has something due"
    assert found.waiting == 1_501
    assert len(found.lanes) == 300
    assert found.due == 1, "those that are due are among them"


# Through a worker


def value(rebound: Rebound, name: str, **labels: str) -> float:
    registry = CollectorRegistry()
    collector = register(rebound.app, registry=registry)
    try:
        return registry.get_sample_value(name, {"queue": "rebound", **labels}) or 0.0
    finally:
        collector.close()


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that answers each post with 503."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_deliveries_count_and_the_counts_outlive_workers_and_exporters(
    redis_url: str, kafka_brokers: str, topic: str, refusing: str
) -> None:
    policy = RetryPolicy(2, 1)

    def to_kafka(number: int) -> Message:
        return Message(f"k{number}", b"v", KafkaAddress(topic), 2, policy, headers=(("tenant", b"acme"),))

    dead = Message("d", b"v", KafkaAddress(topic), 3, policy, reason="retries-exhausted", origin=Origin(topic, 0, 1, 1))
    hook = Message("h", b"v", HttpAddress(refusing), 3, policy, origin=Origin("hooks", 0, 1, 1))
    settings = {"kafka_brokers": kafka_brokers, "metrics_labels": ["header:tenant"]}
    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False), **settings)
    with running_worker(rebound.app):
        rebound.store([(to_kafka(n), 0) for n in range(20)])
        rebound.store([(dead, 0), (hook, 0)])
        wait_until(lambda: rebound.pending.count() + rebound.pending.counts().leased == 0, timeout=30)
    labels = {"destination": "kafka", "result": "delivered", "header_tenant": "acme", "message": "retry"}
    assert value(rebound, "rebound_deliveries_total", **labels) == 20
    assert value(rebound, "rebound_retries_total", attempt="2", header_tenant="acme") == 20
    of_hook = {"destination": "http", "result": "failed", "header_tenant": "", "message": "retry"}
    assert value(rebound, "rebound_deliveries_total", **of_hook) == 1
    for origin in (topic, "hooks"):
        reason = {"reason": "retries-exhausted", "topic": origin, "header_tenant": ""}
        assert value(rebound, "rebound_dead_letters_total", **reason) == 1
    assert value(rebound, "rebound_scheduling_latency_seconds_count") >= 22
    assert value(rebound, "rebound_delivery_latency_seconds_count", destination="kafka") == 20
    assert value(rebound, "rebound_delivery_latency_seconds_sum", destination="kafka") > 0
    rebound.close()

    again = Rebound(Celery("shop", broker=redis_url, set_as_current=False), **settings)
    with running_worker(again.app):
        again.store([(to_kafka(n), 0) for n in range(5)])
        wait_until(lambda: again.pending.count() + again.pending.counts().leased == 0, timeout=30)
    assert value(again, "rebound_deliveries_total", **labels) == 25
    again.close()
    close_redis_connections()


# The exporter


@contextmanager
def exporting(source: Source, lag: Any = None) -> Iterator[Exporter]:
    with Exporter(source, "127.0.0.1", 0, lag) as exporter:
        thread = threading.Thread(target=exporter.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield exporter
        finally:
            exporter.shutdown()
            thread.join()
            source.close()


def test_the_lag_of_a_group_is_found(kafka_brokers: str, topic: str, produce: Callable[..., Any]) -> None:
    for _ in range(10):
        # Each is a batch of its own: of a larger one, the embedded broker counts a single record in its end offset.
        produce(topic, [(b"k", b"v", [])], partition=1)
    with_commit = KafkaConsumer(bootstrap_servers=kafka_brokers, group_id=f"{topic}-group", enable_auto_commit=False)
    partition = TopicPartition(topic, 1)
    with_commit.assign([partition])
    with_commit.seek(partition, 4)
    with_commit.commit()
    with_commit.close()
    lag = ConsumerLag({f"{topic}-group": [topic, "no-such-topic"]}, [kafka_brokers], {})

    lag.ask(f"{topic}-group")

    found = {where[2]: behind for *where, behind in lag.partitions()}
    assert found[1] == 6
    assert sum(found.values()) == 6
    assert {group for group, *_ in lag.partitions()} == {f"{topic}-group"}


def test_a_client_that_says_nothing_holds_up_nobody(redis_url: str) -> None:
    from urllib.request import urlopen

    rebound = Rebound(Celery("shop", broker=redis_url, set_as_current=False))
    with (
        exporting(Source(rebound.app, ["rebound"])) as exporter,
        socket.create_connection(("127.0.0.1", exporter.server_port)),
        urlopen(f"{exporter.url}/healthz", timeout=5) as answer,
    ):
        assert answer.read() == b"ok\n"
    rebound.close()
    close_redis_connections()


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET //[ HTTP/1.0", b"404"),
        (b"GET /metrics/../healthz HTTP/1.0", b"404"),
        (b"GET /autoscale?queue=%ff&&=&queue HTTP/1.0", b"404"),
        (b"POST /metrics HTTP/1.0", b"501"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.0", b"414"),
        (b"\x16\x03\x01 nonsense", b"400"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered(redis_url: str, request_line: bytes, status: bytes) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    with (
        exporting(Source(app, ["rebound"])) as exporter,
        socket.create_connection(("127.0.0.1", exporter.server_port), timeout=10) as client,
    ):
        client.sendall(request_line + b"\r\n\r\n")

        assert status in client.recv(200)


def test_it_listens_on_ipv6_too(redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    try:
        exporter = Exporter(Source(app, ["rebound"]), "::1", 0)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with exporter:
        assert exporter.url == f"http://[::1]:{exporter.server_port}"
