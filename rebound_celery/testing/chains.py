"""The chains of the schedule in memory. `schedule/store/scripts/chained.lua` says what each step does, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..clock import Clock
from ..schedule.port import Answer, Chain, Do, Entry, Member, Step, Waiting

#: How many members of a chain one step delivers when it breaks the chain up.
_BROKEN_UP_AT_ONCE = 100

#: More bytes than this are not handed out in one answer, apart from the first message.
_TAKEN_BYTES = 1_000_000


@dataclass(slots=True)
class _Link:
    """A member of a chain.

    Attributes:
        state: "behind" (its message is here), "sent" (it is in the schedule, or has left it), "taken" (a reader handles
            it until `at_ms`), or "held" (it is a dead letter, and the chain waits until somebody releases it).
        hold: whether the chain is held when this member becomes a dead letter.
        at_ms: of a member behind, when it may be delivered at the earliest.
        token: the reader that has taken it.
        entry: of a member behind, its message.
    """

    state: Literal["behind", "sent", "taken", "held"]
    id: str
    attempt: int
    hold: bool
    at_ms: int = 0
    token: str = ""
    entry: Entry | None = None


class MemoryChains:
    """Chains in memory.

    Args:
        get: returns the message that the schedule has under an id.
        store: stores messages in the schedule; an id that is stored already is replaced.
        remove: removes a message from the schedule, waiting or leased, if it is there.
        clock: tells the time.
    """

    def __init__(
        self,
        get: Callable[[str], Waiting | None],
        store: Callable[[Iterable[Entry]], object],
        remove: Callable[[str], object],
        clock: Clock,
    ) -> None:
        self._get = get
        self._store = store
        self._remove = remove
        self._clock = clock
        #: Chain -> its members by their places.
        self._chains: dict[str, dict[int, _Link]] = {}

    def run(self, steps: Sequence[Step], token: str, hold_ms: int) -> list[Answer]:
        """See `schedule.port.Schedule.chain`."""
        until_ms = self._clock.now_ms() + hold_ms
        given: set[tuple[str, int]] = set()
        return [self._step(step, token, until_ms, given) for step in steps]

    def names(self, prefix: str, after: str, count: int) -> list[str]:
        """See `schedule.port.Schedule.chain_names`."""
        # By name and place, as in Redis: what follows a name there is a slash, and "0" is the character after it.
        found = sorted(f"{name}/".encode() for name in self._chains if name.startswith(prefix))
        behind = f"{after}0".encode() if after else b""
        return [name[:-1].decode() for name in found if name > behind][:count]

    def listed(self, prefix: str, after: str, count: int) -> list[Chain]:
        """See `schedule.port.Schedule.chains`."""
        chains = []
        for name in self.names(prefix, after, count):
            members = self._chains[name]
            head = min(members)
            chains.append(Chain(name, head, members[head].state, len(members) - 1))
        return chains

    def count_behind(self) -> int:
        """Return how many messages are behind heads, and so not in the schedule."""
        return sum(link.state == "behind" for members in self._chains.values() for link in members.values())

    def left(self, id: str, *, is_dead: bool) -> None:  # noqa: A002 - the schedule's own word
        """Let the chain of a message go on, or hold it: the message was removed, or is a dead letter."""
        name, place, link = self._member_with(id)
        if link is None or link.state == "held":
            return
        if is_dead and link.hold:
            self._save(name, place, _Link("held", id, link.attempt, hold=True))
            return
        following = self._next_of(name, place)
        self._forget(name, place)
        self._advance(name, following, 0, 0, "")

    def clear(self) -> None:
        """Forget all chains."""
        self._chains.clear()

    # The steps

    def _step(self, step: Step, token: str, until_ms: int, given: set[tuple[str, int]]) -> Answer:
        match step.do:
            case Do.ARRIVE:
                # A copy in the same call is a copy, and not a repeated call.
                is_copy = (step.chain, step.place) in given
                outcome = "dropped" if is_copy else self._arrive(step, _entry_of(step), token, until_ms)
                if outcome == "taken":
                    given.add((step.chain, step.place))
                return Answer(outcome, 1, [])
            case Do.WAIT:
                return Answer(self._wait(step, _entry_of(step)), 1, [])
            case Do.FINISH:
                return Answer("finished", *self._finish(step, token, until_ms))
            case Do.RENEW | Do.RETURN:
                end_ms = until_ms if step.do == Do.RENEW else self._clock.now_ms()
                return Answer("renewed" if self._renew(step, end_ms) else "lost", 1, [])
            case Do.GONE:
                self.left(_entry_of(step).id, is_dead=step.hold)
                return Answer("gone", 0, [])
            case Do.RELEASE:
                return Answer("released", self._release(step.chain), [])
            case Do.BREAK_UP:
                return Answer("broken-up", self._break_up(step.chain), [])

    def _arrive(self, step: Step, entry: Entry, token: str, until_ms: int) -> str:
        link = self._link(step)
        if link is not None:
            if link.attempt > step.attempt or link.state == "held":
                return "dropped"
            is_anothers = link.state == "taken" and link.at_ms > self._clock.now_ms() and link.token != token
            if is_anothers and link.attempt == step.attempt:
                # It was delivered before its reader's time was over. If the reader is lost, it is delivered again.
                if self._get(link.id) is None:
                    self._store([Entry(link.id, link.at_ms, entry.stored, entry.lane, entry.priority)])
                return "dropped"
            if link.id != entry.id and link.state != "behind":
                self._remove(link.id)
        if self._is_behind_another(step):
            self._put_behind(step, entry, link)
            return "behind"
        self._store([_due(entry, until_ms)])
        self._save(step.chain, step.place, _Link("taken", entry.id, step.attempt, step.hold, until_ms, token))
        return "taken"

    def _wait(self, step: Step, entry: Entry) -> str:
        link = self._link(step)
        if link is not None:
            if link.attempt >= step.attempt or link.state == "held":
                return "dropped"
            if link.id != entry.id and link.state != "behind":
                self._remove(link.id)
        if self._is_behind_another(step):
            self._put_behind(step, entry, link)
            return "behind"
        self._store([entry])
        self._save(step.chain, step.place, _Link("sent", entry.id, step.attempt, step.hold))
        return "waits"

    def _finish(self, step: Step, token: str, until_ms: int) -> tuple[int, list[Member]]:
        link = self._link(step)
        is_ended = link is not None and link.attempt <= step.attempt and link.state != "held"
        following = self._next_of(step.chain, step.place if is_ended else None)
        if step.entry is not None and step.entry.stored:
            self._store([step.entry])
        if link is not None and is_ended:
            if link.state != "behind":
                self._remove(link.id)
            self._forget(step.chain, step.place)
        if step.hold and (is_ended or link is None):
            id_ = link.id if link is not None else "" if step.entry is None else step.entry.id
            self._save(step.chain, step.place, _Link("held", id_, step.attempt, hold=True))
            # It is the head, unless a lower one has come back meanwhile.
            if following is None or step.place < following:
                return 1, []
        return self._advance(step.chain, following, step.want, until_ms, token)

    def _renew(self, step: Step, until_ms: int) -> bool:
        link = self._link(step)
        if link is None or link.state != "taken" or link.attempt != step.attempt:
            return False
        message = self._get(link.id)
        if message is None:
            return False
        self._store([Entry(message.id, until_ms, message.stored, message.lane, message.priority)])
        link.at_ms = until_ms
        return True

    def _release(self, name: str) -> int:
        members = self._chains.get(name)
        if members is None:
            return 0
        count, head = len(members), min(members)
        # A head that is behind nothing is not on its way: it is what goes on.
        is_on_its_way = members[head].state != "behind"
        following = self._next_of(name, head if is_on_its_way else None)
        if is_on_its_way:
            self._forget(name, head)
        self._advance(name, following, 0, 0, "")
        return count

    def _break_up(self, name: str) -> int:
        count = 0
        for place in sorted(self._chains.get(name, ()))[:_BROKEN_UP_AT_ONCE]:
            link = self._chains[name][place]
            if link.entry is not None:
                self._store([_due(link.entry, max(self._clock.now_ms(), link.at_ms))])
                count += 1
            self._forget(name, place)
        return count

    # What the steps share

    def _advance(self, name: str, first: int | None, want: int, until_ms: int, token: str) -> tuple[int, list[Member]]:
        """Let the next member go on: the reader gets it, and those behind it, where he wants some; or it is delivered.

        Returns:
            whether the chain has members, and what the reader gets.
        """
        if first is None:
            return 0, []
        now_ms = self._clock.now_ms()
        link = self._chains[name][first]
        is_mine = link.state == "taken" and link.token == token and want > 0
        if link.state != "behind" and not is_mine:
            return 1, []
        if link.entry is not None and not is_mine:
            entry = link.entry
            if want == 0 or link.at_ms > now_ms:
                self._store([_due(entry, max(now_ms, link.at_ms))])
                self._save(name, first, _Link("sent", link.id, link.attempt, link.hold))
                return 1, []
            self._store([_due(entry, until_ms)])
            self._save(name, first, _Link("taken", link.id, link.attempt, link.hold, until_ms, token))
        message = self._get(link.id)
        if message is None:
            return 1, []
        taken, size = [Member(link.id, first, link.attempt, message.stored)], len(message.stored)
        for place in sorted(place for place in self._chains[name] if place > first)[: want - 1]:
            link = self._chains[name][place]
            if link.entry is None or link.at_ms > now_ms:
                break
            size += len(link.entry.stored)
            if size > _TAKEN_BYTES:
                break
            taken.append(Member(link.id, place, link.attempt, link.entry.stored))
        return 1, taken

    def _put_behind(self, step: Step, entry: Entry, link: _Link | None) -> None:
        if link is not None and link.id == entry.id and link.state != "behind":
            self._remove(entry.id)
        behind = _Link("behind", entry.id, step.attempt, step.hold, entry.due_ms, "", entry)
        self._save(step.chain, step.place, behind)

    def _is_behind_another(self, step: Step) -> bool:
        return min(self._chains.get(step.chain, ()), default=step.place) < step.place

    def _next_of(self, name: str, leaving: int | None) -> int | None:
        """Return the place of the member that is the head when the one at `leaving` has left; None if there is none."""
        return min((place for place in self._chains.get(name, ()) if place != leaving), default=None)

    def _link(self, step: Step) -> _Link | None:
        return self._chains.get(step.chain, {}).get(step.place)

    def _member_with(self, id: str) -> tuple[str, int, _Link | None]:  # noqa: A002
        """Return the member whose message left for the schedule under this id."""
        for name, members in self._chains.items():
            for place, link in members.items():
                if link.id == id and link.state != "behind":
                    return name, place, link
        return "", 0, None

    def _save(self, name: str, place: int, link: _Link) -> None:
        self._chains.setdefault(name, {})[place] = link

    def _forget(self, name: str, place: int) -> None:
        members = self._chains[name]
        del members[place]
        if not members:
            # A chain without members does not exist.
            del self._chains[name]


def _entry_of(step: Step) -> Entry:
    assert step.entry is not None, f"the step {step.do} has a message"
    return step.entry


def _due(entry: Entry, due_ms: int) -> Entry:
    return Entry(entry.id, due_ms, entry.stored, entry.lane, entry.priority)
