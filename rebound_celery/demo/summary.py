"""The summary of a run: what became of every message, and whether the policy says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..message import headers
from .account import Account, DeadLetter
from .handler import Call, PaymentDeclinedError
from .plan import Plan

#: Milliseconds by which a retry may seem early, because two processes each cut the time to whole milliseconds.
CLOCK_GRAIN_MS = 2

_EXCEPTION = f"{PaymentDeclinedError.__module__}.{PaymentDeclinedError.__qualname__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One run in numbers. These are the fields of `--json`.

    Attributes:
        produced: messages that Kafka confirmed to the producer.
        consumed: calls of the handler.
        succeeded: messages whose handler returned.
        retried: failed calls that a retry followed.
        delivered: retries that reached the topic again.
        dead: messages in the dead letter topic.
        always_failing: produced messages that the plan lets fail every time.
        waiting: messages that are neither handled nor dead, and wait in Redis, or in Kafka for the consumer.
        lost: messages that are in neither place.
        duplicates: messages that were handled, or made a dead letter, more than once.
        duration_s: the seconds from the first message to the end of draining.
    """

    produced: int
    consumed: int
    succeeded: int
    retried: int
    delivered: int
    dead: int
    always_failing: int
    waiting: int
    lost: int
    duplicates: int
    duration_s: float


def summarize(
    account: Account, plan: Plan, produced: Collection[str], held: Collection[str], duration_s: float
) -> Summary:
    """Compare every produced id with the account; `held` are the ids that wait in Redis or for the consumer."""
    unfinished = account.unfinished(produced)
    return Summary(
        produced=len(produced),
        consumed=account.consumed,
        succeeded=len(account.handled.intersection(produced)),
        retried=account.retried,
        delivered=account.delivered,
        dead=len(account.dead.keys() & set(produced)),
        always_failing=sum(plan.always_fails(message_id) for message_id in produced),
        waiting=len(unfinished & set(held)),
        lost=len(unfinished - set(held)),
        duplicates=len(account.finished_twice()),
        duration_s=round(duration_s, 1),
    )


def faults(account: Account, plan: Plan, produced: Collection[str], held: Collection[str]) -> list[str]:
    """A line for each fault of the run. It is empty if the run was right as far as it went."""
    found = []
    if lost := account.unfinished(produced) - set(held):
        found.append(f"{len(lost)} messages are lost: {_some(lost)}")
        found += [_last_seen(message_id, account) for message_id in sorted(lost)[:5]]
    always = {message_id for message_id in produced if plan.always_fails(message_id)}
    if wrongly := account.dead.keys() - always:
        found.append(f"{len(wrongly)} dead letters are of messages that do not always fail: {_some(wrongly)}")
    if wrongly := always & account.handled:
        found.append(f"{len(wrongly)} messages that always fail were handled: {_some(wrongly)}")
    for letters in account.dead.values():
        for letter in letters:
            found += _dead_letter_faults(letter, plan)
    for message_id, calls in account.calls.items():
        found += _attempt_faults(message_id, list(calls.values()), account, plan)
    return found


def _last_seen(message_id: str, account: Account) -> str:
    """Where a lost message was last seen: its records in the topic, and the handler's calls."""
    places = ", ".join(f"[{partition}]@{offset}" for partition, offset in account.positions.get(message_id, ()))
    attempts = sorted(call.attempt for call in account.calls.get(message_id, {}).values())
    return f"{message_id} is in the topic at {places or 'no place'}; the handler had attempts {attempts or 'none'}"


def _dead_letter_faults(letter: DeadLetter, plan: Plan) -> list[str]:
    expected = {
        headers.ATTEMPT: str(1 + plan.max_retries),
        headers.REASON: "retries-exhausted",
        headers.EXCEPTION_CLASS: _EXCEPTION,
    }
    return [
        f"the dead letter {letter.id} has {name}={letter.headers.get(name)!r}, not {value!r}"
        for name, value in expected.items()
        if letter.headers.get(name) != value
    ]


def _attempt_faults(message_id: str, calls: list[Call], account: Account, plan: Plan) -> list[str]:
    """A line for each attempt that is missing, one too many, or too early."""
    found = []
    first_at: dict[int, int] = {}
    for call in calls:
        first_at[call.attempt] = min(call.at_ms, first_at.get(call.attempt, call.at_ms))
    if sorted(first_at) != list(range(1, len(first_at) + 1)):
        found.append(f"{message_id} was tried as attempts {sorted(first_at)}")
    if message_id in account.dead and len(first_at) != 1 + plan.max_retries:
        found.append(f"{message_id} is dead after {len(first_at)} attempts, not {1 + plan.max_retries}")
    if message_id in account.handled and len(first_at) != 1 + plan.failures(message_id):
        found.append(f"{message_id} was handled at attempt {len(first_at)}, not {1 + plan.failures(message_id)}")
    for attempt, at_ms in first_at.items():
        if attempt + 1 not in first_at:
            continue
        waited_ms, due_ms = first_at[attempt + 1] - at_ms, 1000 * account.policy.delay_s(attempt)
        if waited_ms < due_ms - CLOCK_GRAIN_MS:
            found.append(f"{message_id}: attempt {attempt + 1} came after {waited_ms} ms, not {due_ms:.0f} ms")
    return found


def _some(ids: Collection[str]) -> str:
    names = sorted(ids)
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
