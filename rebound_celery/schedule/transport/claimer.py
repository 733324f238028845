"""Claims due messages for a worker that has room for them, and delivers them under a lease."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...clock import SYSTEM_CLOCK, Clock
from ...stopping import is_stopping
from ..store.claims import DONE, LOST, RELEASE
from ..store.listing import next_claims_in
from ..store.script_runner import MAX_SLEEP_MS
from ..store.store import Store
from ..store.values import Claimed
from .claimed import FAULTS, ClaimedMessages
from .credit import Credit
from .installed import Installation
from .leases import Leases

#: Seconds between looks while messages are due and the worker has no room for them.
_NO_ROOM_S = 0.01
#: Seconds between claims that claim nothing, for the worker has no room, and wake another one.
_HAND_ON_S = 0.5
#: Seconds between looks whether leases can be renewed.
_UNRENEWED_S = 0.1
#: Seconds between claims while Redis is away, growing to the second figure.
_AWAY_S = (0.5, 2.0)

#: Seconds without a claim until a queue is claimed from although Redis has no time of its next message: that key may be
#: lost alone, where Redis evicts keys. A claim writes it again.
_UNTIMED_S = 30.0

#: How many messages are claimed at a time. Where few are due, other workers get some of them too.
_CLAIM = 250

#: Milliseconds within which a claim has to be confirmed. A claim that nobody hears of keeps messages no longer.
_CONFIRM_MS = 5_000
#: How many lanes a claim names at most, and how many claims follow each other for lanes that were not named.
_LANES = 48
_ROUNDS = 4

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Queue:
    """What is known of a queue.

    Attributes:
        store: its schedule.
        claim_at: when to look at it again, by the monotonic clock.
        is_due: whether something is due then; else Redis is asked whether anything is.
        answered_at: when Redis last gave what is due, or told that nothing is.
        claimed_at: when it was last claimed from.
        handed_on_at: when another worker was last woken, for this one had no room.
        lanes: references of lanes that were due lately.
    """

    store: Store
    claim_at: float = 0.0
    is_due: bool = True
    answered_at: float = 0.0
    claimed_at: float = 0.0
    handed_on_at: float = 0.0
    lanes: list[str] = field(default_factory=list)


class Claimer:
    """Claims for the queues that one channel consumes.

    Args:
        channel: the channel.
        leases: this process's leases.
        installation: what the app has chosen.
    """

    def __init__(
        self, channel: Any, leases: Leases, installation: Installation, *, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._channel = channel
        self._leases = leases
        self._credit = Credit(channel, leases, clock=clock)
        self._opened = ClaimedMessages(channel, leases, installation, clock=clock)
        self._clock = clock
        self._queues: dict[str, _Queue] = {}
        self._faults = 0

    def claim_due(self) -> int:
        """Claim what is due and there is room for, and deliver it; returns how many messages were delivered."""
        now = self._clock.monotonic()
        queues = {name: self._queue(name) for name in self._channel.claimed_queues}
        if any(not queue.is_due and now >= queue.claim_at for queue in queues.values()):
            try:
                self._look(list(queues.values()))
            except Exception as error:  # noqa: BLE001 - told below; raised, it would end the worker
                self._wait_for_redis(queues.values(), error)
                return 0
        delivered = 0
        for name, queue in queues.items():
            if queue.is_due and now >= queue.claim_at:
                try:
                    delivered += self._claim_and_deliver(name, queue)
                except Exception as error:  # noqa: BLE001 - as above
                    self._wait_for_redis([queue], error)
        return delivered

    def next_claim_in(self) -> float:
        """Seconds until `claim_due` has something to do, at most the longest sleep."""
        names = self._channel.claimed_queues
        if not names:
            return MAX_SLEEP_MS / 1000
        return max(0.0, min(self._queue(name).claim_at for name in names) - self._clock.monotonic())

    def _queue(self, name: str) -> _Queue:
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = _Queue(self._leases.store_of(self._channel.keys_of(name)))
        return queue

    def _look(self, queues: list[_Queue]) -> None:
        """Ask Redis when something is due in any of these queues."""
        waits = next_claims_in(self._leases.client, [queue.store.keys for queue in queues])
        for queue, wait_ms in zip(queues, waits, strict=True):
            self._set_next(queue, wait_ms)
            now = self._clock.monotonic()
            if wait_ms is None or wait_ms > 0:
                queue.answered_at = now
            if wait_ms is None and now - queue.claimed_at >= _UNTIMED_S:
                queue.is_due, queue.claim_at = True, now
        self._faults = 0

    def _set_next(self, queue: _Queue, wait_ms: int | None) -> None:
        now = self._clock.monotonic()
        queue.is_due = wait_ms is not None and wait_ms < self._longest_sleep_ms
        sleep_ms = max(0, wait_ms) if queue.is_due and wait_ms is not None else self._longest_sleep_ms
        queue.claim_at = now + sleep_ms / 1000

    @property
    def _longest_sleep_ms(self) -> int:
        # Another worker's lease that begins now must be known before it could end.
        return min(MAX_SLEEP_MS, max(200, self._leases.lease_ms // 2))

    def _claim_and_deliver(self, name: str, queue: _Queue) -> int:
        callback = self._channel.connection._callbacks.get(name)  # noqa: SLF001 - of kombu
        room = 0 if callback is None else min(self._credit.room(name), _CLAIM)
        if room <= 0:
            self._hand_on(queue)
            self._credit.waits(name)
            return 0
        delivered = 0
        claimed = self.claim(name, room)
        self._credit.took(name, len(claimed), is_more_due=queue.is_due and queue.claim_at <= self._clock.monotonic())
        messages = iter(claimed)
        try:
            # Where tasks run in the loop's own thread (solo; gevent and eventlet with a full pool), handing a message
            # over takes as long as its task. Celery looks only afterwards whether the worker was told to stop.
            while not is_stopping() and (message := next(messages, None)) is not None:
                self._hand_over(message, callback)
                delivered += 1
        finally:
            # After an error (a lost connection) or a stop, what was not handed over is given back.
            for message in messages:
                self._leases.end(message["properties"]["delivery_tag"], RELEASE)
        return delivered

    def _hand_on(self, queue: _Queue) -> None:
        """Wake another worker: something may be due, and this one has no room for it."""
        now = self._clock.monotonic()
        if now - queue.handed_on_at >= _HAND_ON_S:
            queue.handed_on_at = now
            with self._leases.claim_ids.one(queue.store.keys) as claim:
                found = queue.store.claim(claim, 0, self._leases.lease_ms, _CONFIRM_MS)
            self._set_next(queue, found.next_in_ms)
        queue.claim_at = max(queue.claim_at, now + _NO_ROOM_S)

    def _hand_over(self, message: dict[str, Any], callback: Callable[[dict[str, Any]], Any]) -> None:
        leases = self._leases
        tag = message["properties"]["delivery_tag"]
        try:
            callback(message)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            # kombu takes a KeyError for a lost connection; one damaged message must not stop all others.
            logger.exception("a message is set aside, for it cannot be delivered: %r", message.get("headers"))
            leases.end(tag, f"undeliverable: {error!r}"[:200])
            return
        except FAULTS:
            leases.end(tag, RELEASE)
            raise
        except Exception:
            # Probably it is not the message's fault. If it is, the number of its losses ends it. A lease that is kept
            # would be renewed for ever.
            logger.exception("a message could not be handed over and is given back: %r", message.get("headers"))
            leases.end(tag, LOST)
            return
        if tag in leases and tag not in self._channel.qos.leased:
            # A consumer without acknowledgements took it.
            leases.end(tag, DONE)

    def claim(self, name: str, limit: int) -> list[dict[str, Any]]:
        """Claim at most `limit` messages of a queue; gives them as kombu delivers them."""
        # Without it, what is claimed would neither be renewed nor settled.
        self._leases.start()
        queue = self._queue(name)
        if not self._leases.thread.can_renew():
            queue.claim_at = self._clock.monotonic() + _UNRENEWED_S
            return []
        found: list[tuple[Claimed, str]] = []
        for _ in range(_ROUNDS):
            try:
                unknown = self._claim_once(queue, limit, found)
            except FAULTS:
                if not found:
                    raise
                # What has come is delivered first.
                queue.claim_at = 0.0
                break
            if not unknown or len(found) >= limit:
                break
        self._faults = 0
        if found:
            self._credit.saw(name, max(len(claimed.stored) for claimed, _ in found))
        messages, held = [], []
        for claimed, token in found:
            if (message := self._opened.open(name, queue.store, claimed, token)) is not None:
                messages.append(message)
                held.append((claimed, token, str(message["headers"].get("id"))))
        for message, tag in zip(messages, self._leases.hold(queue.store, held), strict=True):
            message["properties"]["delivery_tag"] = tag
        return messages

    def _claim_once(self, queue: _Queue, limit: int, found: list[tuple[Claimed, str]]) -> list[str]:
        """Claim, and tell Redis that the answer has come; returns lanes that are due too and have to be named."""
        store, lease_ms = queue.store, self._leases.lease_ms
        queue.claimed_at = self._clock.monotonic()
        confirm_ms = min(_CONFIRM_MS, lease_ms)
        with self._leases.claim_ids.one(store.keys) as claim_id:
            claim = store.claim(claim_id, limit - len(found), lease_ms, confirm_ms, queue.lanes)
            if claim.messages and store.confirm(claim_id):
                found += [(claimed, claim_id.token) for claimed in claim.messages]
        served = [f"{claimed.priority}{claimed.lane}" for claimed in claim.messages]
        queue.lanes = list(dict.fromkeys((*claim.unknown, *served, *queue.lanes)))[:_LANES]
        self._set_next(queue, claim.next_in_ms)
        queue.answered_at = self._clock.monotonic()
        return claim.unknown

    def _wait_for_redis(self, queues: Any, error: BaseException) -> None:
        if self._faults == 0:
            logger.warning(
                "due messages cannot be claimed now, and are claimed later: %s",
                error,
                exc_info=not isinstance(error, FAULTS),
            )
        first, longest = _AWAY_S
        for queue in queues:
            queue.claim_at = self._clock.monotonic() + min(first * 2**self._faults, longest)
            queue.is_due = True
        self._faults = min(self._faults + 1, 10)

    def answered_at(self, name: str) -> float:
        """When Redis last gave what is due in this queue, or told that nothing is, by the monotonic clock; 0.0 for
        never."""
        return self._queue(name).answered_at

    def has_room(self, name: str) -> bool:
        """Whether a claim for this queue would take anything; from any thread."""
        return self._credit.room(name) > 0

    def passed(self) -> None:
        """An ordinary message was taken, and due ones may have waited."""
        self._credit.passed()

    def look_at(self, name: str) -> None:
        """Let the next claim look at this queue: something may be due sooner than this worker knew."""
        queue = self._queue(name)
        queue.claim_at, queue.is_due = 0.0, True
