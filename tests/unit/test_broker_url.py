"""A broker's URL that is wrong is refused with the part that is wrong, and without its password."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from click.testing import CliRunner

from rebound_celery import Consumer, ConsumerConfig, Rebound, install_schedule
from rebound_celery.broker import shown_broker
from rebound_celery.broker_url import check_broker_url
from rebound_celery.errors import InvalidSettingError
from rebound_celery.operate.cli.commands import rebound as command

ENCODE = "its user or its password is not percent-encoded: write %2F for /"
PLACE = "its host or its port cannot be read"
DATABASE = "its database is no number: write redis://host:6379/0"

WRONG = [
    ("redis://:pa/ss#w@host:6379/0", ENCODE),
    ("redis://:p[ss@h/0", ENCODE),
    ("redis://:p[s]s@h/0", ENCODE),
    ("redis://:p]ss@h/0", ENCODE),
    ("redis://:pass?word@h/0", ENCODE),
    ("redis://:pass#word@h/0", ENCODE),
    ("redis://:12/34@h/0", ENCODE),
    ("redis://user:12?34@h/0", ENCODE),
    ("redis://user:12#34@h/0", ENCODE),
    ("redis://user:12?3=4@h/0", ENCODE),
    ("redis://:12;34@h/0", ENCODE),
    ("redis://:pa℀ss@h/0", ENCODE),
    ("sentinel://h:1;sentinel://:pa/ss@h:2", ENCODE),
    ("redis://:pass@h:port/0", PLACE),
    ("redis://:password", PLACE),
    ("redis://h:70000/0", PLACE),
    ("redis://[::1/0", PLACE),
    ("redis://h/abc", DATABASE),
    ("redis://:pass@h/abc", DATABASE),
    ("redis://h/-1", DATABASE),
    ("redis+socket:///tmp/redis.sock?virtual_host=abc", "its option virtual_host, the database, is no number"),
    ("redis://h/0?db=1", "its query has an option that is unknown there"),
    ("rediss://h/0?ssl_cert_reqs=never", "its option ssl_cert_reqs is required, optional or none"),
]

RIGHT = [
    "redis://",
    "redis://h",
    "redis://h:6379/",
    "redis://h:6379//1",
    "redis://user:p%2Fss%23w@h:6379/1",
    "redis://:p@ss:word@h/1",
    "redis://:secret@[::1]:6379/15",
    "rediss://h/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/a@b.pem",
    "redis://h?connect_timeout=3",
    "sentinel://h:1;sentinel://h:2/0",
    "sentinel://h:1;h:2",
    "redis+socket:///tmp/re@dis.sock?virtual_host=3",
    "memory://",
    "amqp://guest:pa/ss@h//",
    None,
    ["redis://a", "redis://b/1"],
]


@pytest.mark.parametrize(("url", "text"), WRONG)
def test_the_wrong_part_is_named_and_no_secret_is_shown(url: str, text: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        check_broker_url(url)

    assert str(refused.value).startswith("broker_url='")
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)
    for secret in ("pa/", "ss@", "pass", "password", ":12", "34", "word@", "p[s", "p]s"):
        assert secret not in str(refused.value).partition(" cannot be used")[0]
        assert secret not in repr(refused.value.value)
        assert secret not in shown_broker(Celery(broker=url, set_as_current=False))


@pytest.mark.parametrize("url", RIGHT)
def test_what_kombu_can_read_is_taken(url: Any) -> None:
    check_broker_url(url)

    if url is not None and "memory://" not in url and "amqp://" not in url:
        app = Celery(broker=url, set_as_current=False, broker_transport_options={"master_name": "mymaster"})
        install_schedule(app)
        app.connection_for_write().release()


COMMANDS = pytest.mark.parametrize(
    "arguments",
    [
        ("pending", "ls"),
        ("pending", "cancel", "x"),
        ("pending", "ls", "--queue", "other"),
        ("dlq", "ls", "--source", "redis"),
        ("dlq", "replay", "--source", "redis", "--all"),
        ("lanes", "ls"),
        ("lanes", "pause", "kafka://orders", "--for", "1min"),
        ("stats",),
        ("chains",),
        ("consume", "--topic", "t", "--group", "g", "--handler", "tests.unit.test_broker_url:handle"),
    ],
)


@COMMANDS
def test_a_command_says_it_in_one_line(arguments: tuple[str, ...]) -> None:
    for url in ("redis://:pa/ss#w@host:6379/0", "redis://h/abc"):
        app = Celery(broker=url, set_as_current=False)
        Rebound(app)

        done = CliRunner().invoke(command, arguments, obj=SimpleNamespace(app=app, no_color=False))

        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("Error: broker_url='redis://")
        assert len(done.stderr.splitlines()) == 1


def handle(_record: object) -> None:
    """Handle nothing."""


def test_the_doctor_says_it() -> None:
    app = Celery(broker="redis://:pa/ss#w@host:6379/0", set_as_current=False)
    Rebound(app)

    done = CliRunner().invoke(command, ["doctor", "--no-kafka"], obj=SimpleNamespace(app=app, no_color=False))

    assert done.exit_code == 1
    assert "problem  redis: broker_url='redis://***' cannot be used: its user or its password" in done.stdout


@pytest.mark.parametrize(
    "call",
    [
        lambda rebound: rebound.schedule_retry("kafka://orders"),
        lambda rebound: list(rebound.endpoints),
        lambda rebound: list(rebound.lanes),
        lambda rebound: rebound.pending.counts(),
        lambda rebound: rebound.app.control.ping(timeout=0.1),
        lambda rebound: Consumer(ConsumerConfig(group="g", topics="t", handler=handle), rebound.app).run(),
    ],
)
def test_a_call_says_it(call: Callable[[Rebound], object]) -> None:
    app = Celery(broker="redis://:pa/ss#w@host:6379/0", set_as_current=False)
    rebound = Rebound(app)

    with pytest.raises(InvalidSettingError, match="is not percent-encoded"):
        call(rebound)


@pytest.mark.parametrize("install", [Rebound, install_schedule])
def test_a_worker_does_not_start(install: type[Rebound]) -> None:
    app = Celery(broker="redis://h/abc", set_as_current=False)
    install(app)

    with pytest.raises(SystemExit, match="Error: broker_url='redis://h/abc' cannot be used: its database is no number"):
        signals.celeryd_init.send(sender="w@here", instance=SimpleNamespace(app=app))


def test_a_worker_of_another_app_is_left_alone() -> None:
    install_schedule(Celery(set_as_current=False))

    other = Celery(broker="redis://h/abc", set_as_current=False)

    signals.celeryd_init.send(sender="w@here", instance=SimpleNamespace(app=other))
