"""The data of a finished run, as values. The checks in `checks` read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

Place = tuple[int, int]

#: The faults that are printed with the history of an id.
AROUND_BEFORE_NS, AROUND_AFTER_NS = 10 * 10**9, 30 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the handler. `end_ns` and `outcome` ("ok", "failed", "crash") are None if a kill ended it."""

    id: str
    attempt: int
    part: str
    pid: int
    partition: int
    offset: int
    ns: int
    end_ns: int | None = None
    outcome: str | None = None

    @property
    def place(self) -> Place:
        return self.partition, self.offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A record in a topic. `ms` is its timestamp."""

    id: str
    partition: int
    offset: int
    ms: int
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        return self.partition, self.offset

    @property
    def attempt(self) -> int:
        return int(self.headers.get("rebound-attempt", "1"))

    @property
    def is_original(self) -> bool:
        return "rebound-id" not in self.headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A post that reached the HTTP receiver. `taken` is True if it got the answer 200."""

    id: str
    attempt: int
    ns: int
    answer: str = "ok"
    taken: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Produced:
    """A confirmed message: by Kafka, or by Redis for a message over HTTP. For the latter, `ns` is before the call."""

    id: str
    ns: int
    http: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault that the driver made, or the end of a process that the driver did not cause ("exit")."""

    kind: str
    target: str
    start_ns: int
    end_ns: int
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pid(self) -> int | None:
        return self.details.get("pid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The group's committed offsets in an answer of Kafka, which came at `ns`."""

    ns: int
    offsets: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule. `ids` are the messages concerned."""

    kind: str
    text: str
    ids: tuple[str, ...] = ()


@dataclass(kw_only=True)
class History:
    """All data of one run, from Kafka, Redis, the receiver, and the journals."""

    produced: Mapping[str, Produced] = field(default_factory=dict)
    calls: Iterable[Call] = ()
    records: Iterable[Position] = ()
    letters: Iterable[Position] = ()
    posts: Iterable[Post] = ()
    #: Ids that still wait in Redis at the end, and those that Redis keeps as dead, with the reason.
    held: frozenset[str] = frozenset()
    kept_dead: Mapping[str, str] = field(default_factory=dict)
    commits: Iterable[Commit] = ()
    faults: Iterable[Fault] = ()
    #: Whether the consumers kept the order of each key while a record was tried again.
    in_order: bool = False

    @cached_property
    def calls_by_id(self) -> Mapping[str, list[Call]]:
        return _grouped(self.calls, lambda call: call.id)

    @cached_property
    def calls_by_place(self) -> Mapping[Place, list[Call]]:
        return _grouped(self.calls, lambda call: call.place)

    @cached_property
    def records_by_id(self) -> Mapping[str, list[Position]]:
        return _grouped(self.records, lambda record: record.id)

    @cached_property
    def letters_by_id(self) -> Mapping[str, list[Position]]:
        return _grouped(self.letters, lambda letter: letter.id)

    @cached_property
    def posts_by_id(self) -> Mapping[str, list[Post]]:
        return _grouped(self.posts, lambda post: post.id)

    def all_of(self, message_id: str) -> list[str]:
        """Return all events of one id in the order of time, with the faults around them."""
        told = sorted(self._own_story(message_id))
        if not told:
            return ["nothing is known of it"]
        first, last = told[0][0] - AROUND_BEFORE_NS, told[-1][0] + AROUND_AFTER_NS
        for fault in self.faults:
            if fault.start_ns <= last and fault.end_ns >= first:
                length = (fault.end_ns - fault.start_ns) / 1e9
                told.append((fault.start_ns, f"    fault {fault.kind} {fault.target} {length:.1f} s {fault.details}"))
        is_held, reason = message_id in self.held, self.kept_dead.get(message_id)
        told.append((last, f"at the end: held in Redis {is_held}; dead in Redis {reason}"))
        return [f"{ns / 1e9:.3f} {text}" for ns, text in sorted(told)]

    def _own_story(self, message_id: str) -> Iterator[tuple[int, str]]:
        if one := self.produced.get(message_id):
            yield one.ns, f"confirmed to the producer{' (over HTTP)' if one.http else ''}"
        for call in self.calls_by_id.get(message_id, ()):
            where = f"[{call.partition}]@{call.offset} attempt {call.attempt} in {call.part} ({call.pid})"
            yield call.ns, f"call of {where}"
            if call.end_ns is not None:
                yield call.end_ns, f"{call.outcome}: {where}"
        for record in self.letters_by_id.get(message_id, ()):
            yield record.ms * 1_000_000, f"dead letter {record}"
        for record in self.records_by_id.get(message_id, ()):
            yield record.ms * 1_000_000, f"record {record}"
            for commit in self.commits:
                if commit.offsets.get(record.partition, 0) > record.offset:
                    passed = f"[{record.partition}]@{record.offset}: {commit.offsets[record.partition]}"
                    yield commit.ns, f"seen to be committed past {passed}"
                    break
        for post in self.posts_by_id.get(message_id, ()):
            yield post.ns, f"post of attempt {post.attempt}: {post.answer}{', taken' if post.taken else ''}"


def _grouped(items: Iterable[Any], key: Any) -> Mapping[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups
