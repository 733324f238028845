"""The circuit breakers of lanes in a real Redis, on a clock that the test moves."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import pytest
import redis

from rebound_celery.schedule.store import script_runner
from rebound_celery.schedule.store.chains import Do, Step
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Breaker, BreakerRules, LaneReport
from tests.scheduling import Taken, entry, settle, take

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOCK = "test-clock"
START_MS = 1_800_000_000_000
LANE = "kafka:orders"
RULES = BreakerRules(
    share=0.5, count=10, window_ms=10_000, probe_ms=1_000, max_probe_ms=3_000, wait_ms=5_000, drain_rate=20.0
)


@dataclass
class Fixture:
    """A store, and the clock of its scripts."""

    client: redis.Redis
    store: Store
    now_ms: int = START_MS

    def __post_init__(self) -> None:
        self._ids = count(1)
        self.forward(0)

    def forward(self, ms: int) -> None:
        self.now_ms += ms
        self.client.hset(CLOCK, mapping={"s": self.now_ms // 1000, "us": self.now_ms % 1000 * 1000})

    def fill(self, number: int = 1, lane: str = LANE, priority: int = 3) -> None:
        self.store.enqueue(
            entry(f"{lane}-{next(self._ids)}", self.now_ms, lane=lane, priority=priority) for _ in range(number)
        )

    def report(self, answered: int, failed: int, rules: BreakerRules = RULES) -> str:
        ((event, _, _),) = self.store.report([LaneReport(LANE, answered, failed, "connection refused")], rules)
        return event

    def breaker(self) -> Breaker:
        (breaker,) = self.store.breakers()
        return breaker

    def take(self, limit: int = 100) -> list[str]:
        """Claim messages of the lane, and settle them."""
        taken = take(self.store, limit)
        settle(self.store, taken)
        return taken.ids

    def probe(self) -> None:
        """Open the breaker, and take the probe."""
        assert self.report(0, 10) == "opened"
        self.forward(1_000)
        assert len(self.take()) == 1
        assert self.breaker().state == "probing"


@pytest.fixture
def fix(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fixture]:
    sources = {
        name: source.replace("redis.call('TIME')", f"redis.call('HMGET', '{CLOCK}', 's', 'us')")
        for name, source in script_runner._SOURCES.items()
    }
    monkeypatch.setattr(script_runner, "_SOURCES", sources)
    digests = {name: script_runner._digest_of(source) for name, source in sources.items()}
    monkeypatch.setattr(script_runner, "_digests", digests)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield Fixture(client, Store(client, QueueKeys("", "q", (0, 3))))


@pytest.mark.parametrize(
    ("reports", "opens"),
    [
        ([(0, 9)], False),
        ([(0, 10)], True),
        ([(0, 9), (0, 1)], True),
        ([(11, 0), (0, 10)], False),
        ([(10, 0), (0, 10)], True),
        ([(0, 9), (100, 0)], False),
        ([(0, 10), (100, 0)], True),
    ],
)
def test_breaker_opens_at_a_share_and_a_number_of_failures(
    fix: Fixture, reports: list[tuple[int, int]], opens: bool
) -> None:
    fix.fill(3)

    events = [fix.report(*report) for report in reports]

    assert ("opened" in events) is opens
    assert (fix.store.breakers() != []) is opens
    assert len(fix.take()) == (0 if opens else 3)


def test_failures_that_are_older_than_the_window_do_not_count(fix: Fixture) -> None:
    for _ in range(10):
        assert fix.report(0, 5) == ""
        fix.forward(RULES.window_ms)

    fix.report(0, 9)
    fix.forward(RULES.window_ms // 2)
    assert fix.report(0, 1) == "opened", "those of the half before do"


def test_an_open_breaker_tells_what_opened_it_and_when_it_is_probed(fix: Fixture) -> None:
    fix.report(5, 4)
    fix.report(1, 6)

    assert fix.breaker() == Breaker(
        LANE,
        "open",
        START_MS,
        START_MS + 1_000,
        by_hand=False,
        failed=10,
        total=16,
        interval_s=1.0,
        drain_rate=None,
        error="connection refused",
    )


def test_other_lanes_are_claimed_while_one_is_open(fix: Fixture) -> None:
    fix.fill(5)
    fix.fill(2, lane="kafka:payments")
    fix.report(0, 10)

    assert [name.partition("-")[0] for name in fix.take()] == ["kafka:payments"] * 2


def test_one_probe_goes_out_at_a_time_the_most_urgent_first(fix: Fixture) -> None:
    fix.fill(5)
    fix.fill(1, priority=0)
    fix.report(0, 10)
    fix.forward(999)
    assert fix.take() == []

    fix.forward(1)
    assert fix.take() == [f"{LANE}-6"]
    assert fix.take() == []
    assert fix.breaker().state == "probing"


def test_an_idle_worker_sleeps_until_the_next_probe_while_more_is_stored(fix: Fixture) -> None:
    fix.fill(5)
    fix.report(0, 10)

    fix.fill(5)

    assert take(fix.store).next_in_ms == 1_000
    fix.client.delete(fix.store.keys.wake)
    fix.fill(5)
    assert fix.client.llen(fix.store.keys.wake) == 0, "nobody is woken for it"


def test_the_time_between_probes_doubles_up_to_the_longest(fix: Fixture) -> None:
    fix.fill(10)
    fix.probe()

    for interval_ms in (2_000, 3_000, 3_000):
        assert fix.report(0, 1) == "probe-failed"
        assert fix.breaker().until_ms == fix.now_ms + interval_ms
        fix.forward(interval_ms - 1)
        assert fix.take() == []
        fix.forward(1)
        assert len(fix.take()) == 1


@pytest.mark.parametrize("usual", [0, 3])
def test_a_message_that_failed_as_the_probe_is_not_the_next_one_if_there_is_another(fix: Fixture, usual: int) -> None:
    """It may be the message that is at fault: it would keep the breaker open for ever."""
    fix.store.enqueue([entry("bad", fix.now_ms, lane=LANE, priority=0)])
    fix.report(0, 10)
    fix.forward(1_000)
    assert fix.take() == ["bad"]
    fix.report(0, 1)
    fix.store.enqueue([entry("bad", fix.now_ms, lane=LANE, priority=0)])
    fix.forward(1)
    fix.store.enqueue([entry("good", fix.now_ms, lane=LANE, priority=usual)])

    fix.forward(2_000)
    assert fix.take() == ["good"]
    assert fix.take() == []
    fix.report(0, 1)

    fix.forward(3_000)
    assert fix.take() == ["bad"], "it is the only one"
    assert fix.take() == []


def test_a_probe_that_nobody_reports_is_followed_by_another(fix: Fixture) -> None:
    fix.fill(5)
    fix.probe()

    fix.forward(RULES.wait_ms - 1)
    assert fix.take() == []
    fix.forward(1)
    assert len(fix.take()) == 1


def test_a_probe_that_was_not_sent_is_followed_by_another_at_once(fix: Fixture) -> None:
    fix.fill(5)
    fix.probe()

    assert fix.report(0, 0) == ""

    assert (fix.breaker().state, fix.breaker().interval_s) == ("open", 1.0)
    assert len(fix.take()) == 1
    assert fix.breaker().state == "probing"
    assert fix.take() == []
    fix.report(1, 0)
    assert fix.breaker().state == "draining"


def test_late_reports_of_messages_that_were_claimed_before_change_nothing(fix: Fixture) -> None:
    fix.fill(5)
    fix.report(0, 10)

    assert fix.report(0, 100) == ""
    assert fix.report(100, 0) == ""
    assert (fix.breaker().state, fix.breaker().interval_s) == ("open", 1.0)


def drained(fix: Fixture, seconds: int) -> list[int]:
    """How many messages are claimed in each second."""
    found = []
    for _ in range(seconds):
        taken = 0
        for _ in range(20):
            got = len(fix.take())
            taken += got
            if got:
                fix.report(got, 0)
            fix.forward(50)
        found.append(taken)
    return found


def test_after_the_probe_the_lane_drains_at_the_rate_which_doubles_with_each_window(fix: Fixture) -> None:
    fix.fill(1_000)
    fix.probe()
    assert fix.report(1, 0) == "draining"
    assert (fix.breaker().state, fix.breaker().drain_rate) == ("draining", 20.0)

    first = drained(fix, 10)
    second = drained(fix, 10)

    assert all(18 <= each <= 22 for each in first)
    assert all(36 <= each <= 44 for each in second[1:])


def test_the_breaker_is_closed_once_nothing_is_due(fix: Fixture) -> None:
    fix.fill(31)
    fix.probe()
    fix.report(1, 0)

    assert sum(drained(fix, 2)) == 30
    assert fix.store.breakers() == []
    assert fix.client.hgetall(fix.store.keys.limits) == {}
    fix.fill(500)
    assert len(fix.take(500)) == 500


def test_without_a_drain_rate_the_breaker_is_closed_at_once(fix: Fixture) -> None:
    rules = BreakerRules(0.5, 10, 10_000, 1_000, 3_000, 5_000, 0)
    fix.fill(50)
    fix.report(0, 10, rules)
    fix.forward(1_000)
    fix.take()

    assert fix.report(1, 0, rules) == "closed"
    assert len(fix.take()) == 49


def test_failures_while_it_drains_open_it_again_for_longer(fix: Fixture) -> None:
    fix.fill(50)
    fix.probe()
    fix.report(1, 0)

    assert fix.report(0, 10) == "opened"
    assert fix.breaker().until_ms == fix.now_ms + 2_000


def test_a_pause_and_a_rate_from_outside_outlive_the_breaker(fix: Fixture) -> None:
    fix.fill(100)
    fix.store.pause(LANE, fix.now_ms + 60_000)
    fix.report(0, 10)
    fix.store.set_rate(LANE, 10)
    fix.forward(5_000)
    assert fix.take() == [], "the pause is longer than the breaker's"

    fix.store.resume(LANE)
    assert len(fix.take()) == 1, "only the probe: the breaker is open"
    assert fix.report(1, 0) == "draining"
    assert fix.store.lanes()[0].rate == 10, "the lower of both rates"
    assert fix.store.close_breaker(LANE, RULES)
    assert fix.store.lanes()[0].rate == 10
    fix.store.set_rate(LANE, None)
    assert len(fix.take()) == 99


def test_a_breaker_is_opened_and_closed_by_hand(fix: Fixture) -> None:
    fix.fill(3)
    fix.store.open_breaker(LANE, None, RULES)
    fix.forward(10**9)
    assert fix.take() == []
    assert (fix.breaker().by_hand, fix.breaker().until_ms) == (True, None)

    assert fix.store.close_breaker(LANE, RULES)
    assert not fix.store.close_breaker(LANE, RULES)
    assert len(fix.take()) == 3

    fix.fill(3)
    fix.store.open_breaker(LANE, 7_000, RULES)
    fix.forward(6_999)
    assert fix.take() == []
    fix.forward(1)
    assert len(fix.take()) == 1, "the probe"


def test_outcomes_are_kept_for_two_windows_and_a_closed_breaker_not_at_all(fix: Fixture) -> None:
    fix.report(5, 1)

    assert fix.client.exists(fix.store.keys.breakers) == 0
    assert 0 < fix.client.pttl(fix.store.keys.outcomes(LANE)) <= 2 * RULES.window_ms


def test_a_configured_rate_does_not_replace_one_set_by_hand_until_it_changes(fix: Fixture) -> None:
    def rate() -> float | None:
        return next((lane.rate for lane in fix.store.lanes()), None)

    fix.store.set_rate(LANE, 5, configured=True)
    assert rate() == 5
    fix.store.set_rate(LANE, 50)
    fix.store.set_rate(LANE, 5, configured=True)
    assert rate() == 50
    fix.store.set_rate(LANE, 6, configured=True)
    assert rate() == 6
    fix.store.set_rate(LANE, None, configured=True)
    assert rate() is None


def test_a_claim_without_breakers_looks_for_none(fix: Fixture) -> None:
    """Whoever does not use breakers does not pay for them."""
    fix.fill(10)
    fix.client.config_resetstat()

    taken: Taken = take(fix.store, 10)

    assert len(taken.ids) == 10
    assert fix.client.info("commandstats")["cmdstat_exists"]["calls"] == 2, "of both claims, for `limits`"


def test_head_of_a_chain_waits_for_the_breaker_of_its_lane_and_may_be_its_probe(fix: Fixture) -> None:
    def step(do: Do, place: int, attempt: int) -> Step:
        message = entry(f"{place}:{attempt}", fix.now_ms, lane=LANE, priority=3)
        return Step(do, "shop/orders/3/user-17", place, attempt, None if do == Do.FINISH else message)

    fix.store.chain([step(Do.WAIT, 1, 2), step(Do.ARRIVE, 2, 1)], "me:1", 30_000)
    assert fix.report(0, 10) == "opened"
    assert fix.take() == []
    fix.store.chain([step(Do.FINISH, 1, 2)], "me:2", 30_000)
    assert fix.take() == [], "the next one lies in the same lane"

    fix.forward(1_000)
    assert fix.take() == ["2:1"]
    assert fix.breaker().state == "probing"
    assert fix.report(1, 0) == "closed", "nothing else is due"
    fix.store.chain([step(Do.WAIT, 2, 2)], "me:3", 30_000)
    assert fix.take() == ["2:2"]


def test_breakers_of_which_nobody_hears_are_closed_except_those_that_are_open_by_hand(fix: Fixture) -> None:
    fix.fill(30)
    assert fix.report(0, 10) == "opened"
    fix.store.open_breaker("kafka:by-hand", None, RULES)
    fix.store.set_rate(LANE, 50)
    assert fix.take() == []

    assert fix.store.close_unreported_breakers() == [LANE]
    assert fix.store.close_unreported_breakers() == []

    assert [breaker.lane for breaker in fix.store.breakers()] == ["kafka:by-hand"]
    assert len(fix.take(5)) == 5
    assert [lane.rate for lane in fix.store.lanes() if lane.name == LANE] == [50], "what was set from outside stays"
