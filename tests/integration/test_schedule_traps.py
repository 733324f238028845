"""Faults of this transport's prototypes and of kombu's transport. Each test keeps one fault from coming back.

Tests that need their own worker are in tests/acceptance.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from kombu import Exchange, Producer, Queue
from kombu.asynchronous import Hub

from rebound_celery.schedule import native_threads
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.script_runner import MAX_SLEEP_MS
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.transport import channel as channel_module
from rebound_celery.schedule.transport import process_leases
from rebound_celery.schedule.worker.installation import install_schedule
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.scheduling import Entry, everything
from tests.servers import RedisServer, consuming, send_due
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS = (0, 3, 6, 9)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
        close_redis_connections()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        yield connection


@pytest.fixture
def store(client: redis.Redis) -> Store:
    return Store(client, QueueKeys("", "celery", STEPS))


@pytest.fixture(params=["", "shop:"], ids=["no prefix", "prefix"])
def prefix(request: pytest.FixtureRequest) -> str:
    return request.param


def make_app(server: RedisServer, prefix: str = "", lease_s: float = 1.0) -> Celery:
    app = Celery("traps", broker=server.url, set_as_current=False)
    app.conf.update(task_ignore_result=True, broker_transport_options={"global_keyprefix": prefix})
    install_schedule(app, lambda: {"lease": lease_s})
    return app


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    with make_app(server) as app:
        yield app


def send(app: Celery, count: int = 1, **options: Any) -> list[str]:
    return [app.send_task("t", (number,), **options).id for number in range(count)]


def test_claim_gives_up_on_a_server_that_says_nothing_and_is_asked_again(
    server: RedisServer, app: Celery, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """Trap 4: on a half-open link a worker's loop must go on, and a claim that is sent twice leases once."""
    monkeypatch.setattr(channel_module, "_SOCKET_TIMEOUT_S", 0.4)
    (identity,) = send(app, countdown=1.0)
    with consuming(app) as consumer:
        consumer.turn(0.05)
        cycle = consumer.connection.default_channel.connection.cycle
        wait_until(lambda: store.get(identity).due_ms <= time.time_ns() // 1_000_000)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert cycle.claim() == 0
            assert time.monotonic() - began < 2
        finally:
            os.kill(server.pid, signal.SIGCONT)
        # What Redis runs once it goes on leases nothing to nobody: it is the same claim.
        consumer.take(1)

    assert consumer.ids == [identity]
    wait_until(lambda: store.count() == 0)


def test_consumer_without_acknowledgement_has_its_message_once(app: Celery, store: Store):
    """Trap 8: nobody would ever end its lease."""
    send_due(app, store, 0, 1, 2)
    got: list[Any] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        queue = app.amqp.queues["celery"](channel)
        queue.consume("tag", got.append, no_ack=True)
        deadline = time.monotonic() + 10
        while len(got) < 3 and time.monotonic() < deadline:
            connection.drain_events(timeout=1)

    wait_until(lambda: store.count() == 0)
    assert len(got) == 3


@pytest.mark.parametrize("no_ack", [True, False])
def test_simple_queue_finds_what_is_due(app: Celery, store: Store, no_ack: bool):
    """Trap 8, basic_get."""
    (identity,) = send(app, 1, countdown=60)
    with app.connection_for_read() as connection:
        queue = app.amqp.queues["celery"](connection.default_channel)
        assert queue.get(no_ack=no_ack, accept=["json"]) is None
        store.run_now(identity)
        message = wait_until(lambda: queue.get(no_ack=no_ack, accept=["json"]))
        if not no_ack:
            message.ack()
        assert queue.get(no_ack=no_ack, accept=["json"]) is None

    wait_until(lambda: store.count() == 0)


@pytest.mark.parametrize("what", ["ack", "requeue"])
def test_who_only_gets_hears_that_redis_did_not_take_it(server: RedisServer, app: Celery, what: str):
    """A worker's next consumer makes up for what failed; here none comes, so the caller has to try again."""
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        queue = app.amqp.queues["celery"](channel)
        app.send_task("t")
        message = wait_until(lambda: queue.get(accept=["json"]))
        settle = getattr(message, what)
        server.stop()

        with pytest.raises((OSError, redis.RedisError)):
            settle()

        assert not channel.leases.orphans
        assert not message.acknowledged
        server.start()
        settle()
        assert message.acknowledged


def test_kombu_s_idle_work_is_done_once_in_a_wait_whatever_is_claimed_meanwhile(app: Celery):
    """kombu takes a connection for half-open only after a wait of the whole time (`drain_events`)."""
    with consuming(app) as consumer:
        channel = consumer.connection.default_channel
        channel.brpop_timeout = 4
        consumer.turn(0.2)
        cycle = channel.connection.cycle
        looks = []
        cycle.maybe_check_brpop_health = lambda: looks.append(time.monotonic())
        send(app, countdown=0.5)
        consumer.turn(0.7)
        assert len(consumer.taken) == 1
        del looks[:]

        began = time.monotonic()
        with pytest.raises(TimeoutError):
            consumer.connection.drain_events(timeout=MAX_SLEEP_MS / 1000 + 0.5)

        assert [look - began >= MAX_SLEEP_MS / 1000 + 0.4 for look in looks] == [True]
        channel.brpop_timeout = 0.1


def test_nothing_is_claimed_for_a_consumer_that_was_cancelled(app: Celery, store: Store):
    """Trap 9."""
    send_due(app, store, 0)
    with consuming(app) as consumer:
        consumer._consumer.cancel()
        channel = consumer.connection.default_channel
        channel._active_queues.append("celery")  # a claim that was under way
        assert channel.connection.cycle.claim() == 0

    (left,) = everything(store)
    assert not left.leased


@pytest.mark.parametrize("requeue", [True, False])
def test_rejected_message_comes_back_or_is_gone(app: Celery, store: Store, requeue: bool):
    """Trap 10: neither may wait for the end of its lease."""
    send_due(app, store, 0)

    def reject(message: Any) -> None:
        if len(consumer.taken) == 1:
            message.reject(requeue=requeue)

    with consuming(app, reject) as consumer:
        consumer.take(2 if requeue else 1)
        wait_until(lambda: store.count() == 0)
        consumer.turn(0.2)

    assert len(consumer.taken) == (2 if requeue else 1)
    assert len(set(consumer.ids)) == 1


def test_message_is_settled_though_the_channel_that_delivered_it_is_gone(app: Celery, store: Store):
    """Trap 11: so is the connection."""
    send_due(app, store, 0)
    with consuming(app, _no_ack) as consumer:
        (message,) = consumer.take(1)
        channel = consumer.connection.default_channel
        transport, channel.connection = channel.connection, None  # as kombu leaves it when the connection is lost
        try:
            channel.qos.ack(message.delivery_tag)
            wait_until(lambda: store.count() == 0)
        finally:
            channel.connection = transport


@pytest.mark.parametrize("way", ["ack", "reject"])
def test_an_ordinary_message_whose_connection_is_closed_meanwhile_is_acknowledged_later(
    app: Celery, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, way: str
):
    """redis-py then asks a closed socket, which is a ValueError."""

    def closed(_self: Any) -> None:
        raise ValueError("Invalid file object: None")

    app.send_task("t")
    with consuming(app, _no_ack) as consumer:
        (message,) = consumer.take(1)
        with monkeypatch.context() as patch:
            patch.setattr(redis.client.Pipeline, "execute", closed)
            getattr(consumer.connection.default_channel.qos, way)(message.delivery_tag)
        assert client.hlen("unacked") == 1
    with consuming(app) as consumer:
        wait_until(lambda: client.hlen("unacked") == 0)
        consumer.turn(0.3)

    assert not consumer.taken


def _no_ack(message: Any) -> None:
    """Leave it unacknowledged for now."""
    message._state = "ACK"


def test_a_holder_lets_go_of_what_waits_anew_or_is_gone_and_of_nothing_else(
    server: RedisServer, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """So a delivery whose process was lost is not made again when it had ended by then; what waits is left as it is."""
    monkeypatch.setattr(channel_module, "_SOCKET_TIMEOUT_S", 0.4)
    due_ms = time.time_ns() // 1_000_000 + 50_000
    # No lease runs out while Redis stands still, however slow the machine is.
    with make_app(server, lease_s=60.0) as app, consuming(app, _no_ack) as consumer:
        _held, stored_anew, removed, moved = send(app, 4, countdown=0.2)
        held_tag, *others = [message.delivery_tag for message in sorted(consumer.take(4), key=lambda m: m.body)]
        qos = consumer.connection.default_channel.qos
        os.kill(server.pid, signal.SIGSTOP)
        try:
            assert qos.let_go([held_tag, *others]) == set(), "Redis says nothing"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        store.enqueue([Entry(stored_anew, due_ms, store.get(stored_anew).stored)])
        store.cancel(removed, leased=True)
        # Its lease has run out.
        client.zadd(store.keys.leased, {moved: 1})
        store.reschedule(due_ms, moved)

        assert qos.let_go([held_tag, *others]) == set(others)
        assert qos.leased == {held_tag}
        qos.channel.leases.flush()
        qos.ack(held_tag)
        wait_until(lambda: store.count() == 2)

    assert {(entry.id, entry.due_ms, entry.leased) for entry in everything(store)} == {
        (stored_anew, due_ms, False),
        (moved, due_ms, False),
    }


def test_a_channel_that_closes_gives_back_what_nobody_has_begun(app: Celery, store: Store):
    """Trap 12: whatever its queues are then; the next worker waits for no lease to run out, which would be a loss."""
    send_due(app, store, 0, 1, 2)
    with consuming(app, _no_ack) as first:
        first.take(3)
        first._consumer.cancel()
    with consuming(app) as second:
        second.take(3)
        wait_until(lambda: store.count() == 0)

    assert sorted(second.ids) == sorted(first.ids)
    assert not any(message.headers.get("redelivered") for message in second.taken)


def test_registering_with_the_loop_again_leaves_one_timer(app: Celery):
    """Trap 18: the worker does it on every reconnect."""
    hub = Hub()
    try:
        with consuming(app) as consumer:
            transport = consumer.connection.default_channel.connection
            for _ in range(3):
                consumer.connection.register_with_event_loop(hub)
            timers = [
                entry.entry
                for entry in hub.timer.queue
                if not entry.entry.cancelled and entry.entry.fun == transport.cycle._fire
            ]
            assert len(timers) == 1
            transport.cycle.close()
            assert timers[0].cancelled
    finally:
        hub.close()


def test_lost_connections_leave_nothing_with_the_loop(app: Celery):
    """Stock's leave a tick and five timers each, for as long as the worker lives."""
    hub = Hub()
    try:
        for _ in range(3):
            with consuming(app) as consumer:
                consumer.connection.register_with_event_loop(hub)
                assert len(hub.on_tick) == 1
                consumer.connection.collect()  # as Celery's worker does when it has lost a connection
        assert hub.on_tick == set()
        assert [entry.entry.fun for entry in hub.timer.queue if not entry.entry.cancelled] == []
    finally:
        hub.close()


def test_a_channel_whose_connection_is_lost_closes_whole(app: Celery, client: redis.Redis):
    """kombu's ends at the first thing that fails: its sockets stay, and what its finalizer refers to, for good."""
    hub = Hub()
    try:
        with consuming(app) as consumer:
            channel: Any = consumer.connection.default_channel
            consumer.connection.register_with_event_loop(hub)
            channel.connection.cycle.on_poll_start()  # it waits for Redis now
            assert channel._in_poll
            pool, qos = channel.pool, channel.qos
            client.client_kill_filter(_type="normal", skipme=True)
            channel.close()

            assert channel.closed
            assert channel not in consumer.connection.transport.channels
            assert not qos._on_collect.still_active()
            assert [one for one in pool._get_in_use_connections() if one._sock is not None] == []
    finally:
        hub.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_holds_no_leases_and_no_lock(app: Celery, store: Store):
    """Trap 19: prefork's children renew nothing of their parent's."""
    send_due(app, store, 0)
    with consuming(app, _no_ack) as consumer:
        consumer.take(1)
        assert process_leases._registry
        with process_leases._registry_lock:
            child = os.fork()
            if child == 0:
                free = process_leases._registry_lock.acquire(blocking=False)
                os._exit(0 if free and not process_leases._registry else 1)
        assert os.waitpid(child, 0)[1] == 0


def test_nothing_is_claimed_while_no_thread_can_renew_it_and_all_is_settled_afterwards(
    app: Celery, store: Store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    """The thread was thought to run after a first try that failed: no lease was renewed or settled ever after."""

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    sent = send_due(app, store, *range(5))
    with consuming(app) as consumer:
        with monkeypatch.context() as shortage:
            shortage.setattr(native_threads, "start_thread", no_thread)
            consumer.turn(1.0)
            assert consumer.taken == []
            assert client.zcard(store.keys.leased) == 0

        assert sorted(message.headers["id"] for message in consumer.take(5)) == sorted(sent)
        wait_until(lambda: client.hlen(store.keys.messages) == 0, timeout=5, message="all are settled")


def test_one_publish_to_two_queues_is_two_messages(app: Celery, client: redis.Redis):
    """Trap 20: kombu gives both the same delivery tag."""
    exchange = Exchange("both", type="direct")
    queues = [Queue(name, exchange, routing_key="both") for name in ("one", "two")]
    stores = [Store(client, QueueKeys("", queue.name, STEPS)) for queue in queues]
    got: list[tuple[str, str]] = []
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        for queue in queues:
            queue(channel).declare()
        app.send_task("t", exchange=exchange, routing_key="both", countdown=1.0, declare=queues)
        assert [store.count() for store in stores] == [1, 1]

        def take(body: Any, message: Any) -> None:
            got.append((message.delivery_tag, message.headers["id"]))
            if len(got) == 1:
                message.ack()
            else:
                message.reject(requeue=False)

        with connection.Consumer(queues, callbacks=[take], accept=["json"]):
            deadline = time.monotonic() + 10
            while len(got) < 2 and time.monotonic() < deadline:
                connection.drain_events(timeout=1)
        wait_until(lambda: [store.count() for store in stores] == [0, 0])

    assert len({tag for tag, _ in got}) == 2
    assert len({identity for _, identity in got}) == 1


@pytest.mark.parametrize("eta", [5, "soon", "99999-01-01T00:00:00", ["2999-01-01"], "2999-01-01T00:00:00"])
@pytest.mark.parametrize("is_task", [True, False])
def test_any_eta_header_can_be_published_and_only_a_task_is_kept_back(
    app: Celery, store: Store, eta: Any, is_task: bool
):
    """Trap 22: a prototype raised TypeError, and kept a foreign message for 973 years."""
    headers = {"eta": eta, **({"task": "t", "id": "i"} if is_task else {})}
    with app.connection_for_write() as connection:
        Producer(connection).publish({}, routing_key="celery", headers=headers, declare=[app.amqp.queues["celery"]])
        waits = is_task and eta == "2999-01-01T00:00:00"
        assert store.count() == int(waits)
        assert connection.default_channel.client.llen("celery") == int(not waits)


def test_protocol_1_task_waits_and_runs_once(app: Celery):
    """Trap 23: its eta is in the body, so that it comes off the ordinary list, and Celery holds it."""
    app.conf.task_protocol = 1
    ran: list[float] = []

    @app.task(name="t", shared=False, lazy=False)
    def run(due: float) -> None:
        ran.append(time.time() - due)

    with running_worker(app):
        app.send_task("t", (time.time() + 1,), countdown=1)
        wait_until(lambda: ran)

    assert len(ran) == 1
    assert ran[0] >= 0


def test_the_schedule_counts_as_the_queue(server: RedisServer, client: redis.Redis, prefix: str):
    """Trap 24: for size, purge, delete and the question whether the queue is there."""
    store = Store(client, QueueKeys(prefix, "celery", STEPS))
    with make_app(server, prefix) as app:
        send(app, 10, countdown=60)
        send(app, 5)
        with app.connection_for_write() as connection:
            channel = connection.default_channel
            app.amqp.queues["celery"](channel).declare()
            assert channel._size("celery") == 15
            assert app.control.purge() == 15
            assert channel._size("celery") == 0

            send(app, 2, countdown=60)
            assert channel._has_queue("celery")
            channel.queue_delete("celery", if_empty=True)
            assert store.count() == 2, "it is not empty"
            channel.queue_delete("celery")
            assert store.count() == 0
            assert not channel._has_queue("celery")


def test_batch_stores_when_it_ends_and_nothing_if_it_is_aborted(server: RedisServer, client: redis.Redis, prefix: str):
    """Trap 24, kombu's Producer.batch(): with ordinary messages among them."""
    store = Store(client, QueueKeys(prefix, "celery", STEPS))
    with make_app(server, prefix) as app, app.producer_or_acquire() as producer:
        send(app, 1, countdown=60)  # declares the queue
        with producer.batch():
            for number in range(250):
                app.send_task(
                    "t", (number,), countdown=0.5 if number % 2 else 0, producer=producer, priority=number % 4
                )
            assert store.count() == 1
        assert store.count() == 126
        with suppress(KeyboardInterrupt), producer.batch():
            send(app, 5, countdown=60, producer=producer)
            raise KeyboardInterrupt
        assert store.count() == 126

        with consuming(app) as consumer:
            consumer.take(250)
            wait_until(lambda: store.count() == 1)
    assert len(set(consumer.ids)) == 250


def test_batch_larger_than_its_buffer_is_stored_in_parts(app: Celery, store: Store):
    with app.producer_or_acquire() as producer:
        send(app, 1, countdown=60)
        with producer.batch(max_size=10):
            send(app, 25, countdown=60, producer=producer)
            assert store.count() == 21
        assert store.count() == 26


def test_idle_worker_asks_redis_for_little(server: RedisServer, client: redis.Redis):
    """Trap 26: commands inside of scripts count too. Stock Celery needs 1.2 a second, and as many for its events."""

    def commands() -> int:
        return sum(stat["calls"] for stat in client.info("commandstats").values())

    app = Celery("idle", broker=server.url, set_as_current=False)
    install_schedule(app)
    send(app, 10, countdown=600)
    with running_worker(app):
        time.sleep(1)  # it has only just started
        before, began = commands(), time.monotonic()
        time.sleep(6)
        rate = (commands() - before) / (time.monotonic() - began)

    assert rate < 2.5
