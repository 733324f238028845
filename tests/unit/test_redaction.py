"""`rebound_redact` decides what is kept of errors and of the headers of dead letters."""

from __future__ import annotations

import logging
import re
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from rebound_celery import (
    Consumer,
    ConsumerConfig,
    InvalidSettingError,
    Message,
    Rebound,
    RetryPolicy,
    RetryRequest,
    Settings,
)
from rebound_celery.clock import SYSTEM_CLOCK
from rebound_celery.consumer.failure_handler import FailureHandler
from rebound_celery.consumer.handler_task import HandlerTask
from rebound_celery.consumer.key_queues import KeyQueues
from rebound_celery.consumer.offset_tracker import OffsetTracker
from rebound_celery.consumer.workers import Workers
from rebound_celery.delivery.batch import Batch
from rebound_celery.delivery.delivery import Delivery
from rebound_celery.delivery.result import End
from rebound_celery.destinations import Failed, Outcome, Underway
from rebound_celery.redaction import Redactor
from rebound_celery.testing import in_memory
from tests.scheduling import keep_in
from tests.unit.test_consumer_offset_tracker import P, record
from tests.waiting import wait_until

SECRET = "4111 1111 1111 1111"
PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def masked(where: str, value: str | bytes) -> str | bytes | None:
    if where == "header:authorization":
        return None
    mask = SECRET if isinstance(value, str) else SECRET.encode()
    return value.replace(mask, "*" if isinstance(value, str) else b"*")  # type: ignore[arg-type]


def settings(hook: Any = masked) -> Settings:
    return Settings.read({"rebound_redact": hook}, {})


def failing() -> Exception:
    try:
        raise ValueError(f"card {SECRET} is refused")  # noqa: TRY301
    except ValueError as error:
        return error


HEADERS = {"authorization": "Bearer x", "card": SECRET, "trace": "7"}


def test_a_retry_has_a_redacted_error_and_all_of_its_headers() -> None:
    message, _ = RetryRequest(destination="kafka://t", error=failing(), headers=HEADERS).to_message(settings(), 0)

    assert message.failure is not None
    assert message.failure.message == "card * is refused"
    assert message.history[0].error == "ValueError: card * is refused"
    assert message.headers == tuple((name, value.encode()) for name, value in HEADERS.items())


def test_a_dead_letter_has_a_redacted_stack_trace_and_redacted_headers() -> None:
    request = RetryRequest(destination="kafka://t", error=failing(), headers=HEADERS, max_retries=0)
    message, _ = request.to_message(settings(), 0)

    assert message.reason is not None
    assert message.failure is not None
    assert "card * is refused" in message.failure.stacktrace
    assert message.headers == (("card", b"*"), ("trace", b"7"))
    assert SECRET not in repr(message)


def no_chains(task_ids: Any, *, dead: bool) -> None:
    assert not task_ids


def test_an_outcome_that_comes_late_is_stored_redacted() -> None:
    outcome: Future[Outcome] = Future()

    class Slow:
        def send(self, messages: Any) -> list[Any]:
            return [Underway("there is no answer yet", 1, outcome)]

        def close(self) -> None:
            pass

    message, _ = RetryRequest(destination="http://r/", delay=0).to_message(settings(), 0)
    stored: list[Delivery] = []
    batch = Batch({"http": Slow()}, settings(), keep_in(stored), "w", SYSTEM_CLOCK, no_chains)
    batch.deliver([Delivery(message=message, task_id="t")])
    outcome.set_result(Failed(f"card {SECRET} is refused", None, 400))

    assert stored[-1].ended == Failed("card * is refused", None, 400)


@pytest.mark.parametrize("max_retries", [0, 3])
def test_what_another_consumer_hands_over_is_redacted(max_retries: int) -> None:
    rebound = Rebound(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False), redact=masked)

    with in_memory(rebound.app) as memory:
        record = {"topic": "orders", "value": b"v", "headers": HEADERS, "partition": 0, "offset": 7}
        rebound.handle_failure(record, failing(), policy=RetryPolicy(max_retries=max_retries))
        (waiting,) = memory.waiting()

    assert SECRET not in repr((waiting.message.failure, waiting.message.history))
    assert len(waiting.message.headers) == (2 if max_retries == 0 else 3)


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_failed_delivery_is_redacted_in_what_is_stored_and_in_its_result(max_retries: int) -> None:
    class Refusing:
        def send(self, messages: Any) -> list[Any]:
            return [Failed(failing()) for _ in messages]

        def close(self) -> None:
            pass

    request = RetryRequest(destination="http://r/", headers=HEADERS, max_retries=max_retries, delay=0)
    message, _ = request.to_message(settings(), 0)
    stored: list[Delivery] = []
    destinations = {"http": Refusing(), "dead-set": Refusing()}
    batch = Batch(destinations, settings(), keep_in(stored), "w", SYSTEM_CLOCK, no_chains)
    (result,) = batch.deliver([Delivery(message=message, task_id="t")])

    assert result.end == End.AGAIN
    assert SECRET not in result.text
    (kept,) = stored
    assert SECRET not in repr((kept.message.failure, kept.message.history))
    assert len(kept.message.headers) == (2 if max_retries == 0 else 3)


def test_a_function_that_fails_keeps_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def broken(where: str, value: object) -> object:
        raise KeyError(value)

    request = RetryRequest(destination="kafka://t", error=failing(), headers=HEADERS, max_retries=0)
    message, _ = request.to_message(settings(broken), 0)

    assert SECRET not in repr(message)
    assert message.headers == ()
    assert "rebound_redact raised KeyError for error" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("answer", [None, 7, b"x"])
def test_an_answer_that_is_no_text_is_not_kept(answer: object) -> None:
    assert SECRET not in settings(lambda where, value: answer).redact.text(SECRET)


def test_what_a_function_adds_stays_within_the_bounds() -> None:
    redact = settings(lambda where, value: value * 1000).redact
    failure = RetryRequest(destination="kafka://t", error=failing()).to_message(Settings(), 0)[0].failure
    assert failure is not None
    assert len(redact.failure(failure).message) == 1_000


def test_a_name_is_imported_when_it_is_first_needed() -> None:
    redact = settings(f"{__name__}:masked").redact
    redact.check()
    assert redact.text(SECRET) == "*"
    with pytest.raises(InvalidSettingError, match="rebound_redact='no_such_module:f'"):
        Redactor("no_such_module:f").check()
    assert Redactor("no_such_module:f").text(SECRET) == "(redacted)"


@pytest.mark.parametrize("name", ["no_such_module:f", "json:no_such_function", "sys:path"])
def test_neither_a_worker_nor_a_consumer_starts_without_the_function(name: str) -> None:
    """Nothing would be kept of any error, and dead letters would lose their headers."""
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    Rebound(app, redact=name)
    consumer = Consumer(ConsumerConfig(topics=["orders"], group="billing", handler=print), app)

    with pytest.raises(SystemExit, match=f"InvalidSettingError: rebound_redact='{name}' cannot be used"):
        app.WorkController(hostname="w@here")
    with pytest.raises(InvalidSettingError, match=f"rebound_redact='{name}' cannot be used"):
        consumer.run()


def test_without_a_function_nothing_is_changed() -> None:
    message, _ = RetryRequest(destination="kafka://t", error=failing(), max_retries=0).to_message(Settings(), 0)
    assert message.failure is not None
    assert Settings().redact.failure(message.failure) is message.failure
    assert Settings().redact.dead_letter(message) is message
    assert isinstance(message, Message)


def test_a_logged_exception_has_a_redacted_stack_trace_with_its_causes(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise RuntimeError("not paid") from failing()  # noqa: TRY301
    except RuntimeError as error:
        settings().redact.log(logging.getLogger("shop"), "%s is lost", "m1", error=error, extra={"event": "lost"})

    (line,) = caplog.records
    assert line.getMessage().startswith("m1 is lost\nTraceback")
    assert "ValueError: card * is refused" in line.getMessage()
    assert (line.exc_info, line.levelname, line.event) == (None, "ERROR", "lost")  # type: ignore[attr-defined]
    assert line.funcName == "test_a_logged_exception_has_a_redacted_stack_trace_with_its_causes"
    assert SECRET not in caplog.text


def test_without_a_function_an_exception_is_logged_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    error = failing()
    Redactor().log(logging.getLogger("shop"), "lost", error=error, extra={})
    assert caplog.records[0].exc_info == (ValueError, error, error.__traceback__)


def test_a_destination_that_raises_is_redacted_in_the_log_and_in_the_result(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def send(self, messages: Any) -> list[Any]:
            raise failing()

        def close(self) -> None:
            pass

    caplog.set_level(logging.DEBUG)
    message, _ = RetryRequest(destination="http://r/", delay=0).to_message(settings(), 0)
    batch = Batch({"http": Broken()}, settings(), keep_in([]), "w", SYSTEM_CLOCK, lambda ids, *, dead: None)
    (result,) = batch.deliver([Delivery(message=message, task_id="t")])

    assert "card * is refused" in result.text
    assert "unexpected error while delivering to http" in caplog.text
    assert "is tried again in" in caplog.text
    assert SECRET not in caplog.text + result.text


@pytest.mark.parametrize("hook", [masked, None])
def test_an_exception_that_ends_the_consumer_is_redacted_in_the_log(
    hook: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(record: object) -> None:
        raise SystemExit(f"card {SECRET} is refused")

    config = ConsumerConfig(group="g", topics="t", handler=handler, concurrency=1)
    offset_tracker, wake = OffsetTracker(), threading.Event()
    key_queues = KeyQueues(0, wake)
    task: Any = HandlerTask(Celery("shop", set_as_current=False), config)
    failure_handler = FailureHandler(config, settings(hook) if hook else Settings())
    writer: Any = None
    workers = Workers(config, task, failure_handler, offset_tracker, key_queues, writer, wake)
    key_queues.add(offset_tracker.admit(P, [(7, record(7))])[0])
    workers.start()
    wait_until(lambda: workers.fatal)
    key_queues.close()

    (line,) = caplog.records
    assert (line.levelname, line.event) == ("CRITICAL", "handler_exit")  # type: ignore[attr-defined]
    assert "Traceback" in caplog.text
    assert (SECRET in caplog.text) is (hook is None)


def test_the_example_on_the_page_does_what_the_page_says() -> None:
    app = Celery("shop", set_as_current=False)
    (snippet,) = [one for one in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "rebound_redact" in one]
    exec(compile(snippet, "docs/security.md", "exec"), {"app": app})
    request = RetryRequest(destination="kafka://t", error=failing(), headers=HEADERS, max_retries=0)
    message, _ = request.to_message(Settings.read(app.conf, {}), 0)
    assert message.failure is not None
    assert message.failure.message == "card **** is refused"
    assert [name for name, _ in message.headers] == ["card", "trace"]
