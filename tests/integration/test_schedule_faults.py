"""Faults of Redis, of a publisher's clock, or of a stored message. No message is lost, and none is early.

The stored messages here are messages that an app publishes. A consumer like a worker's takes them.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.script_runner import CHUNK, MAX_SLEEP_MS
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.store.values import Entry
from rebound_celery.schedule.transport import celery_form as stored
from rebound_celery.schedule.transport import channel as channel_module
from rebound_celery.schedule.worker.installation import install_schedule
from rebound_celery.schedule.worker.shown import list_scheduled
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.scheduling import LEASE_MS, dead_entries, entry, everything, now_ms, number_of, raw, settle, take
from tests.servers import RedisServer, consuming, send_due
from tests.torture.proxy import Proxy
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FULL = os.environ.get("REBOUND_TEST_FULL") == "1"
STEPS = (0, 3, 6, 9)
HOUR_S = 3_600
YEAR_MS = 365 * 24 * HOUR_S * 1_000


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be configured and broken."""
    with RedisServer() as server:
        yield server
        close_redis_connections()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, socket_timeout=60) as connection:
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "celery", STEPS))


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    with Celery("faults", broker=server.url, set_as_current=False) as app:
        app.conf.broker_connection_timeout = 2
        install_schedule(app, lambda: {"lease": 1.0})
        yield app


def send(app: Celery, count: int = 1, **options: Any) -> list[str]:
    return [app.send_task("t", (number,), **options).id for number in range(count)]


def running(app: Celery, act: Callable[[int], object] = bool) -> list[int]:
    """Give the app the task that `send` sends; what it ran with is in the list."""
    ran: list[int] = []

    @app.task(name="t", shared=False, lazy=False)
    def run(number: int) -> None:
        ran.append(number)
        act(number)

    return ran


def keys_left(client: redis.Redis) -> list[bytes]:
    """All keys but kombu's table of queues, and what the schedule remembers of its claims and counts."""
    kept = (b":stats", b":claims", b":unconfirmed", b":next", b":claimed")
    return [key for key in client.keys("*") if not key.startswith(b"_kombu.binding") and not key.endswith(kept)]


# broken messages


def of_text(text: str) -> bytes:
    """The stored form of any text at all."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_DEFAULT_STRATEGY, stored.DICTIONARY)
    return stored.VERSION + compressor.compress(text.encode()) + compressor.flush()


#: Cannot be read, or not be made a message.
BROKEN = {
    "cut after the version": stored.VERSION,
    "cut in the body": of_text('{"H":{},"P":{},"R":{}}\n' + "body" * 100)[:-4],
    "no deflate": stored.VERSION + b"\xff\xff\xff",
    "not JSON": of_text("{"),
    "too deep": of_text("[" * 100_000),
    "a list": of_text("[]"),
    "no headers": of_text('{"P":{},"R":{}}'),
    "headers of null": of_text('{"H":null,"P":{},"R":{}}'),
    "headers of text": of_text('{"H":"x","P":{},"R":{}}'),
    "headers that are no part": of_text('{"h":null,"p":{},"r":{}}'),
    "properties of null": of_text('{"H":{},"P":null,"R":{}}'),
    "a number that is none": of_text('{"H":{"x":{"__type__":"decimal","__value__":"y"}},"P":{},"R":{}}'),
    "a body in an unknown encoding": of_text('{"H":{},"P":{"body_encoding":"x"},"R":{}}\nx'),
    "a body of bad base64": of_text('{"H":{},"P":{"body_encoding":"base64"},"R":{}}\nx'),
}
#: A message, but not as Celery makes them.
ODD = {
    "nothing": of_text('{"H":{},"P":{},"R":{}}'),
    "delivery_info of null": of_text('{"H":{},"P":{"delivery_info":null},"R":{}}'),
    "delivery_info a number": of_text('{"H":{},"P":{"delivery_info":5},"R":{}}'),
    "an id that is none": of_text('{"H":{"id":[],"task":{}},"P":{"delivery_info":{}},"R":{}}'),
    "a body that is no text": of_text('{"H":{},"P":{"delivery_info":{}},"R":{"body":5}}'),
}


@pytest.mark.parametrize("losses", [0, 1])
def test_broken_stored_messages_are_set_aside_and_stop_no_other(
    app: Celery, store: Store, client: redis.Redis, losses: int
):
    """With a loss too: a redelivery writes into the message, which has then to be of the right shape."""
    good = send(app, 4, countdown=0.3)
    for name, body in (BROKEN | ODD).items():
        store.enqueue([Entry(name, now_ms() - 10, body, "", 3)])
        client.hset(store.keys.messages, name, raw(body, rank=3, losses=losses))
    # Before, between and behind them.
    store.reschedule(now_ms() - 10_000, good[0])
    store.reschedule(now_ms() - 10, good[1])

    with consuming(app) as consumer:
        deadline = time.monotonic() + 15
        while store.count() and time.monotonic() < deadline:
            consumer.turn(0.05)

    assert [waiting.id for waiting in everything(store)] == []
    assert sorted(identity for identity in consumer.ids if identity in good) == sorted(good)
    dead = {letter.id: letter.stored for letter in dead_entries(store)}
    assert dead.items() >= BROKEN.items()
    assert all(letter.reason for letter in dead_entries(store))


def test_stored_message_that_expands_without_bound_is_set_aside_and_stops_no_other(
    app: Celery, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stored, "_MAX_TEXT", 1_000_000)
    bomb = of_text('{"H":{},"P":{},"R":{}}\n' + "0" * 1_000_000)
    store.enqueue([Entry("bomb", now_ms() - 10, bomb)])
    good = send(app, 3, countdown=0.1)

    with consuming(app) as consumer:
        consumer.take(3)
        wait_until(lambda: consumer.turn(0.05) or store.count() == 0)

    assert sorted(consumer.ids) == sorted(good)
    assert [(letter.id, letter.reason, letter.stored) for letter in dead_entries(store)] == [
        ("bomb", "unreadable", bomb)
    ]


def test_broken_stored_messages_stop_no_worker(
    app: Celery, store: Store, client: redis.Redis, caplog: pytest.LogCaptureFixture
):
    """Celery itself meets the odd ones."""
    app.conf.task_ignore_result = True
    ran = running(app)
    send(app, 3, countdown=0.5)
    for name, body in (BROKEN | ODD).items():
        store.enqueue([Entry(name, now_ms() - 10, body)])

    with running_worker(app):
        wait_until(lambda: len(ran) == 3 and store.count() == 0, message=lambda: f"{ran} {everything(store)}")
        send(app, 1, countdown=0.1)
        wait_until(lambda: len(ran) == 4)

    assert "onnection to broker lost" not in caplog.text


def test_message_of_an_unknown_version_is_left_in_place_whole(app: Celery, store: Store, client: redis.Redis):
    unknown = b"\x7f" + b"whatever that version says"
    store.enqueue([Entry("unknown", now_ms() - 10, unknown)])
    (good,) = send(app, countdown=0.1)

    with consuming(app) as consumer:
        consumer.take(1)
        wait_until(lambda: consumer.turn(0.05) or store.get("unknown").due_ms > now_ms() + 60_000)

    left = store.get("unknown")
    assert consumer.ids == [good]
    assert (left.leased, left.stored) == (False, unknown)
    assert dead_entries(store) == []


def test_entry_without_its_message_is_swept_away(store: Store, client: redis.Redis):
    """What a server leaves that lost a part of its data."""
    client.zadd(store.keys.waiting("0"), {f"ghost-{n}": now_ms() - 10 for n in range(3)})
    store.enqueue([entry("a", now_ms())])

    assert take(store, 10).ids == ["a"]
    assert client.zcard(store.keys.waiting("0")) == 0


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_entries_without_messages_hide_no_due_message(store: Store, client: redis.Redis, limit: int):
    """A claim that meets only these says that more is due, so that no worker goes to sleep over it."""
    now = now_ms()
    client.zadd(store.keys.waiting("0"), {f"ghost-{n}": now - 400 for n in range(limit + 1)})
    store.enqueue([entry(f"due-{n}", now - 100) for n in range(3 * limit)])

    found: list[str] = []
    for _ in range(10):
        claim = take(store, limit)
        found += claim.ids
        if len(found) == 3 * limit:
            break
        assert claim.next_in_ms == 0, f"{len(found)} of {3 * limit} were claimed, and the rest is due"

    assert sorted(found) == sorted(f"due-{n}" for n in range(3 * limit))


# Redis


def test_every_script_is_loaded_again_where_the_server_has_forgotten_it(store: Store, client: redis.Redis):
    def forget() -> None:
        client.script_flush()

    forget()
    assert store.enqueue([entry(name, now_ms() - 10) for name in "abcd"]) == 4
    forget()
    claim = take(store, 3)
    forget()
    assert store.renew(claim.leases, LEASE_MS) == 3
    forget()
    assert settle(store, claim) == 3
    forget()
    assert store.reschedule(now_ms() + 50_000, "d") == 1
    forget()
    assert len(store.cancel("d")) == 1
    assert keys_left(client) == [store.keys.wake.encode()]


def test_apps_of_one_process_on_two_servers_do_not_confuse_each_other_s_scripts(store: Store, client: redis.Redis):
    """Script hashes are remembered for the process, not for the server."""
    with RedisServer() as other, redis.Redis.from_url(other.url) as second:
        elsewhere = Store(second, QueueKeys("", "celery", STEPS))
        for n in range(4):
            for place in (store, elsewhere):
                place.enqueue([entry(f"{n}", now_ms() - 10)])
                claim = take(place, 1)
                assert claim.ids == [f"{n}"]
                assert settle(place, claim) == 1
                client.script_flush()


def demote(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "127.0.0.1", "1")


def promote(client: redis.Redis) -> None:
    client.execute_command("REPLICAOF", "NO", "ONE")


def test_read_only_replica_refuses_and_goes_on_as_a_master(app: Celery, store: Store, client: redis.Redis):
    """A server that is demoted by mistake, or a client that asks the wrong one."""
    # Before version 7, Redis refuses a script at its first write only: where nothing is due, a claim has none.
    send_due(app, store, 0)
    demote(client)

    with pytest.raises(OperationalError, match="read only replica"):
        send(app, countdown=5)
    with pytest.raises(redis.exceptions.ResponseError, match="read only replica"):
        take(store, 1)
    assert store.count() == 1, "it can still be read"

    promote(client)
    send(app, 1, countdown=0.1)
    with consuming(app) as consumer:
        consumer.take(2)
    assert len(set(consumer.ids)) == 2
    wait_until(lambda: store.count() == 0)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # Celery's word on long tasks at a connection loss
def test_worker_lives_through_a_change_of_its_server_s_role(app: Celery, store: Store, client: redis.Redis):
    """Stock Celery ends here, unless broker_channel_error_retry is set."""
    app.conf.update(task_ignore_result=True, task_acks_late=True)
    # Once: its lease runs out meanwhile, so that it may run again.
    calls = iter([demote])
    ran = running(app, lambda number: next(calls, bool)(client) if number == 0 else None)

    with running_worker(app):
        send(app, 4, countdown=0.5)
        wait_until(lambda: 0 in ran)
        time.sleep(1.5)  # longer than the lease
        promote(client)
        wait_until(lambda: store.count() == 0, timeout=20, message=lambda: f"{ran} {everything(store)}")

    assert set(ran) == {0, 1, 2, 3}


def fill(client: redis.Redis) -> None:
    """Leave no memory."""
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", client.info("memory")["used_memory"] // 2)


def test_full_redis_refuses_new_messages_and_is_drained(app: Celery, store: Store, client: redis.Redis):
    """Once it is, it takes new ones again."""
    waiting = send(app, 50, countdown=1)
    with consuming(app, prefetch=8) as consumer:
        fill(client)
        began = time.monotonic()
        with pytest.raises(OperationalError, match="maxmemory"):
            send(app, countdown=5)
        assert time.monotonic() - began < 5, "a caller waits for what cannot come"

        consumer.take(50)
        wait_until(lambda: store.count() == 0)
        client.config_set("maxmemory", 0)
        (late,) = send(app, countdown=0.1)
        consumer.take(51)

    assert sorted(consumer.ids[:50]) == sorted(waiting)
    assert consumer.ids[50] == late


def test_worker_drains_a_full_redis(app: Celery, store: Store, client: redis.Redis, caplog: pytest.LogCaptureFixture):
    """The schedule says little of it, and not at each try."""
    app.conf.task_ignore_result = True
    ran = running(app)

    with running_worker(app):
        send(app, 20, countdown=1.5)
        fill(client)
        wait_until(lambda: len(ran) == 20 and store.count() == 0, message=lambda: f"{ran} {everything(store)}")
        time.sleep(1)  # a worker that cannot live with it has had the time to end
        client.config_set("maxmemory", 0)
        send(app, 1, countdown=0.1)
        wait_until(lambda: len(ran) == 21, message=lambda: f"{ran} {caplog.text[-4000:]}")

    assert sorted(ran) == sorted([*range(20), 0])
    loud = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([record for record in loud if record.name.startswith("rebound_celery")]) < 5
    assert "Error in timer" not in caplog.text


def test_full_redis_lets_leases_be_renewed_released_and_moved(store: Store, client: redis.Redis):
    store.enqueue([entry(name, now_ms() - 10) for name in "ab"])
    claim = take(store, 1)
    fill(client)

    assert store.renew(claim.leases, LEASE_MS) == 1
    assert settle(store, claim, "release") == 1
    assert store.reschedule(now_ms() + 50_000, "b") == 1
    assert store.run_now("b") == 1
    assert settle(store, take(store, 2), "unreadable") == 2
    assert {letter.id for letter in dead_entries(store)} == {"a", "b"}


# clocks


@pytest.fixture
def clock_off(app: Celery, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`clock_off(seconds)` puts the clock that this process publishes by so much ahead."""

    def put(seconds: float) -> None:
        monkeypatch.setattr(app, "now", lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds))
        clock = SimpleNamespace(now_ms=lambda: now_ms() + int(seconds * 1_000), monotonic=time.monotonic)
        monkeypatch.setattr(channel_module, "SYSTEM_CLOCK", clock)

    return put


def test_countdown_of_a_publisher_whose_clock_is_fast_waits_for_the_eta_it_wrote(
    app: Celery, store: Store, clock_off: Callable[[float], None]
):
    clock_off(HOUR_S)
    (identity,) = send(app, countdown=5)

    ahead_s = (store.get(identity).due_ms - now_ms()) / 1000
    assert HOUR_S < ahead_s <= HOUR_S + 5
    assert take(store, 1).messages == []


def test_countdown_of_a_publisher_whose_clock_is_slow_is_due_at_once(
    app: Celery, store: Store, clock_off: Callable[[float], None]
):
    """The eta that it wrote lies an hour back."""
    clock_off(-HOUR_S)
    (identity,) = send(app, countdown=5)

    assert take(store, 1).ids == [identity]


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S], ids=["fast", "slow"])
def test_true_eta_is_kept_whatever_the_publisher_s_clock_says(
    app: Celery, store: Store, clock_off: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, off_s: float
):
    """One that believes it past puts it on the ordinary list, and the worker parks it."""
    eta = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1.5)
    with monkeypatch.context() as context:
        clock_off(off_s)
        (identity,) = send(app, eta=eta)
        context.undo()
    monkeypatch.undo()

    arrived: list[float] = []
    with consuming(app, lambda message: arrived.append(time.time())) as consumer:
        consumer.take(1)

    assert consumer.ids == [identity]
    assert 0 <= arrived[0] - eta.timestamp() < 1.5
    wait_until(lambda: store.count() == 0)


# sizes and numbers


def test_many_due_in_the_same_millisecond_are_claimed_exactly_once_in_short_calls(
    server: RedisServer, store: Store, client: redis.Redis
):
    """100,000 of them; a million with REBOUND_TEST_FULL=1."""
    total, due = 1_000_000 if FULL else 100_000, now_ms() - 1
    body = entry("x", due).stored
    store.enqueue(Entry(f"{n:07}", due, body) for n in range(total))
    take(store, 1, 1)  # loads the script, and comes up again

    def spent() -> tuple[float, int]:
        """The server's seconds of processor time, which a busy machine does not stretch; and calls of scripts."""
        told = client.info("everything")
        return told["used_cpu_user"] + told["used_cpu_sys"], told["cmdstat_evalsha"]["calls"]

    spent_s, calls = spent()

    def claim_all() -> list[str]:
        with redis.Redis.from_url(server.url, socket_timeout=60) as own:
            mine, found = Store(own, store.keys), []
            while (claim := take(mine, CHUNK, 600_000, lanes=["0"])).messages:
                assert len(claim.messages) <= CHUNK
                found += claim.ids
                assert settle(mine, claim) == len(claim.messages)
            return found

    with ThreadPoolExecutor(4) as pool:
        found = [one for part in [pool.submit(claim_all) for _ in range(4)] for one in part.result()]

    assert len(found) == total
    assert len(set(found)) == total
    assert store.count() == 0
    after_s, after_calls = spent()
    assert (after_s - spent_s) / (after_calls - calls) < 0.01


def test_two_claimers_at_once_never_hold_the_same_message(server: RedisServer, store: Store):
    store.enqueue([entry(str(n), now_ms() - 10) for n in range(400)])
    start = threading.Barrier(2)

    def claim_some() -> list[str]:
        with redis.Redis.from_url(server.url) as own:
            mine = Store(own, store.keys)
            start.wait(10)
            return [identity for _ in range(100) for identity in take(mine, 3).ids]

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result() for future in [pool.submit(claim_some) for _ in range(2)]]

    assert not set(first) & set(second)
    assert len(first) + len(second) == len(set(first) | set(second)) == 400


@pytest.mark.parametrize(
    "eta",
    [dt.datetime.now(dt.UTC) + dt.timedelta(days=3_653), dt.datetime.max.replace(tzinfo=dt.UTC)],
    ids=["ten years", "as late as there is"],
)
def test_far_eta_waits_is_listed_and_can_be_run_now(app: Celery, store: Store, eta: dt.datetime):
    (identity,) = send(app, eta=eta)
    assert take(store, 10).messages == []
    assert 0 <= store.get(identity).due_ms / 1000 - eta.timestamp() < 0.01

    (listed,) = list_scheduled(app, ["celery"])
    assert listed["request"]["id"] == identity

    assert store.run_now(identity) == 1
    with consuming(app) as consumer:
        (message,) = consumer.take(1)
    assert message.headers["eta"] is None, "Celery would hold it for ten years more"
    wait_until(lambda: store.count() == 0)


@pytest.mark.parametrize("is_leased", [False, True])
def test_what_waits_is_shown_as_stock_celery_shows_it(server: RedisServer, is_leased: bool):
    """But for the arguments of a leased queue's tasks, which may be what is not for every eye."""
    app = Celery("shown", broker=server.url, set_as_current=False)
    install_schedule(app, lambda: {"leased": ("celery",) if is_leased else ()})
    moment = dt.datetime.now(dt.UTC).replace(microsecond=123_456) + dt.timedelta(hours=1)
    with app:
        identity = app.send_task("shop.charge", (1, "x"), {"z": {"y": 3}}, eta=moment).id
        (listed,) = list_scheduled(app, ["celery"])

        assert listed == {
            "eta": moment.isoformat(),
            "priority": 6,
            "request": {
                "id": identity,
                "name": "shop.charge",
                "args": ["(1, 'x')"] if is_leased else [1, "x"],
                "kwargs": "{'z': {'y': 3}}" if is_leased else {"z": {"y": 3}},
                "type": "shop.charge",
                "hostname": None,
                "time_start": None,
                "acknowledged": False,
                "delivery_info": {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False},
                "worker_pid": None,
            },
        }


def test_message_of_10_megabytes_is_parked_and_delivered_whole(app: Celery, store: Store, client: redis.Redis):
    """Random, so that no compression helps."""
    text = os.urandom(5_000_000).hex()
    app.send_task("t", (text,), countdown=0.5)
    small = send(app, 3, countdown=0.5)

    with consuming(app) as consumer:
        messages = consumer.take(4, timeout=30)
        wait_until(lambda: store.count() == 0)

    (big,) = [message for message in messages if message.headers["id"] not in small]
    assert json.loads(big.body)[0] == [text]
    assert keys_left(client) == []


# what a worker that comes too late may not do, and who is woken


@pytest.mark.parametrize("what", ["done", "release", "unreadable"])
def test_old_holder_changes_nothing_of_what_was_stored_since(store: Store, what: str):
    store.enqueue([entry("a", now_ms(), 1)])
    old = take(store, 1)
    due = now_ms() + 50_000
    store.enqueue([entry("a", due, 2, priority=3)])

    assert settle(store, old, what) == 0
    assert store.renew(old.leases, LEASE_MS) == 0

    (left,) = everything(store)
    assert (left.due_ms, left.leased, number_of(left.stored)) == (due, False, 2)
    assert dead_entries(store) == []


def test_a_sleeper_is_woken_by_all_that_makes_something_due_and_by_one_token_only(store: Store, client: redis.Redis):
    def token_after(change: Callable[[], object]) -> int:
        client.delete(store.keys.wake)
        change()
        return client.llen(store.keys.wake)

    later = now_ms() + 50_000
    store.enqueue([entry(name, later) for name in "abcd"])

    assert token_after(lambda: store.enqueue([entry("e", later)])) == 0
    assert token_after(lambda: store.cancel("e")) == 0
    assert token_after(lambda: store.run_now("nobody")) == 0
    assert token_after(lambda: store.run_now("a", "b")) == 1
    assert token_after(lambda: take(store, 1)) == 1, "one more is due, and this worker takes no more"
    assert token_after(lambda: take(store, 1)) == 0
    assert token_after(lambda: store.reschedule(now_ms() + 100, "c")) == 1
    claim = (
        take(store, 1)
        if store.get("c").due_ms <= now_ms()
        else wait_until(lambda: (found := take(store, 1)).messages and found)
    )
    assert token_after(lambda: settle(store, claim)) == 0
    assert token_after(lambda: store.enqueue([entry("f", now_ms() + MAX_SLEEP_MS // 2)])) == 1
    claim = wait_until(lambda: (found := take(store, 1)).messages and found)
    assert token_after(lambda: settle(store, claim, "release")) == 1


def test_a_master_that_lives_on_as_a_replica_is_left_for_the_new_one(server: RedisServer):
    """Its address leads to the new master, and the old one ends no connection."""
    proxy = Proxy(server.port, 1)
    with RedisServer() as new, redis.Redis(port=proxy.port) as client:
        store = Store(client, QueueKeys("", "q", STEPS))
        store.enqueue([entry("before", 1)])

        with redis.Redis.from_url(server.url) as old:
            old.execute_command("REPLICAOF", "127.0.0.1", new.port)
        proxy.target_port = new.port
        with pytest.raises(redis.exceptions.ReadOnlyError):
            store.enqueue([entry("refused", 1)])

        store.enqueue([entry("after", 1)])
        with redis.Redis.from_url(new.url) as server_of_it:
            assert server_of_it.hkeys(QueueKeys("", "q", STEPS).messages) == [b"after"]
