"""An app whose broker is not Redis is told so, as early as that is known."""

from __future__ import annotations

import logging

import pytest
from celery import Celery, signals

from rebound_celery import Rebound, install_schedule
from rebound_celery.errors import UnsupportedBrokerError

OTHERS = ["amqp://guest:secret@rabbit//", "pyamqp://rabbit//", "sqs://", "filesystem://", "amqp://a//;amqp://b//"]


def make_app(url: str | None) -> Celery:
    return Celery("broker", broker=url, set_as_current=False)


@pytest.mark.parametrize("url", OTHERS)
@pytest.mark.parametrize("install", [Rebound, install_schedule])
def test_another_broker_is_refused_at_once(url: str, install: type[Rebound]) -> None:
    with pytest.raises(UnsupportedBrokerError, match=r"rebound keeps what waits in Redis: set broker_url") as refused:
        install(make_app(url))

    assert url.partition(":")[0] in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "sentinel://h:1;sentinel://h:2", "redis+socket:///x"])
def test_every_form_of_redis_is_taken(url: str) -> None:
    Rebound(make_app(url))


@pytest.mark.parametrize("url", ["amqp://guest@rabbit//", None])
def test_a_broker_that_is_configured_later_is_refused_at_the_first_call(url: str | None) -> None:
    app = make_app(None)
    rebound = Rebound(app)
    app.conf.broker_url = url

    for call in (lambda: rebound.schedule_retry("kafka://orders"), rebound.check_redis, lambda: len(rebound.dead_set)):
        with pytest.raises(UnsupportedBrokerError, match="the broker is amqp://guest") as refused:
            call()
        assert "Redis at" not in str(refused.value)


def test_a_worker_of_such_an_app_does_not_start() -> None:
    app = make_app(None)
    install_schedule(app)
    app.conf.broker_url = "amqp://guest@rabbit//"

    with pytest.raises(SystemExit, match="UnsupportedBrokerError: the broker is amqp://"):
        signals.worker_init.send(sender=app.WorkController(hostname="w@here"))


def test_workers_of_other_apps_of_the_process_are_left_alone() -> None:
    install_schedule(make_app("redis://localhost"))
    other = make_app("amqp://guest@rabbit//")

    signals.worker_init.send(sender=other.WorkController(hostname="w@here"))

    assert other.Task.Request == "celery.worker.request:Request"


def test_memory_is_for_tests_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app("memory://")
    rebound = Rebound(app)

    with caplog.at_level(logging.WARNING):
        rebound.schedule_retry("kafka://orders")
        rebound.schedule_retry("kafka://orders")

    (record,) = [record for record in caplog.records if record.__dict__.get("event") == "nothing_kept"]
    assert "nothing that waits is kept" in record.getMessage()
