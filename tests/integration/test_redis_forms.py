"""Each form of Redis that kombu supports: a message waits there, is listed, is taken once, and leaves no key."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from redis.sentinel import Sentinel as SentinelClient

import rebound_celery
from rebound_celery import Rebound
from rebound_celery.embedded import free_port
from rebound_celery.operate import doctor
from rebound_celery.schedule.port import DeadEntry, Do, open_schedule
from rebound_celery.schedule.store.claims import ClaimId
from rebound_celery.schedule.store.keys import QueueKeys
from rebound_celery.schedule.store.store import Store
from rebound_celery.schedule.worker.installation import install_schedule
from rebound_celery.schedule.worker.shown import list_scheduled
from rebound_celery.schedule.worker.start_checks import warn_of_eviction
from tests.acceptance.apps.worker import close_redis_connections, running_worker
from tests.integration.test_schedule_chains import CHAIN, outcomes, step
from tests.scheduling import now_ms
from tests.servers import RedisServer, Sentinel, consuming, redis_programs, redis_version
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = Path(rebound_celery.__file__).parents[1] / "docs" / "operations.md"


def least_rights() -> list[str]:
    """The rules of the page, which are all that an app asks of Redis."""
    (rules,) = re.findall(r"```text\nACL SETUSER rebound (.*?)```", OPERATIONS.read_text(), re.DOTALL)
    return rules.replace("PASSWORD", "pw").split()


@contextmanager
def scheduled_app(url: str, lease_s: float = 2.0, **conf: Any) -> Iterator[Celery]:
    with Celery("forms", broker=url, set_as_current=False) as app:
        app.conf.update({"task_ignore_result": True, **conf})
        install_schedule(app, lambda: {"lease": lease_s})
        try:
            yield app
        finally:
            close_redis_connections()


def store_of(app: Celery, connection: Any) -> Store:
    return connection.default_channel.store_of(app.conf.task_default_queue)


def passes_through(app: Celery, count: int = 3) -> None:
    """What each form has to do."""
    gone = app.send_task("t", countdown=60)  # connects, which may take its time
    sent = [app.send_task("t", (number,), countdown=0.5, priority=number).id for number in range(count)]
    assert {entry["request"]["id"] for entry in list_scheduled(app, ["celery"])} == {*sent, gone.id}

    with consuming(app) as consumer:
        store = store_of(app, consumer.connection)
        assert store.count() == count + 1
        assert consumer.connection.default_channel.queue_declare("celery", passive=True).message_count == count + 1
        consumer.take(count)
        assert len(store.cancel(gone.id)) == 1
        wait_until(lambda: store.count() == 0)

    assert sorted(consumer.ids) == sorted(sent)


def left_over(url: str, **options: Any) -> list[bytes]:
    """All keys but kombu's table of queues, what the schedule remembers of its claims and counts, and a last wake-up.

    A worker that ends does not read the wake-up any more; the queue has at most one.
    """
    kept = (b":stats", b":claims", b":unconfirmed", b":next", b":claimed", b":wake")
    with redis.Redis.from_url(url, **options) as client:
        others = [key for key in client.keys("*") if b"_kombu.binding" not in key and b"}:answer:" not in key]
    return [key for key in others if not key.endswith(kept)]


@pytest.mark.parametrize("program", redis_programs(), ids=redis_version)
def test_every_kind_of_server(program: str):
    """Redis of other versions, and Valkey; see REBOUND_TEST_REDIS_BINARIES. A worker retries there, and stops."""
    ran: list[tuple[int, int]] = []
    with RedisServer(program=program) as server, scheduled_app(server.url, task_acks_late=True) as app:
        passes_through(app)

        @app.task(name="t", bind=True, shared=False, lazy=False)
        def run(self: Any, number: int) -> None:
            ran.append((number, self.request.retries))
            if number == 1 and self.request.retries == 0:
                raise self.retry(countdown=0.5)
            time.sleep(3 if number == 2 else 0)  # longer than the lease

        with running_worker(app):
            for number in range(3):
                app.send_task("t", (number,), countdown=0.3)
            gone = app.send_task("t", (3,), countdown=60)
            wait_until(lambda: len(ran) == 4, timeout=20, message=lambda: str(ran))
            app.control.revoke(gone.id)
            wait_until(lambda: left_over(server.url) == [], timeout=20)

    assert sorted(ran) == [(0, 0), (1, 0), (1, 1), (2, 0)]


def test_password():
    with RedisServer(options=["--requirepass", "s3cret/:@"]) as server:
        url = f"redis://:s3cret%2F%3A%40@{server.address}/0"
        with scheduled_app(url) as app:
            passes_through(app)
        assert left_over(url) == []


@contextmanager
def server_with_rights(rights: list[str]) -> Iterator[RedisServer]:
    """A server with the users `worker`, who has these rights, and `keeper`, who has all."""
    with RedisServer() as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "worker", *rights)
            admin.execute_command("ACL", "SETUSER", "keeper", "on", ">pw", "allkeys", "allcommands")
            admin.execute_command("ACL", "SETUSER", "default", "off")
        yield server


def denied(server: RedisServer) -> list[tuple[str, str]]:
    with redis.Redis.from_url(f"redis://keeper:pw@{server.address}/0") as keeper:
        return [(entry["reason"], entry["object"]) for entry in keeper.acl_log()]


def test_acl_user_with_the_least_it_needs():
    """What the page lists is enough for a publisher and a worker, and for those who look and steer."""
    ran: list[int] = []
    with server_with_rights(least_rights()) as server:
        with scheduled_app(f"redis://worker:pw@{server.address}/0") as app:
            passes_through(app)

            @app.task(name="t", shared=False, lazy=False)
            def run(number: int) -> None:
                ran.append(number)

            with running_worker(app):
                for number in range(3):
                    app.send_task("t", (number,), countdown=0.3)
                app.send_task("t", (3,))
                wait_until(lambda: len(ran) == 4, timeout=20)
                gone = app.send_task("t", countdown=60)
                inspect = app.control.inspect(timeout=5)
                assert [len(answer) for answer in inspect.scheduled().values()] == [1]
                assert [list(answer) for answer in inspect.query_task(gone.id).values()] == [[gone.id]]
                app.control.revoke(gone.id)
                app.send_task("t", countdown=60)
                assert app.control.purge() == 1

        assert denied(server) == []
        wait_until(lambda: not left_over(f"redis://keeper:pw@{server.address}/0"))


def test_acl_user_of_an_app_with_rebound():
    with server_with_rights(least_rights()) as server:
        with scheduled_app(f"redis://worker:pw@{server.address}/0") as app:
            rebound = Rebound(app)
            rebound.schedule_retry("kafka://orders", b"x", id="one", base_delay=600)
            rebound.schedule_retry("kafka://orders", b"x", id="two", base_delay=600)
            app.control.revoke("one")
            with open_schedule(app, "rebound") as schedule:
                assert schedule.counts().waiting == 1
                schedule.keep_dead([DeadEntry("a", "old", b"x")])
                assert schedule.dead_letter("a") is not None
                assert schedule.remove_dead("a") == 1
                schedule.pause("kafka:orders", 10**15)
                schedule.set_rate("kafka:orders", 5.0)
                schedule.resume("kafka:orders")
                assert schedule.lanes()[0].rate == 5.0
                assert schedule.unclaimed_ms() == 0
                head = step(Do.WAIT, 1, 2, due_ms=now_ms() + 60_000)
                assert outcomes(schedule, head, step(Do.ARRIVE, 2)) == ["waits", "behind"]
                assert [chain.behind for chain in rebound.chains.page()] == [1]
                assert schedule.chain_names("") == [CHAIN]
                assert rebound.chains.release(CHAIN) == 2
                assert schedule.purge() == 3
            assert not any(finding.level == "problem" for finding in doctor._redis(app, threading.Event()))

        assert denied(server) == []


def test_the_least_rights_have_each_command_of_the_scripts():
    scripts = Path(rebound_celery.__file__).parent / "schedule" / "store" / "scripts"
    called = re.findall(r"redis\.p?call\(\s*'([A-Z]+)'", "".join(path.read_text() for path in scripts.glob("*.lua")))

    assert {f"+{name.lower()}" for name in called} - set(least_rights()) == set()


def test_without_info_the_doctor_says_what_it_cannot_see(caplog: pytest.LogCaptureFixture):
    rights = [right for right in least_rights() if right != "+info"]
    with server_with_rights(rights) as server, scheduled_app(f"redis://worker:pw@{server.address}/0") as app:
        Rebound(app)
        caplog.clear()
        (finding,) = doctor._redis(app, threading.Event())
        assert finding.level == "note"
        assert "may not call INFO" in finding.text
        assert "eviction" in finding.text

        passes_through(app)
        warn_of_eviction(app)
        assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
        assert {what for what in denied(server) if what != ("command", "info")} == set()


def test_the_doctor_finds_that_nobody_claims_what_is_due(redis_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_UNCLAIMED_S", 0.2)
    with scheduled_app(redis_url) as app:
        rebound = Rebound(app)
        rebound.schedule_retry("kafka://orders", b"x", id="one", base_delay=600)
        with open_schedule(app, "rebound") as schedule:
            assert list(doctor._claims(app, rebound)) == []
            schedule.run_now("one:2")
            wait_until(lambda: schedule.unclaimed_ms() > 300)
            (finding,) = doctor._claims(app, rebound)
            assert finding.level == "problem"
            assert "no worker has claimed any" in finding.text

            with redis.Redis.from_url(redis_url) as client:
                store = Store(client, QueueKeys("", "rebound", (0, 3, 6, 9)))
                # A worker that is there, and has no room.
                store.claim(ClaimId("w", 1), 0, 1000, 1000)
            assert schedule.unclaimed_ms() < 200
            assert schedule.overdue_ms() > 300


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, and pem and key of a server and of a client."""
    place = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=place, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    (place / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.pem", "-days", "2", "-extfile", "names",
        )  # fmt: skip
    return place


def test_tls_with_certificates_of_both_sides(certificates: Path):
    tls_port = free_port()
    options = [
        "--tls-port", str(tls_port), "--tls-auth-clients", "yes", "--tls-ca-cert-file", str(certificates / "ca.pem"),
        "--tls-cert-file", str(certificates / "server.pem"), "--tls-key-file", str(certificates / "server.key"),
    ]  # fmt: skip
    with RedisServer(options=options) as server:
        tls = {
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
            "ssl_ca_certs": str(certificates / "ca.pem"),
            "ssl_certfile": str(certificates / "client.pem"),
            "ssl_keyfile": str(certificates / "client.key"),
        }
        with scheduled_app(f"rediss://localhost:{tls_port}/0", broker_use_ssl=tls) as app:
            passes_through(app)
        assert left_over(server.url) == []


def test_unix_socket(tmp_path: Path):
    """`redis+socket://`, as Celery documents it."""
    with RedisServer(options=["--unixsocket", str(tmp_path / "r.sock")]) as server:
        with scheduled_app(f"redis+socket://{tmp_path / 'r.sock'}?virtual_host=3") as app:
            passes_through(app)
            app.send_task("t", countdown=60)
        assert left_over(server.url) == []
        assert b"rebound:1:{celery}:messages" in left_over(f"redis://{server.address}/3")


def test_database_number_is_kept_to():
    with RedisServer() as server:
        with scheduled_app(f"redis://{server.address}/7") as app, scheduled_app(server.url) as other:
            app.send_task("t", countdown=60)
            passes_through(other)
            assert left_over(f"redis://{server.address}/7")
        assert left_over(server.url) == []


def test_two_apps_with_prefixes_share_a_database_without_meeting():
    with RedisServer() as server:
        prefixes = ["one:", "two:"]
        first, second = (
            scheduled_app(server.url, broker_transport_options={"global_keyprefix": prefix}) for prefix in prefixes
        )
        with first as one, second as two:
            two.send_task("t", countdown=60)
            passes_through(one)
        left = left_over(server.url)
        assert left
        assert all(key.startswith(b"two:") for key in left)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="the page's command needs redis-cli")
def test_what_waits_moves_to_another_redis_with_the_command_of_the_page():
    (command,) = re.findall(r"```sh\n(redis-cli .* MIGRATE .*)\n```", OPERATIONS.read_text())
    with RedisServer() as old, RedisServer() as new:
        with scheduled_app(old.url) as app:
            sent = [app.send_task("t", (number,), countdown=2, priority=number).id for number in (0, 5)]
            held = app.send_task("t", countdown=0.01).id
            with app.connection_for_write() as connection:
                store = store_of(app, connection)
                numbers = count(1)
                wait_until(lambda: store.claim(ClaimId("gone", next(numbers)), 1, 1_000, 1_000, ["0"]).messages)
        host, port = new.address.split(":")
        for word, value in {"redis://OLD": old.url, "NEW_HOST": host, "NEW_PORT": port}.items():
            command = command.replace(word, value)

        subprocess.run(["bash", "-c", command], check=True, timeout=30)

        with scheduled_app(new.url) as app, consuming(app) as consumer:
            consumer.take(3)
        assert sorted(consumer.ids) == sorted([*sent, held])
        assert not [key for key in left_over(old.url) if key.startswith(b"rebound:")]


@pytest.mark.parametrize(
    "options",
    [
        {"health_check_interval": 1, "socket_keepalive": True, "client_name": "shop", "retry_on_timeout": True},
        {"max_connections": 20, "socket_timeout": 3, "socket_connect_timeout": 3},
        {"priority_steps": [0, 5], "sep": ":", "queue_order_strategy": "priority"},
        {"ack_emulation": False},
        {"fanout_prefix": False, "fanout_patterns": False, "unacked_key": "held", "unacked_index_key": "held-index"},
        {"polling_interval": 0.1},
    ],
    ids=lambda options: "-".join(options),
)
def test_kombu_s_transport_options_go_together_with_the_schedule(options: dict[str, Any]):
    with RedisServer() as server:
        with scheduled_app(server.url, broker_transport_options=options) as app:
            passes_through(app)
        assert left_over(server.url) == []


def test_broker_that_is_not_redis_is_left_as_it_is():
    with scheduled_app("memory://") as app:
        app.send_task("t", countdown=0.1)
        with consuming(app) as consumer:
            (message,) = consumer.take(1)
            assert message.headers["eta"] is not None
        assert list_scheduled(app, ["celery"]) == []


# Sentinel


@pytest.fixture
def pair() -> Iterator[tuple[RedisServer, RedisServer, Sentinel]]:
    """A master, its replica, and a Sentinel that knows both."""
    fast = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
    with RedisServer(options=fast) as master:
        options = [*fast, "--replicaof", f"127.0.0.1 {master.port}"]
        with RedisServer(options=options) as replica, redis.Redis.from_url(replica.url) as client:
            wait_until(lambda: client.info("replication")["master_link_status"] == "up")
            with Sentinel(master) as sentinel:
                watcher = SentinelClient([("127.0.0.1", sentinel.port)])
                wait_until(lambda: watcher.discover_slaves("main"))
                watcher.close()
                yield master, replica, sentinel
                close_redis_connections()


def sentinel_conf(**options: Any) -> dict[str, Any]:
    return {"broker_transport_options": {"master_name": "main", **options}, "broker_connection_timeout": 2}


def test_sentinel(pair: tuple[RedisServer, RedisServer, Sentinel]):
    master, _replica, sentinel = pair
    with scheduled_app(f"sentinel://{sentinel.address}/0", **sentinel_conf()) as app:
        passes_through(app)
    assert left_over(master.url) == []


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")  # Celery's word on long tasks at a connection loss
def test_sentinel_failover_while_messages_wait_and_one_is_held(pair: tuple[RedisServer, RedisServer, Sentinel]):
    """The master is killed: what it had told its replica is claimed from there, once, by the same worker."""
    master, replica, sentinel = pair
    ran: list[int] = []
    url = f"sentinel://{sentinel.address}/0;sentinel://127.0.0.1:1/0"
    # A lease outlasts the failover, or what is held then would be due again.
    with scheduled_app(url, lease_s=30.0, task_acks_late=True, **sentinel_conf()) as app:

        @app.task(name="t", shared=False, lazy=False)
        def run(number: int) -> None:
            ran.append(number)
            if number == 0:
                time.sleep(3)

        with running_worker(app):
            app.send_task("t", (0,), countdown=0.2)
            for number in range(1, 20):
                app.send_task("t", (number,), countdown=2.0)
            wait_until(lambda: ran == [0])
            with redis.Redis.from_url(master.url) as client:
                assert client.wait(1, 2000) == 1
            master.kill()

            wait_until(lambda: len(ran) >= 20, timeout=40, message=lambda: str(ran))
            app.send_task("t", (20,), countdown=0.3)
            wait_until(lambda: 20 in ran, timeout=20)
            wait_until(lambda: left_over(replica.url) == [], message=lambda: str(left_over(replica.url)))

    assert sorted(ran) == list(range(21))
