from __future__ import annotations

import json

import pytest

from rebound_celery.demo.handler import Call, Handler, PaymentDeclinedError
from rebound_celery.demo.names import Names
from rebound_celery.demo.plan import Plan
from rebound_celery.message import Origin, Record


class Confirmed:
    def get(self, timeout: float) -> None: ...


class Notebook:
    """Stands for the producer: keeps what is sent, and refuses the first `refusals` records."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.values: list[bytes] = []

    def send(self, topic: str, value: bytes) -> Confirmed:
        self.values.append(value)
        if len(self.values) <= self.refusals:
            raise OSError("Kafka is away")
        return Confirmed()


def record(attempt: int = 1) -> Record:
    return Record(
        topic="t",
        partition=0,
        offset=1,
        timestamp=0,
        key=None,
        value=json.dumps({"id": "order-1"}).encode(),
        headers=(),
        attempt=attempt,
        id="some-uuid",
        origin=Origin("t", 0, 1, 0),
    )


def test_the_handler_writes_down_each_call_and_fails_as_the_plan_says() -> None:
    notebook = Notebook()
    handler = Handler(Plan(failure_rate=0, always_fail_rate=1, max_retries=2), notebook, "results")

    for attempt in (1, 2):
        with pytest.raises(PaymentDeclinedError, match=f"order-1.*attempt {attempt}"):
            handler(record(attempt))

    calls = [Call.from_json(value) for value in notebook.values]
    assert [(call.id, call.attempt, call.failed) for call in calls] == [("order-1", 1, True), ("order-1", 2, True)]
    assert calls[0].call != calls[1].call


def test_a_call_that_cannot_be_written_down_is_no_failure_and_stays_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebound_celery.demo.handler.RETRY_S", 0.0)
    notebook = Notebook(refusals=2)

    Handler(Plan(failure_rate=0, always_fail_rate=0, max_retries=2), notebook, "results")(record())

    assert len(notebook.values) == 3
    assert len({Call.from_json(value).call for value in notebook.values}) == 1


def test_names_on_shared_servers_belong_to_one_run_alone() -> None:
    own, shared = (Names.for_run("1a2b", own_kafka=own, own_redis=own) for own in (True, False))

    assert (own.topic, own.queue) == ("orders", "rebound")
    assert all("1a2b" in name for name in (*shared.topics, shared.queue, shared.group))
    assert len(own.topics) == 3
