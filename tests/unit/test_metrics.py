"""Metrics: what deliveries add to the counters, which labels they have, and how all of it is exported."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rebound_celery import Message, RetryPolicy
from rebound_celery.config import Settings
from rebound_celery.counters import BOUNDS_MS, MAX_FIELDS, labels_of
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.tallies import Sent, tally_of, tally_of_dead
from rebound_celery.destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, Underway
from rebound_celery.errors import InvalidSettingError, UnreachableError
from rebound_celery.labels import read_labels
from rebound_celery.message import Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.metrics import ReboundCollector, Source
from rebound_celery.metrics.definitions import BY_NAME, MAX_LANES, METRICS
from rebound_celery.metrics.lag import read_lag_options
from rebound_celery.schedule.port import Entry, Measured, MeasuredLane, Tally
from rebound_celery.schedule.store.script_runner import _SOURCES
from rebound_celery.testing.clock import ManualClock
from rebound_celery.testing.schedule import MemorySchedule

if TYPE_CHECKING:
    from collections.abc import Iterator


def message(**changes: Any) -> Message:
    fields: dict[str, Any] = {
        "id": "order-7",
        "value": b"v",
        "destination": KafkaAddress("orders"),
        "attempt": 2,
        "policy": RetryPolicy(3, 5),
        "origin": Origin("orders", 3, 812, 1),
        **changes,
    }
    return Message(**fields)


def tally_of_messages(*sent: tuple[Message, Outcome | Underway], time_ms: int = 20, keys: Any = ()) -> Tally | None:
    """The tally of a job that sends these messages together."""
    deliveries = {number: Delivery(message, message.task_id) for number, (message, _) in enumerate(sent)}
    outcomes = {number: outcome for number, (_, outcome) in enumerate(sent)}
    return tally_of([Sent(deliveries, outcomes, time_ms)], deliveries, keys)


def counted(tally: Tally | None) -> dict[tuple[str, ...], int]:
    """(metric, label values in their order) -> how much."""
    found = {}
    for name, (_, number) in (tally.counts if tally is not None else {}).items():
        metric, _, text = name.partition("|")
        found[metric, *(labels_of(text) or {}).values()] = number
    return found


TIMES = {("delivery_time", "kafka", "25"): 1, ("delivery_time_sum", "kafka"): 20}


def test_a_job_counts_its_deliveries_by_destination_result_and_attempt() -> None:
    sent = [(message(), Delivered("kafka:orders[0]@1"))] * 3

    assert counted(tally_of_messages(*sent, (message(attempt=3), Failed("503")))) == {
        ("deliveries", "kafka", "delivered", "retry"): 3,
        ("deliveries", "kafka", "failed", "retry"): 1,
        ("retries", "2"): 3,
        ("delivery_time", "kafka", "25"): 4,
        ("delivery_time_sum", "kafka"): 80,
    }


def test_only_the_deliveries_that_are_asked_for_count() -> None:
    deliveries = {number: Delivery(message(), str(number)) for number in range(3)}
    sent = [Sent(deliveries, dict.fromkeys(deliveries, Unavailable("away")), 3_600_001)]

    assert counted(tally_of(sent, {0, 2, 99})) == {
        ("deliveries", "kafka", "unavailable", "retry"): 2,
        ("delivery_time", "kafka", "inf"): 2,
        ("delivery_time_sum", "kafka"): 7_200_002,
    }
    assert tally_of(sent, {99}) is None


def test_an_outcome_of_an_earlier_job_has_no_time() -> None:
    ended = Delivery(message(), "a", ended=Delivered("x"))

    assert counted(tally_of([Sent({0: ended}, {0: Delivered("x")}, 0)], {0})) == {
        ("deliveries", "kafka", "delivered", "retry"): 1,
        ("retries", "2"): 1,
    }


def test_a_dead_letter_counts_by_its_reason_and_the_topic_that_it_came_from() -> None:
    dead = message(reason="retries-exhausted", dead_destination=KafkaAddress("orders-dlq"))

    assert counted(tally_of_messages((dead, Delivered("orders-dlq")))) == TIMES | {
        ("deliveries", "kafka", "delivered", "dead-letter"): 1,
        ("dead_letters", "retries-exhausted", "orders"): 1,
    }
    assert counted(tally_of_messages((dead, Unavailable("away")))) == TIMES | {
        ("deliveries", "kafka", "unavailable", "dead-letter"): 1
    }
    assert counted(tally_of_dead(dead, ())) == {("dead_letters", "retries-exhausted", "orders"): 1}


def test_what_was_not_sent_counts_for_nothing() -> None:
    assert tally_of([], ()) is None
    assert tally_of_messages((message(), Held("busy", 1.0)), (message(), Underway(Future(), 1.0, "x"))) is None
    assert counted(tally_of_messages((message(), Rejected("too large")))) == TIMES | {
        ("deliveries", "kafka", "rejected", "retry"): 1
    }
    assert counted(tally_of([], (), unreadable=2)) == {("dead_letters", "unreadable", ""): 2}


def test_the_label_keys_of_the_setting_divide_the_counters() -> None:
    keys = Settings.read({"rebound_metrics_labels": ["header:tenant", "source"]}, {}).metrics_labels
    one = message(headers=(("other", b"1"), ("tenant", b"acme")), source="web")

    tally = tally_of_messages((one, Delivered("x")), (message(), Delivered("x")), keys=keys)

    found = counted(tally)
    assert found["retries", "2", "acme", "web"] == 1
    assert found["retries", "2", "", ""] == 1
    assert [key.label for key in keys] == ["header_tenant", "source"]
    assert tally is not None
    assert tally.most == MAX_FIELDS
    (instead,) = {instead for name, (instead, _) in tally.counts.items() if name.startswith("deliveries|")}
    assert labels_of(instead.partition("|")[2]) == {
        "destination": "kafka",
        "result": "delivered",
        "message": "retry",
        "header_tenant": "other",
        "source": "other",
    }


def test_the_setting_may_come_from_the_environment() -> None:
    settings = Settings.read({}, {"REBOUND_METRICS_LABELS": "client_id, header:x-tenant"})

    assert [key.label for key in settings.metrics_labels] == ["client_id", "header_x_tenant"]


@pytest.mark.parametrize(
    "value", [["key"], ["header:"], 7, [None], ["source", "source"], ["header:a-b", "header:a_b"], ["group"] * 6]
)
def test_a_label_key_that_cannot_be_used_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidSettingError, match="rebound_metrics_labels"):
        read_labels("rebound_metrics_labels", value)


def test_a_value_of_any_length_and_form_makes_a_short_field() -> None:
    keys = read_labels("x", "header:t")
    hostile = '|\n"{}\\\ud800' * 1000
    one = message(headers=(("t", hostile.encode("utf-8", "surrogatepass")),))

    tally = tally_of_messages((one, Delivered("x")), keys=keys)

    assert tally is not None
    for name in tally.counts:
        assert len(name) < 1000
        assert name.isascii()
        if not name.startswith("delivery_time"):
            assert (labels_of(name.partition("|")[2]) or {})["header_t"].startswith("|\n")


def test_the_script_has_the_bounds_of_the_histograms() -> None:
    assert f"local DELAYS = {{ {', '.join(map(str, BOUNDS_MS))} }}" in _SOURCES["claim"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["billing:orders,bills", "billing:refunds"], {"billing": ["orders", "bills", "refunds"]}),
        (["a:b:orders"], {"a:b": ["orders"]}),
    ],
)
def test_groups_and_topics_are_read(given: list[str], expected: dict[str, list[str]]) -> None:
    assert read_lag_options("--lag", given) == expected


@pytest.mark.parametrize("value", ["orders", ":orders", "billing:", "billing:,"])
def test_a_group_without_topics_is_refused(value: str) -> None:
    with pytest.raises(InvalidSettingError, match="--lag"):
        read_lag_options("--lag", [value])


def test_a_process_without_metrics_does_not_load_prometheus_client() -> None:
    code = "import sys, rebound_celery.delivery.task, rebound_celery.operate.cli.commands; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert "rebound_celery.counters" in loaded
    assert not [name for name in loaded if name.startswith("prometheus_client")]


# The output


class Stub:
    """A schedule that measures what it is told."""

    def __init__(self, measured: Measured | Exception) -> None:
        self.measured = measured
        self.opened = 0

    def measure(self, late_ms: int) -> Measured:
        assert late_ms == 30_000
        if isinstance(self.measured, Exception):
            raise self.measured
        return self.measured

    @contextmanager
    def open(self, _queue: str) -> Iterator[Any]:
        self.opened += 1
        yield self


def measured(lanes: list[MeasuredLane] | None = None, **changes: Any) -> Measured:
    found: dict[str, Any] = {
        "now_ms": 100_000,
        "waiting": 5,
        "leased": 2,
        "behind": 1,
        "dead": 3,
        "lanes": lanes or [],
        "counters": {},
        "tallies": {},
        "claimed_ms": 99_000,
        **changes,
    }
    return Measured(**found)


def exported(stub: Stub, lag: Any = None) -> dict[tuple[str, ...], float]:
    """(sample, label values in the order of their names) -> value."""
    registry = CollectorRegistry()
    registry.register(ReboundCollector(Source(None, ["rebound"], stub.open), lag))
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            values = [value for name, value in sorted(sample.labels.items()) if name != "queue"]
            found[sample.name, *values] = sample.value
    return found


def test_the_state_of_lanes_is_exported() -> None:
    lanes = [
        MeasuredLane("http:a:80", 3, 2, 1, 40_000, is_paused=True, breaker="open"),
        MeasuredLane("kafka:orders", 2, 1, 0, 95_000, rate=50.0),
    ]

    found = exported(Stub(measured(lanes)))

    assert found["rebound_up",] == 1
    assert found["rebound_waiting", "kafka:orders"] == 2
    assert (found["rebound_due", "http:a:80"], found["rebound_overdue", "http:a:80"]) == (2, 1)
    assert (found["rebound_lane_paused", "http:a:80"], found["rebound_lane_paused", "kafka:orders"]) == (1, 0)
    assert found["rebound_lane_rate", "kafka:orders"] == 50
    assert found["rebound_lane_breaker", "http:a:80", "open"] == 1
    assert found["rebound_oldest_due_age_seconds",] == 5, "paused lanes do not count"
    assert found["rebound_unclaimed_seconds",] == 1
    assert (found["rebound_leased",], found["rebound_behind",], found["rebound_dead_letters_kept",]) == (2, 1, 3)


def test_many_lanes_are_exported_as_one_beyond_the_bound() -> None:
    lanes = [MeasuredLane(f"http:h{number}:80", number + 1, 1, 1, 1) for number in range(MAX_LANES + 50)]
    paused = MeasuredLane("kafka:paused", is_paused=True)

    found = exported(Stub(measured([*lanes, paused], waiting=100_000)))

    waiting = {key: value for key, value in found.items() if key[0] == "rebound_waiting"}
    assert len(waiting) == MAX_LANES + 1
    assert sum(waiting.values()) == 100_000
    assert found["rebound_due", "other"] == 51
    assert ("rebound_lane_paused", "kafka:paused") in found


def test_counters_and_histograms_are_exported() -> None:
    tallies = {
        "deliveries": {'{"destination":"kafka","result":"delivered","message":"retry"}': 7, "no json": 1, "{}": 1},
        "retries": {'{"attempt":"2"}': 6, '{"attempt":"3","header_tenant":"acme"}': 1},
        "dead_letters": {'{"reason":"retries-exhausted","topic":"orders"}': 4},
        "claim_delay": {"10": 3, "inf": 1},
        "claim_delay_sum": {"": 4_000_021},
        "delivery_time": {'{"destination":"kafka","le":"25"}': 7},
        "delivery_time_sum": {'{"destination":"kafka"}': 140},
        "of a later version": {"x": 1},
    }

    found = exported(Stub(measured(counters={"ran_out": 5, "dead": 1, "lost_workers": 2}, tallies=tallies)))

    assert found["rebound_deliveries_total", "kafka", "retry", "delivered"] == 7
    assert found["rebound_retries_total", "2", ""] == 6
    assert found["rebound_retries_total", "3", "acme"] == 1
    assert found["rebound_dead_letters_total", "retries-exhausted", "orders"] == 4
    assert found["rebound_dead_letters_total", "in-schedule", ""] == 1
    assert (found["rebound_lease_expiries_total",], found["rebound_lost_workers_total",]) == (5, 2)
    assert found["rebound_schedule_events_total", "ran_out"] == 5
    assert found["rebound_scheduling_latency_seconds_bucket", "0.005"] == 0
    assert found["rebound_scheduling_latency_seconds_bucket", "0.01"] == 3
    assert found["rebound_scheduling_latency_seconds_bucket", "3600.0"] == 3
    assert found["rebound_scheduling_latency_seconds_count",] == 4
    assert found["rebound_scheduling_latency_seconds_sum",] == pytest.approx(4000.021)
    assert found["rebound_delivery_latency_seconds_bucket", "kafka", "0.025"] == 7
    assert found["rebound_delivery_latency_seconds_sum", "kafka"] == pytest.approx(0.14)


def test_the_lag_of_groups_is_exported() -> None:
    class Lag:
        def partitions(self) -> list[tuple[str, str, int, int]]:
            return [("billing", "orders", 3, 12)]

    assert exported(Stub(measured()), Lag())["rebound_consumer_lag", "billing", "3", "orders"] == 12


def test_every_metric_that_is_exported_is_in_the_list() -> None:
    families = list(ReboundCollector(Source(None, ["rebound"], Stub(measured()).open)).describe())

    assert [family.name for family in families] == [metric.name for metric in METRICS]
    assert set(BY_NAME) == {family.name for family in families}


def test_while_redis_is_away_the_metrics_say_so_once_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    stub = Stub(ConnectionError("refused"))
    source = Source(None, ["rebound"], stub.open)
    collector = ReboundCollector(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rebound_celery.metrics.reading.shown_broker", lambda _app: "redis://here")
        samples = [sample for _ in range(2) for family in collector.collect() for sample in family.samples]
        with pytest.raises(UnreachableError, match="redis://here"):
            source.work("rebound")

    assert [(sample.name, sample.value) for sample in samples] == [("rebound_up", 0)] * 2
    assert [getattr(record, "event", "") for record in caplog.records] == ["metrics_unreachable"]
    assert stub.opened == 3, "each time it connects anew"


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    stub = Stub(measured())
    source = Source(None, ["rebound"], stub.open)
    assert source.work("rebound").leased == 2
    answers = [ConnectionError("closed"), measured(leased=4)]

    def measure(_late_ms: int) -> Measured:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    stub.measure = measure  # type: ignore[method-assign]

    assert source.work("rebound").leased == 4
    assert stub.opened == 2


def test_an_autoscaler_is_told_what_there_is_to_do() -> None:
    lanes = [MeasuredLane("kafka:orders", 5, 3, 0, 90_000), MeasuredLane("http:a:80", 9, 9, 9, 1, is_paused=True)]

    work = Source(None, ["rebound"], Stub(measured(lanes)).open).work("rebound")

    assert work.to_dict() == {
        "queue": "rebound",
        "due": 3,
        "leased": 2,
        "work": 5,
        "oldest_due_age_seconds": 10.0,
        "waiting": 5,
    }


def test_the_schedule_in_memory_measures_too() -> None:
    clock = ManualClock(1_000_000)
    schedule = MemorySchedule("rebound", clock)
    tally = Tally({'retries|{"attempt":"2"}': ("", 2)}, 10)
    schedule.enqueue([Entry("a", 900_000, b"", "kafka:a"), Entry("b", 2_000_000, b"", "kafka:a")], tally=tally)

    found = schedule.measure(30_000)

    assert found.lanes == [MeasuredLane("kafka:a", 2, 1, 1, 900_000)]
    assert (found.waiting, found.due, found.overdue_ms) == (2, 1, 100_000)
    assert found.tallies == {"retries": {'{"attempt":"2"}': 2}}
