"""What deliveries add to the counters in Redis. It is made once for a job, and stored with what the job settles."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterable, Mapping
from typing import NamedTuple

from ..caching import cached
from ..counters import (
    BOUNDS_MS,
    DEAD_LETTERS,
    DELIVERIES,
    DELIVERY_TIME,
    DELIVERY_TIME_SUM,
    INFINITE,
    MAX_FIELDS,
    OTHER,
    RETRIES,
    field,
)
from ..destinations import Delivered, Failed, Held, Outcome, Rejected, Unavailable, Underway
from ..labels import LabelKey
from ..message import Message
from ..schedule.port import Tally
from .delivery import Delivery

_RESULTS = {Delivered: "delivered", Failed: "failed", Rejected: "rejected", Unavailable: "unavailable"}


class Sent(NamedTuple):
    """Messages that were sent together.

    Attributes:
        deliveries: by their numbers in the job.
        outcomes: what became of each, where it is known.
        time_ms: how long that took.
    """

    deliveries: Mapping[int, Delivery]
    outcomes: Mapping[int, Outcome | Underway]
    time_ms: int


#: What counts of a message that was sent: kind of destination, outcome, reason, attempt, topic, further labels, and how
#: long it took; None where an earlier job has sent it.
_Facts = tuple[str, type, str | None, int, str, tuple[tuple[str, str], ...], int | None]
#: Fields, each with the field instead.
_Fields = tuple[tuple[str, str], ...]


def tally_of(
    sent: Iterable[Sent], numbers: Container[int], keys: tuple[LabelKey, ...] = (), unreadable: int = 0
) -> Tally | None:
    """What messages add to the counters; None if nothing.

    Args:
        sent: what was sent. What a destination holds was not sent, and counts for nothing.
        numbers: the numbers of the deliveries that count.
        keys: the label keys of the app's setting.
        unreadable: how many messages became dead letters because they could not be read.
    """
    facts: dict[_Facts, int] = {}
    for deliveries, outcomes, time_ms in sent:
        for number, outcome in outcomes.items():
            kind = type(outcome)
            if number not in numbers or kind is Held or kind is Underway:
                continue
            delivery = deliveries[number]
            message = delivery.message
            reason, topic = message.reason, ""
            if reason is not None and message.origin is not None:
                topic = message.origin.topic
            labels = tuple([(key.label, key.value_of(message)) for key in keys]) if keys else ()
            took_ms = time_ms if delivery.ended is None else None
            one = message.target.kind, kind, reason, message.attempt, topic, labels, took_ms
            facts[one] = facts.get(one, 0) + 1
    return _sum(facts, unreadable)


def tally_of_dead(message: Message, keys: tuple[LabelKey, ...]) -> Tally:
    """What a dead letter adds to the counters that was written outside of a job."""
    topic = "" if message.origin is None else message.origin.topic
    name, instead = _dead_letter(
        message.reason or "", topic, tuple([(key.label, key.value_of(message)) for key in keys])
    )
    return Tally({name: (instead, 1)}, MAX_FIELDS)


def _sum(facts: Mapping[_Facts, int], unreadable: int) -> Tally | None:
    counts: dict[str, tuple[str, int]] = {}

    def add(name: str, instead: str, number: int) -> None:
        counts[name] = instead, number + counts.get(name, ("", 0))[1]

    for (kind, outcome, *others, took_ms), number in facts.items():
        for name, instead in _fields_of(kind, _RESULTS[outcome], *others):
            add(name, instead, number)
        if took_ms is not None:
            bucket, total = _time_fields(kind, bisect_left(BOUNDS_MS, took_ms))
            add(bucket, bucket, number)
            add(total, total, number * took_ms)
    if unreadable:
        add(*_dead_letter("unreadable", "", ()), unreadable)
    return Tally(counts, MAX_FIELDS) if counts else None


@cached
def _fields_of(
    kind: str, result: str, reason: str | None, attempt: int, topic: str, labels: tuple[tuple[str, str], ...]
) -> _Fields:
    more, others = dict(labels), dict.fromkeys(dict(labels), OTHER)
    bounded = {"destination": kind, "result": result, "message": "retry" if reason is None else "dead-letter"}
    fields = [(field(DELIVERIES, bounded | more), field(DELIVERIES, bounded | others))]
    if result != _RESULTS[Delivered]:
        return tuple(fields)
    if reason is None:
        attempts = {"attempt": str(attempt)}
        fields.append((field(RETRIES, attempts | more), field(RETRIES, {"attempt": OTHER} | others)))
    else:
        fields.append(_dead_letter(reason, topic, labels))
    return tuple(fields)


def _dead_letter(reason: str, topic: str, labels: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    found = {"reason": reason, "topic": topic, **dict(labels)}
    return field(DEAD_LETTERS, found), field(DEAD_LETTERS, dict.fromkeys(found, OTHER))


@cached
def _time_fields(kind: str, bucket: int) -> tuple[str, str]:
    bound = str(BOUNDS_MS[bucket]) if bucket < len(BOUNDS_MS) else INFINITE
    destination = {"destination": kind}
    return field(DELIVERY_TIME, destination | {"le": bound}), field(DELIVERY_TIME_SUM, destination)
