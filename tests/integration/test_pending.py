"""`app.rebound.pending`: what waits is listed, counted, moved and removed, one by one and by a filter."""

from __future__ import annotations

import pickle
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from msgspec import structs
from redis import Redis

from rebound_celery import Message, Rebound, RetryPolicy, install_schedule
from rebound_celery.errors import InvalidSettingError, NotInstalledError, UnreachableError
from rebound_celery.message import Origin
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.pending import Pending, pending_of
from rebound_celery.policy import Failure
from rebound_celery.schedule.port import Entry, open_schedule
from rebound_celery.selection import Filter, PendingView, Progress
from rebound_celery.selection.views import CommonView
from rebound_celery.testing import in_memory
from tests.acceptance.apps.worker import close_redis_connections
from tests.scheduling import now_ms, take

if TYPE_CHECKING:
    from collections.abc import Iterator

LATER_MS = 4_000_000_000_000


def message(number: int, attempt: int = 2, topic: str = "orders", **fields: Any) -> Message:
    return Message(
        id=f"m{number}",
        value=b"v" * number,
        destination=fields.pop("destination", KafkaAddress(topic)),
        attempt=attempt,
        policy=RetryPolicy(3, 5),
        key=b"k%d" % number,
        failure=Failure("myapp.Timeout", f"no answer for {number}"),
        origin=Origin(topic, 3, number, 1),
        first_failed_at=1,
        **fields,
    )


@pytest.fixture(params=["", "shop:"], ids=["no prefix", "prefix"])
def app(request: pytest.FixtureRequest, redis_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    if request.param:
        app.conf.broker_transport_options = {"global_keyprefix": request.param}
    yield app
    close_redis_connections()


@pytest.fixture
def rebound(app: Celery) -> Iterator[Rebound]:
    rebound = Rebound(app, breaker=False)
    yield rebound
    rebound.close()


def ids(rebound: Rebound, **options: Any) -> list[str]:
    return [view.id for view in rebound.pending.list(**options).entries]


def test_what_waits_is_listed_by_due_time_with_all_that_is_known_of_it(rebound: Rebound) -> None:
    dead = message(3, 4, reason="retries-exhausted", dead_destination=KafkaAddress("orders-dlq"))
    rebound.store([(message(2), LATER_MS + 5), (message(1), LATER_MS), (dead, LATER_MS + 9)])

    page = rebound.pending.list()

    assert (page.next, page.read) == (None, 3)
    first, second, third = page.entries
    assert [first.id, second.id, third.id] == ["m1:2", "m2:2", "m3:dead"]
    assert (first.message_id, first.queue, first.kind, first.due_ms, first.leased) == (
        "m1",
        "rebound",
        "retry",
        LATER_MS,
        False,
    )
    assert (first.attempt, first.max_retries, first.lane, first.size_bytes) == (2, 3, "kafka:orders", 1)
    assert (first.exception, first.error) == ("myapp.Timeout", "no answer for 1")
    assert (third.kind, third.reason, third.lane) == ("dead-letter", "retries-exhausted", "kafka:orders-dlq")


def test_the_view_has_every_field_that_the_message_has(rebound: Rebound) -> None:
    whole = message(1, group="shop", source="web", client_id="c-7", headers=(("a", b"1"),))
    rebound.store([(whole, LATER_MS)])

    (view,) = rebound.pending.list().entries
    stored = rebound.pending.message("m1")
    assert stored is not None
    for name, value in structs.asdict(PendingView.of_message(stored, id="m1:2", queue="", kind="", due_ms=0)).items():
        if name in CommonView.__struct_fields__:
            assert getattr(view, name) == value, name


def test_encrypted_messages_are_shown_where_the_key_is_known(rebound: Rebound, app: Celery) -> None:
    copy = Celery("other", broker=app.conf.broker_url, set_as_current=False)
    copy.conf.broker_transport_options = app.conf.broker_transport_options
    with_key = Rebound(copy, encryption_keys="k1:" + "A" * 43 + "=")
    with_key.store([(message(1), LATER_MS)])

    assert [view.kind for view in with_key.pending.list().entries] == ["retry"]
    (hidden,) = rebound.pending.list().entries
    assert (hidden.kind, hidden.id, hidden.destination) == ("unreadable", "m1:2", None)
    assert "'k1'" in str(hidden.problem)
    assert rebound.pending.reschedule("+1h", "m1").changed == 1
    with_key.close()


def test_pages_follow_each_other_without_gap_or_repetition(rebound: Rebound) -> None:
    # Many are due in the same millisecond, and in two lanes.
    rebound.store([(message(n, topic=("orders", "bills")[n % 2]), LATER_MS + n // 40) for n in range(100)])

    seen, after = [], None
    while True:
        page = rebound.pending.list(None, after, 7)
        assert len(page.entries) <= 7
        seen += [view.id for view in page.entries]
        after = page.next
        if after is None:
            break

    assert len(seen) == len(set(seen)) == 100
    chosen, filtered, after = Filter(topic="bills"), [], None
    while True:
        page = rebound.pending.list(chosen, after, 7)
        filtered += [view.id for view in page.entries]
        after = page.next
        if after is None:
            break
    assert filtered == [name for name in seen if int(name[1:-2]) % 2]


def test_a_page_with_a_filter_can_be_bounded_by_what_it_reads(rebound: Rebound) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(300)])
    chosen = Filter(key=b"k299")

    page = rebound.pending.list(chosen, read=100)
    assert (page.entries, page.read) == ([], 100)
    assert page.next is not None
    assert [view.id for view in rebound.pending.list(chosen, page.next).entries] == ["m299:2"]


def test_a_filter_reads_only_the_times_that_it_asks_for(rebound: Rebound) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(1000)])

    page = rebound.pending.list(Filter(due_from_ms=LATER_MS + 500, due_to_ms=LATER_MS + 503))

    assert [view.id for view in page.entries] == [f"m{n}:2" for n in range(500, 504)]
    assert page.next is None
    assert page.read <= 100


def test_iteration_reports_its_progress(rebound: Rebound) -> None:
    rebound.store([(message(n, attempt=2 + n % 2), LATER_MS + n) for n in range(1200)])
    seen: list[Progress] = []

    views = list(rebound.pending.iterate(Filter(attempt=3), progress=seen.append))

    assert len(views) == 600
    assert seen[-1] == Progress(read=1200, total=1200, matched=600)
    assert len(seen) > 2
    assert [each.read for each in seen] == sorted(each.read for each in seen)


def test_counts_come_from_redis_and_those_of_a_filter_from_reading(rebound: Rebound) -> None:
    shop = HttpAddress("https://user:pw@shop.example/a?token=1")
    rebound.store([(message(n, topic=("orders", "bills")[n % 2]), LATER_MS) for n in range(11)])
    rebound.store([(message(90, destination=shop, dead_destination=DEAD_SET), LATER_MS)])

    pending = rebound.pending
    assert pending.count() == 12
    assert pending.count("kafka://orders") == 6
    assert pending.count("kafka:bills") == 5
    assert pending.count("https://shop.example/other") == 1, "a lane has all URLs of a host"
    assert pending.count(filter=Filter(topic="bills")) == 5
    assert pending.count("kafka://orders", Filter(key=b"k4")) == 1
    assert pending.count("kafka://bills", Filter(key=b"k4")) == 0
    assert pending.counts().by_lane == {"kafka:orders": 6, "kafka:bills": 5, "http:shop.example:443": 1}


def test_one_entry_is_found_by_the_id_of_its_task_and_of_its_message(rebound: Rebound) -> None:
    rebound.store([(message(1), LATER_MS)])

    for name in ("m1:2", "m1"):
        view = rebound.pending.get(name)
        assert view is not None
        assert view.id == "m1:2"
        found = rebound.pending.message(name)
        assert found is not None
        assert found.value == b"v"
    assert rebound.pending.get("m2") is None
    assert rebound.pending.message("m1:3") is None


def test_entries_are_moved_and_removed_by_their_ids(rebound: Rebound) -> None:
    rebound.store([(message(n), LATER_MS + n) for n in range(4)])
    pending = rebound.pending

    result = pending.reschedule(LATER_MS + 100, "m0", "m1:2", "nothing", "m0:2")
    assert (result.matched, result.changed, result.missed, result.unknown) == (2, 2, 0, ("nothing",))
    assert ids(rebound) == ["m2:2", "m3:2", "m0:2", "m1:2"]

    assert pending.run_now("m3", dry_run=True).changed == 0
    assert pending.run_now("m3").changed == 1
    view = pending.get("m3")
    assert view is not None
    assert abs((view.due_ms or 0) - now_ms()) < 60_000

    assert pending.cancel("m3", "m2:2").changed == 2
    again = pending.cancel("m3", "m2:2")
    assert (again.matched, again.changed, again.unknown) == (0, 0, ("m3", "m2:2"))
    assert ids(rebound) == ["m0:2", "m1:2"]


def test_what_a_worker_holds_is_shown_and_left_alone(rebound: Rebound, app: Celery) -> None:
    rebound.store([(message(1), 1), (message(2), LATER_MS)])
    with open_schedule(app, "rebound") as schedule:
        assert take(schedule).ids == ["m1:2"]  # type: ignore[arg-type]

    pending = rebound.pending
    held = pending.get("m1")
    assert held is not None
    assert held.leased
    assert (held.due_ms, pending.list(leased=True).entries, ids(rebound)) == (None, [held], ["m2:2"])
    for result in (pending.run_now("m1"), pending.cancel("m1"), pending.reschedule("+1h", "m1")):
        assert (result.leased, result.matched, result.changed) == (("m1",), 0, 0)
    assert pending.cancel(filter=Filter()).changed == 1
    assert pending.counts().leased == 1


def test_actions_change_all_that_match_and_nothing_else(rebound: Rebound) -> None:
    rebound.store([(message(n, topic=("orders", "bills")[n % 2]), LATER_MS + n) for n in range(1000)])
    pending, bills = rebound.pending, Filter(topic="bills")
    seen: list[Progress] = []

    assert pending.cancel(filter=bills, dry_run=True).matched == 500
    assert pending.count() == 1000
    moved = pending.reschedule(LATER_MS + 10_000, filter=bills, progress=seen.append)
    assert (moved.matched, moved.changed, seen[-1].changed) == (500, 500, 500), "each once, though they are read again"
    assert pending.list(bills).entries[0].due_ms == LATER_MS + 10_000
    assert pending.run_now(filter=bills, limit=10).changed == 10
    assert pending.run_now(filter=bills).changed == 490, "ten of them are due already"
    assert pending.run_now(filter=bills).matched == 0
    assert pending.cancel(filter=bills).changed == 500
    assert pending.count() == pending.count("kafka://orders") == 500
    assert pending.cancel(filter=Filter(key=b"nobody")).matched == 0


def test_an_entry_that_was_delivered_a_moment_ago_is_missed(
    rebound: Rebound, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the action another operator cancels one, and a worker takes another."""
    rebound.store([(message(1), LATER_MS), (message(2), LATER_MS + 1), (message(3), 1)])
    seen = rebound.pending.iterate()
    views = [next(seen)]
    with open_schedule(app, "rebound") as schedule:
        page = schedule.page(count=10)

        class Late:
            """A schedule whose page is a moment old."""

            def __getattr__(self, name: str) -> Any:
                return getattr(schedule, name)

            def page(self, *_: Any, **__: Any) -> Any:
                return page

        class Opened:
            def __enter__(self) -> Late:
                return Late()

            def __exit__(self, *_: object) -> None:
                pass

        late = Pending(app, Opened, lambda: "rebound")  # type: ignore[arg-type]
        assert rebound.pending.cancel("m1").changed == 1
        assert take(schedule).ids == ["m3:2"]  # type: ignore[arg-type]
        result = late.cancel(filter=Filter())

    assert (result.matched, result.changed, result.missed) == (3, 1, 2)
    assert rebound.pending.counts().leased == 1
    assert views[0].id == "m3:2"


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's result backend
def test_a_cancelled_task_is_revoked_for_those_who_wait_for_it(rebound: Rebound, app: Celery) -> None:
    result = rebound.schedule_retry("kafka://orders", b"v", id="order-7")

    assert rebound.pending.cancel("order-7").changed == 1
    assert result.state == "REVOKED"


def test_an_unreachable_result_backend_does_not_stop_a_cancel(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("shop", broker=redis_url, backend="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 0}}
    app.conf.redis_retry_on_timeout = False
    app.conf.result_backend_always_retry = False
    rebound = Rebound(app)
    rebound.store([(message(n), LATER_MS) for n in range(2)])

    assert rebound.pending.cancel("m0", "m1").changed == 2
    assert "2 removed tasks could not be told of" in caplog.text
    close_redis_connections()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's result backend
def test_ordinary_tasks_of_any_queue_are_listed_and_steered(app: Celery) -> None:
    install_schedule(app)

    @app.task(name="shop.send_mail", shared=False)
    def send_mail(*_: object) -> None: ...

    first = send_mail.apply_async((1, "secret"), countdown=1000)
    second = send_mail.apply_async((2,), countdown=2000)
    pending = pending_of(app)

    views = pending.list(arguments=True).entries
    assert [(view.id, view.kind, view.task, view.attempt) for view in views] == [
        (first.id, "task", "shop.send_mail", 1),
        (second.id, "task", "shop.send_mail", 1),
    ]
    assert views[0].args == "(1, 'secret')"
    assert "secret" not in str(pending.list().entries[0].to_dict())
    assert pending.count(filter=Filter(task="shop.*")) == 2
    assert pending.reschedule("+2d", first.id).changed == 1
    assert [view.id for view in pending.list().entries] == [second.id, first.id]
    assert pending.run_now(second.id).changed == 1
    assert pending.cancel(filter=Filter(task="shop.send_mail")).changed == 2
    assert first.state == second.state == "REVOKED"
    assert pending.list(queue="other").entries == []


def test_retries_and_ordinary_tasks_of_one_app_are_told_apart_by_their_queue(rebound: Rebound, app: Celery) -> None:
    @app.task(name="shop.noop", shared=False)
    def noop() -> None: ...

    waiting = noop.apply_async(countdown=1000)
    rebound.store([(message(1), LATER_MS)])

    assert ids(rebound) == ["m1:2"]
    assert ids(rebound, queue="celery") == [waiting.id]
    assert pending_of(app) is rebound.pending
    assert rebound.pending.cancel(waiting.id, queue="celery").changed == 1


def test_what_cannot_be_read_is_shown_and_can_be_removed(rebound: Rebound, app: Celery) -> None:
    with open_schedule(app, "rebound") as schedule:
        forms = {
            "later": b"\x7fxyz",
            "damaged": b"\x10xyz",
            "celerys": b"\x01xyz",
            "empty": b"",
            "pickle": pickle.dumps(1),
        }
        schedule.enqueue([Entry(name, LATER_MS, form) for name, form in forms.items()])

    views = rebound.pending.list().entries
    assert {view.id for view in views} == set(forms)
    assert all(view.kind == "unreadable" and view.problem for view in views)
    assert rebound.pending.count(filter=Filter(topic="*")) == 0
    assert rebound.pending.cancel(*forms).changed == 5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda pending: pending.list(limit=0), "limit=0 cannot be used"),
        (lambda pending: pending.list(limit=True), "limit=True cannot be used"),
        (lambda pending: pending.list(after="x"), "after='x' cannot be used"),
        (lambda pending: pending.cancel(), "ids=[] cannot be used: give ids, or a filter"),
        (lambda pending: pending.cancel("a", filter=Filter()), "filter='all' cannot be used: ids say which entries"),
        (lambda pending: pending.run_now(["a", "b"]), "ids=['a', 'b'] cannot be used: an id is a text: give each as"),
        (lambda pending: pending.cancel(None), "ids=None cannot be used: an id is a text"),
        (lambda pending: pending.cancel(Filter(topic="a")), "ids='topic=a' cannot be used: it is a filter, and no id"),
        (lambda pending: pending.run_now(filter="orders"), "filter='orders' cannot be used: it is a Filter, such as"),
        (lambda pending: pending.list("orders"), "filter='orders' cannot be used: it is a Filter, such as Filter(top"),
        (lambda pending: pending.list(Filter(), read="5"), "read='5' cannot be used: it is a whole number from 1"),
        (lambda pending: list(pending.iterate({"topic": "a"})), "filter={'topic': 'a'} cannot be used"),
        (lambda pending: pending.count(filter="a"), "filter='a' cannot be used"),
        (lambda pending: pending.list(queue=5), "queue=5 cannot be used: it is the name of a Celery queue"),
        (lambda pending: pending.get(5), "id=5 cannot be used: it is the id of a task or of a message"),
        (lambda pending: pending.message(["a"]), "id=['a'] cannot be used"),
        (lambda pending: pending.run_now("a", limit=5), "limit=5 cannot be used: it goes with a filter: ids say how"),
        (lambda pending: pending.run_now(filter=Filter(), limit=0), "limit=0 cannot be used"),
        (lambda pending: pending.reschedule("tomorrow", "a"), "due='tomorrow' cannot be used"),
        (lambda pending: pending.count("orders"), "destination='orders' cannot be used"),
    ],
)
def test_a_wrong_argument_is_refused(rebound: Rebound, call: Any, text: str) -> None:
    with pytest.raises(InvalidSettingError) as caught:
        call(rebound.pending)

    assert text in str(caught.value)


def test_redis_that_is_away_is_said_with_its_address() -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_connection_retry = False
    rebound = Rebound(app)

    with pytest.raises(UnreachableError, match=r"redis://127\.0\.0\.1:1"):
        rebound.pending.count()


def test_a_closed_pipe_of_the_caller_is_no_fault_of_redis(rebound: Rebound) -> None:
    rebound.store([(message(1), LATER_MS)])

    def broken(_: Progress) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        rebound.pending.count(filter=Filter(attempt=2), progress=broken)


def test_an_app_without_a_schedule_is_told_so(redis_url: str) -> None:
    with pytest.raises(NotInstalledError):
        pending_of(Celery("plain", broker=redis_url, set_as_current=False))


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery's result backend
def test_no_command_to_redis_is_long_with_many_waiting(rebound: Rebound, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        rebound.store([(message(n), LATER_MS + n // 1000) for n in range(20_000)])
        before = client.config_get("slowlog-*")
        client.config_set("slowlog-max-len", 100_000)
        client.config_set("slowlog-log-slower-than", 0)
        client.slowlog_reset()
        rebound.pending.count(filter=Filter(text="nobody"))
        rebound.pending.list()
        rebound.pending.reschedule(LATER_MS + 10**6, filter=Filter(attempt=2))
        rebound.pending.cancel(filter=Filter(), limit=5_000)
        commands = client.slowlog_get(100_000)
        for name, value in before.items():
            client.config_set(name, value)

    # A busy machine stops Redis now and then. So the usual time of each kind of command counts, not the longest.
    durations_us: defaultdict[bytes, list[int]] = defaultdict(list)
    for command in commands:
        durations_us[command["command"][:45]].append(command["duration"])
    usual_us = {name: median(durations) for name, durations in durations_us.items()}
    assert {b"ZRANGE", b"HMGET"} <= {name.split()[0] for name in usual_us}
    assert max(usual_us.values()) < 10_000, usual_us


def test_many_lanes_do_not_make_a_filter_slow(rebound: Rebound, redis_url: str) -> None:
    """A page begins with a look into each lane, so pages have to be larger where there are many lanes."""
    rebound.store([(message(n, topic=f"orders-{n % 500}"), LATER_MS + n) for n in range(5_000)])
    with Redis.from_url(redis_url) as client:
        before = client.info("stats")["total_commands_processed"]
        views = list(rebound.pending.iterate(Filter(attempt=2)))
        commands = client.info("stats")["total_commands_processed"] - before

    assert [view.id for view in views] == [f"m{n}:2" for n in range(5_000)]
    assert commands < 10_000


def test_in_memory_the_same_is_seen() -> None:
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    rebound = Rebound(app)
    with in_memory(app):
        rebound.store([(message(1), LATER_MS), (message(2), LATER_MS + 1)])

        assert ids(rebound) == ["m1:2", "m2:2"]
        assert rebound.pending.count("kafka://orders") == 2
        assert rebound.pending.cancel("m1").changed == 1
        assert rebound.pending.run_now(filter=Filter()).changed == 1


@pytest.mark.parametrize("due", [1_795_849_000, "1795849000", 3600])
def test_a_due_time_in_seconds_is_refused(rebound: Rebound, due: object) -> None:
    rebound.store([(message(1), LATER_MS)])

    with pytest.raises(InvalidSettingError, match="looks like seconds"):
        rebound.pending.reschedule(due, filter=Filter())
