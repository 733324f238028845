"""The scenes of who schedules, and of the consumer. See `scenes`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tests.acceptance.crash_points.case import DEADLINE_S, Case
from tests.scheduling import everything
from tests.topics import read_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.processes import Process

NOTHING: Mapping[str, Any] = MappingProxyType({})

#: With this interval, a consumer commits only at a rebalance and at its end.
NEVER = MappingProxyType({"commit_interval": 3600})


# Who schedules


def call(case: Case, count: int = 1) -> None:
    """Kill a process while it schedules. Another process makes the same call."""
    case.messages = count
    requests: list[dict[str, Any]] = [
        {"destination": case.receiver.url, "message_data": f"message-{number}", "is_priority": number % 2 == 1}
        for number in range(count)
    ]
    if case.step.variant != "without an id":
        for request in requests:
            request["id"] = request["message_data"]
    case.killed(case.caller(*requests, armed=True))
    early = case.step.variant == "delivered meanwhile"
    if early:
        case.worker()
        deliver_all(case)
        case.through()
    again = case.caller(*requests)
    assert again.wait(DEADLINE_S) == 0, again.tail()
    if not early:
        case.worker()
    deliver_all(case)
    case.through()


# The consumer


def consume(
    case: Case,
    *values: str,
    partitions: int = 1,
    of_killed: Mapping[str, Any] = NOTHING,
    meanwhile: Callable[[Process], Process | None] = lambda _killed: None,
    **config: Any,
) -> None:
    """Kill a consumer while it consumes records. `meanwhile` brings it to the step, and may start the next consumer.

    Only the killed consumer has the configuration `of_killed`.
    """
    case.make_topics(partitions)
    case.produce(*values)
    killed = case.consumer(armed=True, **{**config, **of_killed})
    successor = meanwhile(killed)
    case.killed(killed)
    early = case.step.variant == "delivered meanwhile"
    if early:
        case.worker()
        deliver_all(case)
        wait_until(lambda: delivered(case, len(values)), timeout=DEADLINE_S, interval=0.2, message=case.what_is_left)
    if successor is None:
        case.consumer(**config)
    wait_until(
        lambda: (case.committed() or 0) >= len(values), timeout=DEADLINE_S, interval=0.1, message=case.what_is_left
    )
    if case.store.count() and not early:
        case.worker()
    deliver_all(case)
    case.through()


def deliver_all(case: Case) -> None:
    """Make all waiting messages due, so that no test waits for a minute."""
    case.store.run_now(*(entry.id for entry in everything(case.store)))


def delivered(case: Case, originals: int) -> bool:
    """Return whether a message has come from Redis to Kafka, and no message waits in Redis."""
    records, letters = (len(read_topic(case.brokers, name, 0)) for name in (case.topic, case.dead_letter_topic))
    return records + letters > originals and not case.store.count()


def given_away(case: Case) -> None:
    """Start a second consumer, so that the first must give partitions away."""

    def join(killed: Process) -> Process:
        killed.wait_for_output("handled", timeout=DEADLINE_S, times=2)
        return case.consumer()

    consume(case, "fine-0", "fine-1", partitions=2, of_killed=NEVER, meanwhile=join)


def consumer_stop(case: Case) -> None:
    def stop(killed: Process) -> None:
        killed.wait_for_output("handled", timeout=DEADLINE_S)
        killed.signal(signal.SIGTERM)

    consume(case, "fine", of_killed=NEVER, meanwhile=stop)
