"""The middleware for FastStream: which failures it takes, and what it leaves to FastStream."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faststream.exceptions import NackMessage, StopConsume

from rebound_celery import NotInstalledError, NotStoredError
from rebound_celery.other_consumers.faststream import Retries
from tests.unit.test_other_consumers import Rebound, aio


def ended(rebound: Rebound, message: Any, error: BaseException | None, **options: Any) -> bool | None:
    """What the middleware answers when the handling of a message has ended; True means that it took the error."""
    app = SimpleNamespace(main="shop", rebound=rebound)
    middleware = Retries(app, **options)(message, context=None)
    return asyncio.run(middleware.__aexit__(None if error is None else type(error), error, None))


def test_a_failed_record_is_stored_and_then_acknowledged() -> None:
    rebound = Rebound()

    assert ended(rebound, aio([]), ValueError("no price"), group="billing") is True

    ((message, _),) = rebound.stored
    assert (message.group, message.attempt) == ("billing", 2)


def test_the_records_of_a_batch_fail_together() -> None:
    rebound = Rebound()

    assert ended(rebound, (aio([], b"1"), aio([], b"2")), ValueError()) is True

    assert [message.value for message, _ in rebound.stored] == [b"1", b"2"]


@pytest.mark.parametrize("error", [None, NackMessage(), StopConsume(), SystemExit(), asyncio.CancelledError()])
def test_everything_else_is_left_to_faststream(error: BaseException | None) -> None:
    rebound = Rebound()

    assert not ended(rebound, aio([]), error)

    assert rebound.stored == []


def test_a_record_that_could_not_be_stored_is_not_acknowledged() -> None:
    rebound = Rebound()
    rebound.error = NotStoredError("Redis is away")

    with pytest.raises(NotStoredError):
        ended(rebound, aio([]), ValueError())
    with pytest.raises(NotInstalledError):
        asyncio.run(Retries(SimpleNamespace(main="plain"))(aio([]), context=None).__aexit__(None, ValueError(), None))


def test_an_option_that_does_not_exist_is_told_at_the_start() -> None:
    with pytest.raises(TypeError, match="handle_failure has no option 'max_retries'"):
        Retries(None, group="billing", max_retries=3)  # type: ignore[call-arg]
