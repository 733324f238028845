"""What `Rebound` offers to callers, for code that has no Rebound at hand: Celery's current app has one.

In a thread without a current app, such as one of a web server, the only app with Rebound is meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack

from . import registry
from .policy import RetryPolicy
from .requests import Destination, RetryRequest, merged_value
from .values import Name

if TYPE_CHECKING:
    from celery.result import AsyncResult

    from .other_consumers import FailureOptions, Handled
    from .scheduled import Scheduled


def schedule_retry(
    destination: Destination,
    value: object = None,
    *,
    id: Name | None = None,  # noqa: A002 - the field's own word
    key: bytes | Name | None = None,
    headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
    max_retries: int | None = None,
    base_delay: float | None = None,
    policy: RetryPolicy | Mapping[str, Any] | None = None,
    destination_type: Literal["kafka", "http"] | None = None,
    dead_destination: Destination | None = None,
    source: object = None,
    client_id: Name | None = None,
    is_priority: bool = False,
    error: BaseException | str | None = None,
    attempt: int | None = None,
    delay: float | None = None,
    unique_key: Name | None = None,
    unique: Literal["replace", "keep", "extend"] = "replace",
    max_wait: float | None = None,
    message_data: object = None,
) -> AsyncResult:
    """`Rebound.schedule_retry` of Celery's current app; its arguments are described there.

    Raises:
        NotInstalledError: if the current app has no Rebound, or the thread has no current app and several have one.
    """
    return registry.find().schedule(
        RetryRequest(
            destination=destination,
            value=merged_value(value, message_data),
            id=id,
            key=key,
            headers=headers,
            max_retries=max_retries,
            base_delay=base_delay,
            policy=policy,
            destination_type=destination_type,
            dead_destination=dead_destination,
            source=source,
            client_id=client_id,
            is_priority=is_priority,
            error=error,
            attempt=attempt,
            delay=delay,
            unique_key=unique_key,
            unique=unique,
            max_wait=max_wait,
        )
    )


def schedule_retries(requests: Iterable[Mapping[str, Any] | RetryRequest]) -> Scheduled:
    """`Rebound.schedule_retries` of Celery's current app; see there.

    Raises:
        NotInstalledError: if the current app has no Rebound, or the thread has no current app and several have one.
    """
    return registry.find().schedule_retries(requests)


def handle_failure(
    record: object, error: BaseException | str, *, app: Any = None, **options: Unpack[FailureOptions]
) -> Handled:
    """`Rebound.handle_failure` of an app; it is described there.

    Args:
        record: the record that failed.
        error: why it failed.
        app: the Celery app; None means Celery's current app.
        **options: `group`, `policy`, `dead_letter_topic`, `retry_topic` and `brokers`; see FailureOptions.

    Raises:
        NotInstalledError: if the app has no Rebound.
    """
    return registry.find(app).handle_failure(record, error, **options)


async def handle_failure_async(
    record: object, error: BaseException | str, *, app: Any = None, **options: Unpack[FailureOptions]
) -> Handled:
    """`handle_failure` for asyncio: the event loop runs on while Redis stores the message."""
    return await registry.find(app).handle_failure_async(record, error, **options)
