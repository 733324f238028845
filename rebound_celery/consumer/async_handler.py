"""Lets the handler threads call an `async def` handler: all its calls run on one event loop, in a thread of their own.

So what a handler keeps, such as an HTTP session or a database pool, belongs to one event loop. Each handler thread
waits for its call, so the order by key, `concurrency`, commits and stops are those of plain handlers.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from types import CoroutineType
from typing import Any, cast

from ..message import Record
from .config import ConsumerConfig

#: How long a stop waits for the event loop to close what the handler has left open, in seconds.
_CLOSE_S = 2.0


def is_async(handler: object) -> bool:
    """Return whether calling the handler returns a coroutine: it is an async function, or its `__call__` is one."""
    call = getattr(handler, "__call__", None)  # noqa: B004 # of the user: its __call__ may be async
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call)


@contextmanager
def callable_by_threads(config: ConsumerConfig, enter_thread: Callable[[], None]) -> Iterator[ConsumerConfig]:
    """Give a configuration whose handler is a plain function.

    Args:
        config: the consumer's configuration.
        enter_thread: is called first in the thread of the event loop.
    """
    handler: _PlainHandler | _AsyncHandler
    if is_async(config.handler):
        handler = _AsyncHandler(cast(Callable[[Record], Awaitable[object]], config.handler), enter_thread)
    else:
        handler = _PlainHandler(config.handler, enter_thread)
    try:
        yield replace(config, handler=handler)
    finally:
        handler.close()


class _PlainHandler:
    """Calls a handler that is no async function. If it returns a coroutine nevertheless, that is awaited.

    A lambda or a decorator around an async function looks like a plain function. Without this its coroutine would never
    run, and the record would count as handled.
    """

    def __init__(self, handler: Callable[[Record], object], enter_thread: Callable[[], None]) -> None:
        self._handler = handler
        self._enter_thread = enter_thread
        _take_name(self, handler)
        self._lock = threading.Lock()
        self._awaiting: _AsyncHandler | None = None

    def __call__(self, record: Record) -> object:
        value = self._handler(record)
        if type(value) is CoroutineType:
            return self._awaited(value)
        return value

    def _awaited(self, coroutine: Awaitable[object]) -> object:
        with self._lock:
            if self._awaiting is None:
                self._awaiting = _AsyncHandler(_itself, self._enter_thread)
        return self._awaiting(coroutine)

    def close(self) -> None:
        """End the event loop, if there is one."""
        if self._awaiting is not None:
            self._awaiting.close()


async def _itself(coroutine: Awaitable[object]) -> object:
    return await coroutine


def _take_name(wrapper: Any, handler: object) -> None:
    """Give a wrapper the name of its handler, because Celery's signals name it."""
    named: Any = handler if hasattr(handler, "__qualname__") else type(handler)  # any callable of the user
    wrapper.__module__, wrapper.__qualname__ = named.__module__, named.__qualname__


class _AsyncHandler:
    """A plain function for threads that awaits an async handler."""

    def __init__(self, handler: Callable[[Any], Awaitable[object]], enter_thread: Callable[[], None]) -> None:
        self._handler = handler
        self._enter_thread = enter_thread
        _take_name(self, handler)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rebound-async-handler", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def __call__(self, record: Any) -> object:
        done: Future[object] = Future()
        # With the caller's context variables: tracing sets them in receivers of task_prerun.
        self._loop.call_soon_threadsafe(self._begin, record, done, context=copy_context())
        return done.result()

    def close(self) -> None:
        """End the event loop once the calls that still run have ended. This does not wait for them."""
        self._loop.call_soon_threadsafe(self._closing.set)
        if not self._tasks:
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        self._enter_thread()
        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._is_ready.set()
        await self._closing.wait()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, record: Any, done: Future[object]) -> None:
        task = self._loop.create_task(self._call(record, done))
        # The loop itself keeps only weak references to its tasks.
        self._tasks.add(task)

    async def _call(self, record: Any, done: Future[object]) -> None:
        failure: BaseException | None = None
        value: object = None
        try:
            value = await self._handler(record)
        except asyncio.CancelledError as error:
            # Something that it awaited was cancelled. asyncio's own class would end the consumer.
            failure = CancelledError(*error.args or ("what the handler awaited was cancelled",))
            failure.__cause__ = error
        except BaseException as error:  # noqa: BLE001 - the handler's thread raises it
            failure = error
        # Before the answer: whoever gets it may close at once, and nothing runs any more then.
        self._tasks.discard(cast(asyncio.Task[None], asyncio.current_task()))
        if failure is None:
            done.set_result(value)
        else:
            done.set_exception(failure)
