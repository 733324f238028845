"""Chains: messages of one group that are delivered or handled one after the other, in the order of their places.

A chain has a name and members. The member with the lowest place is the head; only the head is on its way. The messages
of the others stay in Redis, behind it. A chain without members does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from . import envelope
from .envelope import from_id, to_id
from .keys import QueueKeys
from .script_runner import MAX_SLEEP_MS, ROUNDS, Call, run_script
from .values import Entry

#: How many steps one script call takes.
_STEPS = 250

#: The states of a member that a listing shows. The script's own names are their first letters.
_STATES = {b"b": "behind", b"s": "sent", b"t": "taken", b"h": "held"}


class Do(StrEnum):
    """What a step does."""

    #: A message is here. It is taken by the caller if it is the head, and else kept behind the head.
    ARRIVE = "arrive"
    #: The message's attempt has failed. It waits in the schedule for its next one.
    WAIT = "wait"
    #: The message was handled, or has become a dead letter.
    FINISH = "finish"
    #: The caller still works at a message that it has taken.
    RENEW = "renew"
    #: The caller will not handle a message that it has taken. It is delivered at once.
    RETURN = "return"
    #: A delivered message has become a dead letter. Only its id counts.
    GONE = "gone"
    #: The chain goes on without its head.
    RELEASE = "release"
    #: All messages of the chain are delivered at once: at most 100 with one step. The chain ends with the last one.
    BREAK_UP = "break-up"


class Step(NamedTuple):
    """A change of a chain.

    Attributes:
        do: what it does.
        chain: the chain's name: text without control characters.
        place: the place of the message in the chain, from 0 to 2**96 - 1.
        attempt: the attempt of the message. A step that comes late, with a lower attempt, changes nothing.
        entry: the message, for ARRIVE and WAIT; for FINISH a dead letter to store in the same step, or None.
        hold: whether the chain stops when this message becomes a dead letter. For FINISH: whether it does so now.
        want: for FINISH: the caller takes up to so many messages that follow. With 0 the next one is delivered.
    """

    do: Do
    chain: str
    place: int
    attempt: int
    entry: Entry | None = None
    hold: bool = False
    want: int = 0


class Member(NamedTuple):
    """A message that the caller has taken from a chain, or that follows such a message."""

    id: str
    place: int
    attempt: int
    stored: bytes


class Answer(NamedTuple):
    """What a step did.

    Attributes:
        outcome: of ARRIVE "taken", "behind", or "dropped" (a copy of a message that is on its way); of WAIT "waits",
            "behind" or "dropped"; of RENEW "renewed" or "lost"; of others a word for the step.
        is_open: whether the chain has members. For RELEASE, how many it had; for BREAK_UP, how many were behind the
            head and are delivered now.
        taken: the messages that the caller has to handle now, in their order. The first one is taken; the others may
            be handled when those before them have ended.
    """

    outcome: str
    is_open: int
    taken: Sequence[Member]


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain, as a listing shows it.

    Attributes:
        name: its name.
        place: the place of its head.
        state: the state of its head: "sent" (it waits to be delivered, or was delivered), "taken" (a consumer handles
            it), or "held" (it is a dead letter, and the chain stops).
        behind: how many messages are behind the head.
    """

    name: str
    place: int
    state: str
    behind: int


def run_steps(
    client: Any,
    keys: QueueKeys,
    steps: Sequence[Step],
    token: str,
    hold_ms: int,
    piggybacked: Sequence[Sequence[Any]] = (),
) -> list[Answer]:
    """Run steps in their order; see `schedule.port.Schedule.chain`."""
    answers: list[Answer] = []
    for start in range(0, len(steps), _STEPS):
        answers += _run(client, keys, steps[start : start + _STEPS], token, hold_ms, piggybacked)
        piggybacked = ()
    return answers


def _run(
    client: Any,
    keys: QueueKeys,
    steps: Sequence[Step],
    token: str,
    hold_ms: int,
    piggybacked: Sequence[Sequence[Any]],
) -> list[Answer]:
    touched = [keys.messages, keys.leased, keys.leases, keys.limits, keys.next, keys.wake, keys.stats, *keys.of_chains]
    packed = [_packed(keys, step) for step in steps]
    references = list(dict.fromkeys(reference for reference, _ in packed if reference is not None))
    answers: list[Answer] = []
    rounds = 0
    while len(answers) < len(steps):
        arguments: list[Any] = [MAX_SLEEP_MS, token, hold_ms, len(references), *references]
        for _, step in packed[len(answers) :]:
            arguments += step
        call = Call([*touched, *keys.of_lanes(references)], arguments)
        _, ((needed, found),) = run_script(client, "chain", [call], piggybacked)
        piggybacked = ()
        answers += map(_answer, found)
        references = list(dict.fromkeys((*references, *map(from_id, needed))))
        # A step may need a lane. Each further round without an answer means that the lanes have changed meanwhile.
        rounds = 0 if found else rounds + 1
        if rounds > ROUNDS:
            raise TimeoutError(f"the lanes of the chain {steps[len(answers)].chain!r} change all the time")
    return answers


def _packed(keys: QueueKeys, step: Step) -> tuple[str | None, list[Any]]:
    """The lane reference of a step's message, and the step as the script takes it."""
    entry = step.entry
    place, hold = f"{step.place:024x}", 1 if step.hold else 0
    if entry is None:
        return None, [step.do, step.chain, place, step.attempt, hold, step.want, "", 0, ""]
    if not entry.stored:
        return None, [step.do, step.chain, place, step.attempt, hold, step.want, to_id(entry.id), entry.due_ms, ""]
    reference = f"{keys.rank_of(entry.priority)}{entry.lane}"
    message = envelope.head(reference) + entry.stored
    return reference, [
        step.do,
        step.chain,
        place,
        step.attempt,
        hold,
        step.want,
        to_id(entry.id),
        entry.due_ms,
        message,
    ]


def _answer(found: Sequence[Any]) -> Answer:
    outcome, is_open, *rest = found
    taken = [
        Member(from_id(id_), int(place, 16), int(attempt), stored)
        for id_, place, attempt, stored in zip(rest[::4], rest[1::4], rest[2::4], rest[3::4], strict=True)
    ]
    return Answer(outcome.decode(), int(is_open), taken)


def names(client: Any, keys: QueueKeys, prefix: str, after: str, count: int) -> list[str]:
    """The names of chains that begin with `prefix`, in their order, behind the name `after`."""
    _, (found,) = run_script(client, "chains", [Call([keys.chained], [prefix, after, count])])
    return [from_id(name) for name in found]


def listed(client: Any, keys: QueueKeys, found: Sequence[str]) -> Iterator[Chain]:
    """The chains with these names, as they are now. One that has ended meanwhile is left out."""
    with client.pipeline(transaction=False) as pipe:
        for name in found:
            pipe.zrangebylex(keys.chained, f"[{name}/", f"({name}0", 0, 1)
            pipe.zlexcount(keys.chained, f"[{name}/", f"({name}0")
        answers = pipe.execute()
        lowest, counts = answers[::2], answers[1::2]
        heads = [(name, first[0], count) for name, first, count in zip(found, lowest, counts, strict=True) if first]
        for _, member, _ in heads:
            pipe.hget(keys.chained_entries, member)
        entries = pipe.execute()
    for (name, member, count), entry in zip(heads, entries, strict=True):
        if entry is not None:
            # Not decoded: a stored form is no text.
            state = bytes(msgspec.msgpack.decode(entry, type=list[msgspec.Raw])[0])[-1:]
            yield Chain(name, int(member[-24:], 16), _STATES[state], count - 1)
