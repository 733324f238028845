"""Results of deliveries have what other tasks' results have, under every result setting of Celery's."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from rebound_celery import ErrorRule, Rebound, RetryPolicy
from rebound_celery.delivery import DeliverTask
from rebound_celery.delivery.result import End
from tests.unit.test_delivery_signals import Destinations, Publisher, received


def delivered(**settings: Any) -> Any:
    """The app's backend after three deliveries: a succeeds, b waits again, c is given up."""
    app = Celery("results", broker="redis://127.0.0.1:1", backend="cache+memory://", set_as_current=False)
    app.conf.update(settings)
    Rebound(app)
    task: Any = app.tasks[DeliverTask.name]
    task.destinations = Destinations()
    publisher = Publisher(task)
    task.publisher = lambda: publisher
    backend = task.backend
    for id_ in ("a:2", "b:2", "c:2"):
        backend.forget(id_)  # Celery's memory cache belongs to the process
    task.run_batch([received("a", b"ok"), received("b", b"fail"), received("c", b"fail", max_retries=1)], "w@host")
    return backend


def test_a_delivery_that_a_rule_drops_has_failed_with_its_reason() -> None:
    app = Celery("results", broker="redis://127.0.0.1:1", backend="cache+memory://", set_as_current=False)
    Rebound(app)
    task: Any = app.tasks[DeliverTask.name]
    task.destinations = Destinations()
    task.backend.forget("d:2")
    dropping = RetryPolicy(rules=[ErrorRule("rebound_celery.errors.AttemptFailedError", "drop")])

    (result,) = task.run_batch([received("d", b"fail", policy=dropping)], "w@host")

    assert result.end == End.DROPPED
    assert task.backend.get_state("d:2") == "FAILURE"
    error = task.backend.get_result("d:2")
    assert (type(error).__name__, str(error)) == ("DroppedError", result.text)
    assert result.text.startswith("dropped (rule): rebound_celery.errors.AttemptFailedError: ")


def states(backend: Any) -> list[str]:
    return [backend.get_state(id_) for id_ in ("a:2", "b:2", "c:2")]


def test_each_end_of_a_delivery_has_its_state() -> None:
    assert states(delivered()) == ["SUCCESS", "RETRY", "FAILURE"]


def test_extended_results_have_all_fields() -> None:
    meta = delivered(result_extended=True).get_task_meta("a:2")

    assert meta["result"] == "there"
    assert (meta["name"], meta["kwargs"], meta["worker"]) == ("rebound.deliver", {}, "w@host")
    assert (meta["queue"], meta["retries"]) == ("rebound", 0)
    assert "kafka:orders" in meta["args"][0]


def test_ignored_results_are_not_stored_and_errors_are_if_the_app_says_so() -> None:
    assert states(delivered(task_ignore_result=True)) == ["PENDING", "PENDING", "PENDING"]
    ignored = delivered(task_ignore_result=True, task_store_errors_even_if_ignored=True)
    assert states(ignored) == ["PENDING", "RETRY", "FAILURE"]


def test_the_start_is_stored_if_the_app_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    send = Destinations.send

    def look(self: Destinations, messages: Any) -> Any:
        if not begun:
            begun.extend(states(Celery("other", backend="cache+memory://", set_as_current=False).backend))
        return send(self, messages)

    monkeypatch.setattr(Destinations, "send", look)
    delivered(task_track_started=True)

    assert begun == ["STARTED", "STARTED", "STARTED"]
