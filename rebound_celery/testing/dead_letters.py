"""The dead letters of the schedule in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

from ..clock import Clock
from ..schedule.port import DeadEntry, DeadPage, Entry, JobClaim, Position, Revival, Waiting
from .jobs import MemoryJobs


class MemoryDeadLetters(ABC):
    """Dead letters in memory, with the methods of `schedule.port.Schedule`.

    Args:
        clock: tells the time.
        stats: the counters of the schedule.
    """

    jobs: MemoryJobs

    def __init__(self, clock: Clock, stats: Counter[str]) -> None:
        self.__clock = clock
        self.__stats = stats
        self.__dead: dict[str, DeadEntry] = {}
        self.__taken: set[tuple[str, int]] = set()

    def count_dead(self) -> int:
        """How many there are."""
        return len(self.__dead)

    def keep_dead(self, letters: Sequence[DeadEntry]) -> None:
        for letter in letters:
            died_ms = self.__clock.now_ms() if letter.died_ms is None else letter.died_ms
            self.__dead[letter.id] = DeadEntry(letter.id, letter.reason, letter.stored, died_ms)

    def dead(self, after: Position | None = None, count: int = 100) -> DeadPage:
        letters = sorted(self.__dead.values(), key=lambda letter: (letter.died_ms or 0, letter.id))
        if after is not None:
            letters = [letter for letter in letters if (letter.died_ms or 0, letter.id) > (after.ms, after.id)]
        some = letters[:count]
        return DeadPage(some, Position(some[-1].died_ms or 0, some[-1].id) if len(letters) > count else None)

    def dead_letter(self, id: str) -> DeadEntry | None:  # noqa: A002 - as in the Protocol
        return self.__dead.get(id)

    def remove_dead(self, *ids: str) -> int:
        return sum(self.__dead.pop(id, None) is not None for id in ids)  # noqa: A001

    def expire_dead(self, age_ms: int, most: int = 1000) -> int:
        oldest_ms = self.__clock.now_ms() - age_ms
        old = sorted((letter.died_ms or 0, letter.id) for letter in self.__dead.values())
        return self.remove_dead(*(id_ for died_ms, id_ in old[:most] if died_ms <= oldest_ms))

    def revive(self, revivals: Sequence[Revival], *, again: bool = False, claim: JobClaim | None = None) -> list[bool]:
        if claim is not None:
            self.jobs.check(claim)
        answers = []
        for entry, dead_id, series, number, counter in revivals:
            is_new = self.get(entry.id) is None
            if is_new and dead_id is not None:
                is_new = self.__dead.pop(dead_id, None) is not None
            elif is_new:
                name = series if claim is None or not again else f"job:{claim.id}:{series}"
                is_new = (again and claim is None) or (name, number) not in self.__taken
                self.__taken |= {(series, number), (name, number)}
            answers.append(is_new)
            if is_new:
                self.enqueue([entry])
                self.__stats["revived"] += 1
                if claim is not None:
                    self.jobs.count(claim, counter)
        return answers

    @abstractmethod
    def get(self, id: str) -> Waiting | None:  # noqa: A002
        """The message with this id, of the schedule's other part."""

    @abstractmethod
    def enqueue(
        self, entries: Iterable[Entry], *, keep: bool = False, piggybacked: Sequence[Sequence[object]] = ()
    ) -> int:
        """Store messages, in the schedule's other part."""
