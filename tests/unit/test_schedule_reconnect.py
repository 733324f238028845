"""Connections try Redis more often than kombu's own, and do not log more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils import functional

from rebound_celery.compat.kombu_reconnects import LOOK_S
from rebound_celery.schedule.worker.installation import install_schedule

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = "redis://127.0.0.1:1/0"


def stock(url: str) -> Connection:
    return Connection(url)


def ours(url: str) -> Connection:
    app = Celery(broker=url, set_as_current=False)
    install_schedule(app)
    return app.connection_for_read()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that kombu would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(functional, "sleep", slept.append)
    return slept


def give_up(make: Callable[[str], Connection], url: str, max_retries: int, **options: Any) -> list[float]:
    """The pauses that a caller is told of until no more is tried."""
    told: list[float] = []
    with make(url) as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _error, pause_s: told.append(pause_s), max_retries, **options)
    return told


@pytest.mark.parametrize("url", [NOBODY, f"{NOBODY};redis://127.0.0.1:2/0"], ids=["one server", "two servers"])
@pytest.mark.parametrize("max_retries", [0, 1, 2, 20, 40])
def test_the_caller_is_told_the_same_and_gives_up_after_the_same_time(url: str, max_retries: int, slept: list[float]):
    theirs = give_up(stock, url, max_retries)
    patience_s = sum(slept)
    slept.clear()

    assert give_up(ours, url, max_retries) == theirs
    assert sum(slept) == patience_s


def test_no_pause_between_looks_is_long(slept: list[float]):
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    with ours(NOBODY) as connection, pytest.raises(OperationalError):
        connection.ensure_connection(None, 10, callback=count)

    # kombu calls back once for a try, and once for each second of a pause.
    tries = calls - sum(slept)
    assert sum(slept) / (tries - 1) == LOOK_S


def test_who_says_how_long_to_pause_is_heard(slept: list[float]):
    own = {"interval_start": 7, "interval_step": 1, "interval_max": 9}

    assert give_up(ours, NOBODY, 3, **own) == give_up(stock, NOBODY, 3, **own) == [7, 8, 9]
