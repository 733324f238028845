"""A middleware for FastStream's Kafka brokers, over aiokafka and confluent-kafka: what fails is tried again later.

    from rebound_celery.other_consumers.faststream import Retries

    broker = KafkaBroker("localhost:9092", middlewares=[Retries(app, group="billing")])

Give the subscriber `ack_policy=AckPolicy.NACK_ON_ERROR`. By default FastStream commits a record before it is handled,
and then a crash, or a Redis that is away, loses it.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Any, Unpack

from faststream import BaseMiddleware
from faststream.exceptions import IgnoredException

from ..registry import find
from .handling import FailureOptions, check_names


class Retries:
    """Makes the middleware of each record; it goes into the broker's `middlewares`.

    A failed record, also one that FastStream cannot decode, is stored as a retry or as a dead letter, and is then
    acknowledged. FastStream's own exceptions, such as NackMessage, keep their meaning. The records of a batch fail
    together.

    Args:
        app: the Celery app; None means Celery's current app when a record fails.
        **options: `group`, `policy`, `dead_letter_topic`, `retry_topic` and `brokers`; see FailureOptions.
    """

    def __init__(self, app: Any = None, **options: Unpack[FailureOptions]) -> None:
        check_names(options)  # now, not when the first record fails
        self._make = partial(_Middleware, app, options)

    def __call__(self, msg: Any, /, *, context: Any) -> _Middleware:
        return self._make(msg, context=context)


class _Middleware(BaseMiddleware):
    def __init__(self, app: Any, options: FailureOptions, msg: Any, /, *, context: Any) -> None:
        super().__init__(msg, context=context)
        self._app = app
        self._options = options

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool | None:
        if not isinstance(exc_val, Exception) or isinstance(exc_val, IgnoredException):
            return False
        rebound = find(self._app)
        for record in self.msg if isinstance(self.msg, list | tuple) else (self.msg,):
            await rebound.handle_failure_async(record, exc_val, **self._options)
        # FastStream then acknowledges the record.
        return True
