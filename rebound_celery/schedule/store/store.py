"""The schedule of one queue in Redis. Each change is one script: a crash can neither lose nor double a message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any

from . import breakers, chains, dead, envelope, health, listing, measuring, settling, steering, uniqueness
from .chains import Answer, Chain, Step
from .claims import Claim, ClaimId, End
from .envelope import from_id, to_id
from .groups import Group, chosen, grouped
from .health import Health, HealthReport
from .jobs import JobClaim, StoredJobs
from .keys import QueueKeys
from .measuring import Measured
from .script_runner import CHUNK, MAX_SLEEP_MS, ROUNDS, Call, chunks, run_script
from .tallies import Tally
from .values import (
    Breaker,
    BreakerChange,
    BreakerRules,
    Counts,
    DeadEntry,
    DeadPage,
    Entry,
    Hold,
    Lane,
    LaneReport,
    Page,
    Position,
    Revival,
    Unique,
    UniqueEnd,
    Waiting,
)


class Store:
    """The schedule of one queue; `schedule.port.Schedule` says what its methods do.

    Args:
        client: a redis-py client that adds no prefix and decodes nothing.
        keys: the queue's keys.
    """

    def __init__(self, client: Any, keys: QueueKeys) -> None:
        self.keys = keys
        self._client = client
        common = [keys.messages, keys.leased, keys.leases]
        steered = [keys.limits, keys.next, keys.wake, keys.stats]
        self._enqueue_keys = [*common, *steered]
        self._claim_keys = [*common, keys.claims, keys.unconfirmed, *steered, keys.claimed, keys.breakers]
        self._claim_keys += map(keys.lanes, keys.ranks)

    def over(self, client: Any) -> Store:
        """The same schedule over another client."""
        other = copy(self)
        other._client = client  # noqa: SLF001 - of its own class
        return other

    @property
    def queue(self) -> str:
        return self.keys.queue

    # storing

    def enqueue(
        self,
        entries: Iterable[Entry],
        *,
        keep: bool = False,
        piggybacked: Sequence[Sequence[Any]] = (),
        hold: Hold | None = None,
        tally: Tally | None = None,
    ) -> int:
        how: tuple[Any, ...] = ("keep" if keep else "replace", "", "")
        if hold is not None:
            how = ("end" if hold.ends else "hold", hold.token, hold.now_ms)
        parts: list[list[Group]] = []

        def calls() -> Iterator[Call]:
            for chunk in chunks(entries):
                parts.append(grouped(self.keys, chunk, keep=keep))
                # Each is counted once, with the first of them.
                of_tally = tally.arguments if tally is not None and len(parts) == 1 else ()
                yield self._enqueue_call(parts[-1], [], how, of_tally)

        _, answers = run_script(self._client, "enqueue", calls(), piggybacked)
        added = 0
        for part, answer in zip(parts, answers, strict=True):
            added += answer[0]
            groups = part
            for _ in range(ROUNDS):
                _, needed, left = answer
                if not left:
                    break
                # These replace messages whose lanes were not given.
                groups = chosen(groups, left)
                _, (answer,) = run_script(self._client, "enqueue", [self._enqueue_call(groups, needed, how)])
                added += answer[0]
        return added

    def _enqueue_call(
        self, groups: Sequence[Group], more: Sequence[bytes], how: tuple[Any, ...], tally: Sequence[Any] = ()
    ) -> Call:
        # Two priorities can have the same rank.
        references = list(dict.fromkeys((*(group.reference for group in groups), *map(from_id, more))))
        arguments: list[Any] = [MAX_SLEEP_MS, *how, len(tally), *tally, len(references), *references]
        for group in groups:
            arguments += (references.index(group.reference) + 1, group.first_ms, len(group.arguments) // 3)
            arguments += group.arguments
        return Call([*self._enqueue_keys, *self.keys.of_lanes(references)], arguments)

    def enqueue_unique(self, entries: Sequence[tuple[Entry, Unique]]) -> list[UniqueEnd]:
        return uniqueness.enqueue_unique(self._client, self.keys, entries)

    def send_commands(self, commands: Sequence[Sequence[Any]]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            pipe.execute()

    # workers

    def claim(self, claim: ClaimId, limit: int, lease_ms: int, confirm_ms: int, lanes: Iterable[str] = ()) -> Claim:
        """Lease at most `limit` messages that are due; the worker then has to `confirm`.

        Args:
            claim: names the claim. Asked again with the same, for its answer was lost, it gives the same messages.
            limit: 0 claims nothing, and wakes another worker where something is due.
            lease_ms: how long a lease lasts, once the claim is confirmed.
            confirm_ms: within this time the claim has to be confirmed, or its messages wait again.
            lanes: references of the lanes that may be due. Those that are due and not among them are named in the
                answer.
        """
        references, ranks = list(lanes), self.keys.ranks
        arguments = [claim.worker, claim.number, min(limit, CHUNK), lease_ms, confirm_ms, len(ranks)]
        call = Call([*self._claim_keys, *map(self.keys.waiting, references)], [*arguments, *ranks, *references])
        _, ((wait_ms, unknown, ids, messages),) = run_script(self._client, "claim", [call])
        return Claim(
            list(map(envelope.claimed, ids, messages)),
            None if wait_ms < 0 else wait_ms,
            [from_id(reference) for reference in unknown],
        )

    def confirm(self, claim: ClaimId) -> bool:
        """Tell Redis that the answer to a claim has come; False if the claim is over, so that it leased nothing."""
        call = Call([self.keys.claims, self.keys.unconfirmed], [claim.worker, claim.number])
        return bool(run_script(self._client, "confirm", [call])[1][0])

    def settle(self, ends: Sequence[End]) -> int:
        """End leases; returns how many were not void."""
        return settling.settle(self._client, self.keys, ends)

    def renew(self, leases: Sequence[tuple[str, str]], lease_ms: int) -> int:
        """Let leases, each (id, token), last `lease_ms` from now; returns how many go on."""
        keys = [self.keys.leased, self.keys.leases]
        calls = (
            Call(keys, [lease_ms, *chain.from_iterable((to_id(id_), token) for id_, token in chunk)])
            for chunk in chunks(leases)
        )
        return sum(run_script(self._client, "renew", calls)[1])

    # steering

    def cancel(self, *ids: str, leased: bool = False) -> list[bytes]:
        return list(steering.cancel(self._client, self.keys, ids, leased=leased).values())

    def cancel_each(self, *ids: str) -> dict[str, bytes]:
        return steering.cancel(self._client, self.keys, ids, leased=False)

    def run_now(self, *ids: str) -> int:
        return steering.move(self._client, self.keys, "now", ids)

    def reschedule(self, due_ms: int, *ids: str) -> int:
        return steering.move(self._client, self.keys, due_ms, ids)

    def pause(self, lane: str, until_ms: int) -> None:
        steering.limit(self._client, self.keys, lane, "paused", until_ms)

    def resume(self, lane: str) -> None:
        steering.limit(self._client, self.keys, lane, "paused", 0)

    def set_rate(self, lane: str, per_second: float | None, *, configured: bool = False) -> None:
        steering.set_rate(self._client, self.keys, lane, per_second, "configured" if configured else "rate")

    def report(self, reports: Iterable[LaneReport], rules: BreakerRules) -> list[BreakerChange]:
        return breakers.report(self._client, self.keys, reports, rules)

    def open_breaker(self, lane: str, duration_ms: int | None, rules: BreakerRules) -> None:
        breakers.open_by_hand(self._client, self.keys, lane, duration_ms, rules)

    def close_breaker(self, lane: str, rules: BreakerRules) -> bool:
        return breakers.close_by_hand(self._client, self.keys, lane, rules)

    def close_unreported_breakers(self) -> list[str]:
        return breakers.close_unreported(self._client, self.keys)

    def breakers(self) -> list[Breaker]:
        return breakers.breakers(self._client, self.keys)

    def purge(self) -> int:
        return steering.purge(self._client, self.keys)

    # chains

    def chain(
        self, steps: Sequence[Step], token: str, hold_ms: int, *, piggybacked: Sequence[Sequence[Any]] = ()
    ) -> list[Answer]:
        return chains.run_steps(self._client, self.keys, steps, token, hold_ms, piggybacked)

    def chain_names(self, prefix: str, after: str = "", count: int = 500) -> list[str]:
        return chains.names(self._client, self.keys, prefix, after, count)

    def chains(self, prefix: str = "", after: str = "", count: int = 100) -> list[Chain]:
        return list(chains.listed(self._client, self.keys, self.chain_names(prefix, after, count)))

    # dead letters

    def keep_dead(self, letters: Sequence[DeadEntry]) -> None:
        dead.keep(self._client, self.keys, letters)

    def remove_dead(self, *ids: str) -> int:
        return dead.remove(self._client, self.keys, ids)

    def expire_dead(self, age_ms: int, most: int = 1000) -> int:
        return dead.expire(self._client, self.keys, age_ms, most)

    def revive(self, revivals: Sequence[Revival], *, again: bool = False, claim: JobClaim | None = None) -> list[bool]:
        return dead.revive(self._client, self.keys, revivals, again=again, claim=claim)

    @property
    def jobs(self) -> StoredJobs:
        return StoredJobs(self._client, self.keys)

    def dead(self, after: Position | None = None, count: int = 100) -> DeadPage:
        return listing.dead_page(self._client, self.keys, after, count)

    def dead_letter(self, id: str) -> DeadEntry | None:  # noqa: A002 - as in the port
        return dead.get(self._client, self.keys, id)

    # looking

    def get(self, id: str) -> Waiting | None:  # noqa: A002 - as in the port
        return listing.get(self._client, self.keys, id)

    def known(self, ids: Sequence[str]) -> list[str]:
        return listing.known(self._client, self.keys, ids)

    def answers(self, question: str) -> bool:
        """Whether nobody else has answered this question for the queue; then it is for the caller to do."""
        return bool(self._client.set(self.keys.answer(question), 1, nx=True, ex=60))

    def page(
        self, lane: str | None = None, after: Position | None = None, count: int = 100, *, leased: bool = False
    ) -> Page:
        return listing.page(self._client, self.keys, lane, after, count, leased=leased)

    def counts(self) -> Counts:
        return listing.counts(self._client, self.keys)

    def lanes(self) -> list[Lane]:
        return listing.lanes(self._client, self.keys)

    def report_health(self, reports: Sequence[HealthReport]) -> list[Health]:
        return health.report(self._client, self.keys, reports)

    def health(self, names: Sequence[str]) -> list[Health]:
        return health.read(self._client, self.keys, names)

    def unhealthy(self) -> Mapping[str, Health]:
        return health.read_all(self._client, self.keys)

    def clear_health(self, name: str) -> bool:
        return health.clear(self._client, self.keys, name)

    def overdue_ms(self) -> int:
        return listing.overdue_ms(self._client, self.keys)

    def unclaimed_ms(self) -> int:
        return listing.unclaimed_ms(self._client, self.keys)

    def count(self) -> int:
        """How many messages wait or are leased."""
        return int(self._client.hlen(self.keys.messages))

    def stats(self) -> Mapping[str, int]:
        return measuring.plain_counters(self._client.hgetall(self.keys.stats))

    def measure(self, late_ms: int) -> Measured:
        return measuring.measure(self._client, self.keys, late_ms)

    def server_info(self) -> dict[str, Any]:
        return dict(self._client.info())

    def ping(self) -> None:
        self._client.ping()
