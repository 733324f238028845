"""Async handlers: the handler threads call them as plain functions, and all calls run on one event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from rebound_celery import ConsumerConfig, Record
from rebound_celery.consumer.async_handler import callable_by_threads
from rebound_celery.consumer.handler_task import HandlerTask
from tests.unit.test_consumer_offset_tracker import record
from tests.waiting import wait_until


@contextmanager
def calling(handler: Any, enter_thread: Callable[[], None] = lambda: None) -> Iterator[Callable[[Record], object]]:
    with callable_by_threads(ConsumerConfig(group="g", topics="t", handler=handler), enter_thread) as config:
        yield config.handler


def loop_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "rebound-async-handler"]


class Sessions:
    """A handler object whose calls need one event loop, as an HTTP session does."""

    def __init__(self) -> None:
        self.loops: set[Any] = set()
        self.now = self.most = 0

    async def __call__(self, record: Record) -> int:
        self.loops.add(asyncio.get_running_loop())
        self.now += 1
        self.most = max(self.most, self.now)
        while self.most < 5:
            await asyncio.sleep(0)
        self.now -= 1
        return record.offset


async def fail(record: Record, error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


def test_a_plain_handler_needs_no_event_loop() -> None:
    with calling(lambda record: record.offset) as call:
        assert call(record(3)) == 3
        assert not loop_threads()


async def offset_of(record: Record) -> int:
    await asyncio.sleep(0)
    return record.offset


def logged(handler: Callable[[Record], Any]) -> Callable[[Record], Any]:
    """A decorator as users write it: it does not know that the handler is an async function."""

    def call(record: Record) -> Any:
        return handler(record)

    return call


@pytest.mark.parametrize("handler", [lambda record: offset_of(record), logged(offset_of)])
def test_a_coroutine_that_a_plain_function_returns_is_awaited(handler: Callable[[Record], Any]) -> None:
    with calling(handler) as call, ThreadPoolExecutor(5) as pool:
        assert list(pool.map(call, map(record, range(5)))) == [0, 1, 2, 3, 4]
        assert len(loop_threads()) == 1

    assert not loop_threads()


def test_a_coroutine_that_a_plain_function_returns_fails_as_the_handler_does() -> None:
    with calling(lambda record: fail(record, ValueError("no price"))) as call, pytest.raises(ValueError, match="no pr"):
        call(record(1))


def test_calls_of_many_threads_run_at_once_on_one_loop() -> None:
    sessions = Sessions()

    with calling(sessions) as call, ThreadPoolExecutor(5) as pool:
        assert list(pool.map(call, map(record, range(5)))) == [0, 1, 2, 3, 4]

    assert len(sessions.loops) == 1
    assert sessions.most == 5
    assert not loop_threads()


@pytest.mark.parametrize("error", [ValueError("no price"), SystemExit(3), KeyboardInterrupt()])
def test_what_it_raises_reaches_the_thread(error: BaseException) -> None:
    """SystemExit ends the consumer, not the event loop."""
    with calling(partial(fail, error=error)) as call:
        for _ in range(2):
            with pytest.raises(type(error)) as raised:
                call(record(0))
            assert raised.value is error


def test_a_cancelled_await_is_a_failed_attempt() -> None:
    async def handle(_record: Record) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    with calling(handle) as call, pytest.raises(concurrent.futures.CancelledError) as raised:
        call(record(0))

    assert isinstance(raised.value, Exception), "it does not end the consumer"


def test_context_variables_and_the_current_app_are_there() -> None:
    trace: contextvars.ContextVar[str] = contextvars.ContextVar("trace", default="none")
    entered: list[str] = []

    async def handle(_record: Record) -> str:
        return trace.get()

    with calling(handle, lambda: entered.append(threading.current_thread().name)) as call:
        trace.set("a span")
        assert call(record(0)) == "a span"

    assert entered == ["rebound-async-handler"]


def test_the_signals_name_the_async_function() -> None:
    with calling(fail_always) as call:
        task = HandlerTask(None, ConsumerConfig(group="g", topics="t", handler=call))  # type: ignore[arg-type]

        assert task._name == f"{__name__}.fail_always"


async def fail_always(_record: Record) -> None:
    raise ValueError


def test_a_stop_leaves_a_call_that_hangs_to_its_end() -> None:
    """As with a plain handler: the stop does not wait, and the call is not interrupted."""
    go = threading.Event()
    ended: list[str] = []

    async def handle(_record: Record) -> None:
        await asyncio.to_thread(go.wait)
        ended.append("itself")

    with calling(handle) as call:
        thread = threading.Thread(target=call, args=(record(0),))
        thread.start()
        wait_until(lambda: call._tasks)  # type: ignore[attr-defined]

    assert thread.is_alive()
    go.set()
    thread.join(10)
    wait_until(lambda: not loop_threads())
    assert ended == ["itself"]


def test_what_a_handler_left_running_ends_with_the_loop() -> None:
    cancelled: list[str] = []
    background: set[Awaitable[None]] = set()

    async def forever() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append("the task in the background")
            raise

    async def handle(_record: Record) -> None:
        background.add(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    with calling(handle) as call:
        call(record(0))

    assert cancelled == ["the task in the background"]
    assert not loop_threads()
