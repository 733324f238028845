"""A delivery that writes a dead letter is a failed task: for `AsyncResult`, for events, and for Flower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals

from rebound_celery import Message, Rebound, RetryPolicy
from rebound_celery.embedded import free_port
from rebound_celery.errors import DeadLetterError
from rebound_celery.message.address import DEAD_SET, HttpAddress, KafkaAddress
from rebound_celery.schedule.port import Entry, open_schedule
from tests.acceptance.apps.worker import running_worker
from tests.integration.test_delivery_events import kinds, listening
from tests.scheduling import now_ms
from tests.waiting import wait_until

#: Celery's own Redis result backend uses it.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture
def rebound(redis_url: str, kafka_brokers: str) -> Iterator[Rebound]:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers=kafka_brokers, http_connect_timeout=1)
    with running_worker(app):
        yield rebound


def message_to(url: str, **changes: Any) -> Message:
    fields: dict[str, Any] = {
        "id": "order-7",
        "value": b"v",
        "destination": HttpAddress(url),
        "dead_destination": DEAD_SET,
        "attempt": 2,
        "policy": RetryPolicy(1, 1),
        **changes,
    }
    return Message(**fields)


def test_a_message_given_up_into_the_dead_set_is_a_failure_with_reason_and_last_error(rebound: Rebound) -> None:
    url = f"http://127.0.0.1:{free_port()}/"
    with listening(rebound.app) as heard:
        rebound.store([(message_to(url), 0)])
        result = rebound.app.AsyncResult("order-7:2")
        wait_until(result.ready, timeout=15)
        wait_until(lambda: kinds(heard["order-7:2"])[-1:] == ["failed"], timeout=10)

    assert result.state == "FAILURE"
    assert isinstance(result.result, DeadLetterError)
    assert str(result.result).startswith(f"retries-exhausted: rebound_celery.errors.AttemptFailedError: POST {url}")
    assert "refused" in str(result.result)
    assert kinds(heard["order-7:2"]) == ["sent", "received", "started", "failed"]
    assert heard["order-7:2"][-1]["exception"] == str(result.result)


def test_a_dead_letter_in_a_topic_is_a_failure_with_the_handlers_error_and_stack_trace(
    rebound: Rebound, topic: str, read_topic: Callable[..., list[Any]], make_topic: Callable[..., str]
) -> None:
    make_topic(name=f"{topic}-dlq")
    with pytest.raises(ZeroDivisionError) as raised:
        1 / 0  # noqa: B018

    with listening(rebound.app) as heard:
        result = rebound.schedule_retry(f"kafka://{topic}", b"v", max_retries=0, error=raised.value)
        wait_until(result.ready, timeout=15)
        wait_until(lambda: kinds(heard[result.id])[-1:] == ["failed"], timeout=10)

    assert len(read_topic(f"{topic}-dlq", 1)) == 1
    assert (result.state, str(result.result)) == ("FAILURE", "retries-exhausted: ZeroDivisionError: division by zero")
    assert heard[result.id][-1]["traceback"].endswith("ZeroDivisionError: division by zero\n")
    assert "division by zero" in result.traceback


def test_a_message_that_its_destination_never_takes_is_a_failure_with_the_refusal(rebound: Rebound, topic: str) -> None:
    nowhere = KafkaAddress(topic, partition=77)

    with listening(rebound.app) as heard:
        rebound.store([(message_to("http://x/", destination=nowhere), 0)])
        result = rebound.app.AsyncResult("order-7:2")
        wait_until(result.ready, timeout=15)
        wait_until(lambda: kinds(heard["order-7:2"])[-1:] == ["failed"], timeout=10)

    assert str(result.result).startswith("rejected: rebound_celery.errors.RejectedError: ")
    assert "no partition 77" in str(result.result)


def test_a_dead_letter_that_cannot_be_written_yet_is_a_retry_and_a_failure_only_when_it_is_written(
    redis_url: str,
) -> None:
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    rebound = Rebound(app, kafka_brokers="127.0.0.1:1", kafka_timeout=0.5, outage_delay=0.1, outage_max_delay=0.1)
    dead = message_to("http://x/", dead_destination=KafkaAddress("dead"), reason="rejected")

    with running_worker(app), listening(app) as heard:
        rebound.store([(dead, 0)])
        wait_until(lambda: kinds(heard["order-7:dead"]).count("retried") >= 2, timeout=20)
        state = app.AsyncResult("order-7:dead").state

    assert state == "RETRY"
    assert "failed" not in kinds(heard["order-7:dead"])


@pytest.mark.parametrize("watched", [True, False])
def test_a_stored_message_that_cannot_be_read_is_a_failure_for_results_events_and_signals(
    rebound: Rebound, watched: bool
) -> None:
    failures: dict[str, object] = {}

    def on_failure(task_id: str, exception: object, **_: Any) -> None:
        failures[task_id] = exception

    # A worker decodes what it claims only where somebody looks at the details.
    rebound.app.tasks["rebound.deliver"].form.details_wanted = lambda: watched
    signals.task_failure.connect(on_failure)
    with listening(rebound.app) as heard:
        with open_schedule(rebound.app, "rebound") as schedule:
            schedule.enqueue([Entry("bad:2", now_ms(), b"\x11damaged", "kafka:orders", 3)])
        result = rebound.app.AsyncResult("bad:2")
        wait_until(result.ready, timeout=15)
        wait_until(lambda: kinds(heard["bad:2"])[-1:] == ["failed"], timeout=10)
    signals.task_failure.disconnect(on_failure)

    assert result.state == "FAILURE"
    assert isinstance(result.result, DeadLetterError)
    assert str(result.result).startswith("unreadable: ")
    assert kinds(heard["bad:2"]) == ["received", "started", "failed"]
    assert str(failures["bad:2"]) == str(result.result)
    with open_schedule(rebound.app, "rebound") as schedule:
        wait_until(lambda: schedule.counts().leased == 0)
        letter = schedule.dead_letter("bad:2")
        assert letter is not None
        assert (letter.reason, letter.stored) == ("unreadable", b"\x11damaged")
