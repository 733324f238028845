"""The health of endpoints in Redis, by a clock that the test sets: when a series of failures begins, lasts and ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from redis import Redis

from rebound_celery.schedule.port import Health, HealthReport
from rebound_celery.schedule.store import script_runner
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store

HOUR_MS = 3_600_000
CLOCK = "the-test-clock"
URL = "https://a.test/hook"


@pytest.fixture
def at(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Health]:
    """`at(hour, report)` reports at this time; returns the endpoint's health."""
    client = Redis.from_url(redis_url)
    source = script_runner._SOURCES["health"]
    changed = source.replace("redis.call('TIME')", f"redis.call('LRANGE', '{CLOCK}', 0, 1)")
    assert changed != source
    monkeypatch.setitem(script_runner._SOURCES, "health", changed)
    monkeypatch.setitem(script_runner._digests, "health", script_runner._digest_of(changed))
    store = Store(client, QueueKeys("", "rebound", (0, 3, 6, 9)))

    def report(hour: float, *, failures: int = 1, days: float = 5, **fields: object) -> Health:
        ms = round(1_700_000_000_000 + hour * HOUR_MS)
        client.delete(CLOCK)
        client.rpush(CLOCK, ms // 1000, ms % 1000 * 1000)
        fields = {"tells": True, "disable_after_ms": round(days * 24 * HOUR_MS), **fields}
        one = HealthReport(URL, failures=failures, **fields)  # type: ignore[arg-type]
        (health,) = store.report_health([one])
        assert [health._replace(is_telling=False)] == store.health([URL]) or not health.failures
        return health

    return report


def test_an_endpoint_is_disabled_when_it_has_failed_for_the_time_and_this_is_told_once(
    at: Callable[..., Health],
) -> None:
    for hour in range(0, 120, 12):
        assert not at(hour).disabled_ms
    last = at(120)

    assert last.is_telling
    assert last.failures == 11
    assert last.reason == "nothing but failures for 120.0 hours"
    at(120, failures=0, has_told=True)
    again = at(121)
    assert (again.disabled_ms, again.is_telling) == (last.disabled_ms, False)


def test_who_asks_later_is_to_tell_of_it_until_somebody_has_told(at: Callable[..., Health]) -> None:
    """A worker may end between disabling an endpoint and telling of it."""
    minute = 1 / 60
    assert at(0, gone="it answered 410 Gone").is_telling
    assert not at(0.5 * minute, failures=0).is_telling
    assert not at(2 * minute, failures=0, tells=False).is_telling
    assert at(2 * minute, failures=0).is_telling
    assert not at(2.5 * minute).is_telling

    told = at(3 * minute, failures=0, tells=False, has_told=True)

    assert (told.tell_ms, told.failures, bool(told.disabled_ms)) == (0, 2, True)
    assert not at(10 * minute).is_telling


def test_nobody_is_to_tell_of_what_an_operator_has_disabled(at: Callable[..., Health]) -> None:
    assert at(0, failures=0, gone="by hand", tells=False).tell_ms == 0
    assert not at(1).is_telling


def test_a_success_begins_a_new_series(at: Callable[..., Health]) -> None:
    for hour in range(0, 110, 10):
        at(hour)
    assert at(115, failures=3, took=True) == Health()
    assert not at(121).disabled_ms


def test_failures_that_are_more_than_a_day_apart_are_no_series(at: Callable[..., Health]) -> None:
    for hour in (0, 20, 40, 65, 85, 105, 121):
        assert not at(hour).disabled_ms


def test_a_few_failures_in_a_short_time_do_not_disable(at: Callable[..., Health]) -> None:
    assert [bool(at(hour, days=0.01).disabled_ms) for hour in (0, 1, 2, 3, 4)] == [False, False, False, False, True]
    at(4, failures=0, has_told=True)
    assert not at(200, days=0).is_telling


def test_a_success_that_comes_late_does_not_enable(at: Callable[..., Health]) -> None:
    gone = at(0, gone="it answered 410 Gone")

    assert gone.is_telling
    assert at(1, failures=0, took=True).disabled_ms == gone.disabled_ms


def test_it_is_left_alone_for_a_growing_time_or_for_as_long_as_it_asks(at: Callable[..., Health]) -> None:
    def alone_s(hour: float, **fields: object) -> float:
        health = at(hour, **fields)
        return (health.slow_until_ms - health.last_ms) / 1000

    assert [alone_s(n, alone_ms=0) for n in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert alone_s(9, alone_ms=300_000) == 300


def test_only_so_many_endpoints_that_fail_are_kept(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rebound_celery.schedule.store import health

    monkeypatch.setattr(health, "_MOST_ROWS", 3)
    store = Store(Redis.from_url(redis_url), QueueKeys("", "rebound", (0, 3, 6, 9)))

    store.report_health([HealthReport(f"https://a.test/{n}", failures=1) for n in range(10)])
    store.report_health([HealthReport("https://a.test/gone", failures=1, gone="it answered 410 Gone")])

    assert len(store.unhealthy()) == 4
    assert store.unhealthy()["https://a.test/gone"].reason == "it answered 410 Gone"
