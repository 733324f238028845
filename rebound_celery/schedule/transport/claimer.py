"""Claiming: what is due and there is room for comes straight to the worker, under a lease."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from ...stopping import is_stopping
from ..store.store import MAX_SLEEP_MS, Claimed, Store
from . import celery_form as stored
from . import eta
from .leases import DONE, LOST, RELEASE, Leases

#: Seconds between looks while messages are due and the worker has no room for them.
_NO_ROOM_S = 0.01
#: Seconds between claims while Redis is away, growing to the second figure.
_AWAY_S = (0.5, 5.0)

#: How many messages of a leased queue a worker takes at most at a time.
LEASED_QUEUE_CREDIT = 1_000
#: How many it claims at a time: where little is due, other workers get some of it too.
_CLAIM = 250
#: It claims again once this part of its credit is free: one by one would cost a round trip for each message.
_FREE_PART = 4
#: How many due messages a worker without a prefetch limit takes at most at a time.
_UNLIMITED_CREDIT = 200

#: The header that tells a task how many workers were lost while they held its message.
LOSSES_HEADER = "rebound-losses"

#: Milliseconds that a message of an unknown version is left alone before it is reported again.
_UNKNOWN_PAUSE_MS = 300_000

FAULTS = (RedisError, OSError)

logger = logging.getLogger(__name__)


class Claimer:
    """Claims for the queues that one channel consumes.

    Args:
        channel: the channel, with the transport option `rebound`.
        leases: this process's leases.
        max_losses: how many leases of a message may run out before it is dead.
        on_dead: called with the stored form of a message that is dead now, and the number of its losses.
    """

    def __init__(
        self, channel: Any, leases: Leases, max_losses: int, on_dead: Callable[[bytes, int], None] | None = None
    ) -> None:
        self._channel = channel
        self._leases = leases
        self._max_losses = max_losses
        self._tell_dead = on_dead
        self._stores: dict[str, Store] = {}
        self._claim_at: dict[str, float] = {}
        self._answered_at: dict[str, float] = {}
        self._faults = 0

    def claim_due(self) -> int:
        """Claim what is due and there is room for, and deliver it; returns how many messages were delivered."""
        delivered = 0
        for queue in self._channel.active_queues:
            if time.monotonic() >= self._claim_at.get(queue, 0.0):
                try:
                    delivered += self._claim_and_deliver(queue)
                except Exception as error:  # noqa: BLE001 - told below; raised, it would end the worker
                    self._wait_for_redis(queue, error)
        return delivered

    def next_claim_in(self) -> float:
        """Seconds until `claim_due` has something to do, at most the longest sleep."""
        if not self._channel.active_queues:
            return MAX_SLEEP_MS / 1000
        now = time.monotonic()
        return max(0.0, min(self._claim_at.get(queue, 0.0) for queue in self._channel.active_queues) - now)

    def _claim_and_deliver(self, queue: str) -> int:
        delivered = 0
        callback = self._channel.connection._callbacks.get(queue)  # noqa: SLF001 - kombu has no other way to it
        room = 0 if callback is None else min(self._room(queue), _CLAIM)
        if room <= 0:
            self._claim_at[queue] = time.monotonic() + _NO_ROOM_S
            return 0
        messages = iter(self.claim(queue, room))
        try:
            # Where tasks run in the loop's own thread (solo, gevent and eventlet with a full pool) handing over takes
            # as long as they do, and Celery looks only afterwards whether it was told to stop.
            while not is_stopping() and (message := next(messages, None)) is not None:
                self._hand_over(message, callback)
                delivered += 1
        finally:
            # After an error (a lost connection) or a stop, what was not handed over is given back.
            for message in messages:
                self._leases.end(message["properties"]["delivery_tag"], RELEASE)
        return delivered

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
            # Not the message's fault, it seems; if it is, its losses end it. A lease that is kept would never end.
            logger.exception("a message could not be handed over and is given back: %r", message.get("headers"))
            leases.end(tag, LOST)
            return
        if tag in leases and tag not in self._channel.qos.leased:
            # A consumer without acknowledgements took it.
            leases.end(tag, DONE)

    def claim(self, queue: str, limit: int) -> list[dict[str, Any]]:
        leases = self._leases
        store = self._stores.get(queue)
        if store is None:
            store = self._stores[queue] = leases.store_of(self._channel.keys_of(queue))
        # What goes through the schedule as a whole has a task that gives up its messages itself, told of the losses by
        # a header; those that cost workers even so are dead here.
        max_losses = 2 * self._max_losses if self._channel.is_leased(queue) else self._max_losses
        claim = store.claim(limit, leases.lease_ms, max_losses)
        self._faults = 0
        self._answered_at[queue] = time.monotonic()
        sleep_ms = MAX_SLEEP_MS if claim.next_due_in_ms is None else min(claim.next_due_in_ms, MAX_SLEEP_MS)
        self._claim_at[queue] = time.monotonic() + sleep_ms / 1000
        for identity in claim.dead:
            logger.error("message %r of queue %r is dead: its workers were lost too often", identity, queue)
            self._on_dead(store.dead_letter(identity), max_losses)
        messages, held = [], []
        for claimed in claim.messages:
            if (message := self._open(store, claimed)) is not None:
                messages.append(message)
                held.append((claimed, str(message["headers"].get("id"))))
        for message, tag in zip(messages, leases.hold(store, held), strict=True):
            message["properties"]["delivery_tag"] = tag
        return messages

    def _on_dead(self, body: bytes | None, losses: int) -> None:
        if body is None or self._tell_dead is None:
            return
        try:
            self._tell_dead(body, losses)
        except Exception:
            # The result backend's fault must not keep what is due from being claimed.
            logger.exception("the end of a dead message could not be told")

    def _open(self, store: Store, claimed: Claimed) -> dict[str, Any] | None:
        """The claimed message as kombu delivers it, but for its delivery tag; None if it cannot be read."""
        try:
            message = stored.decode(claimed.stored)
            headers = message["headers"]
            if not isinstance(headers, dict):
                raise ValueError("its headers are none")  # noqa: TRY301, TRY004 - as below
            if self._channel.is_leased(store.keys.queue) and not _names_a_task(message):
                raise ValueError("it names no task")  # noqa: TRY301 - one way for all that is wrong with it
            eta.hide(headers)
            if claimed.losses:
                headers[LOSSES_HEADER] = claimed.losses
                headers["redelivered"] = True
                message["properties"].setdefault("delivery_info", {})["redelivered"] = True
        except stored.UnknownVersionError as error:
            # Left in place: a worker of that version may read it. Looked at again later, lest it be forgotten.
            logger.error("message %r is of another version and left alone: %s", claimed.id, error)  # noqa: TRY400
            self._end_unread(store, claimed, RELEASE)
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            logger.error("message %r is set aside, for it cannot be read: %s", claimed.id, error)  # noqa: TRY400
            self._end_unread(store, claimed, "unreadable")
            return None
        except Exception:
            # No memory for it, say: its lease runs out, and if it is its own fault, its losses end it. Raised, this
            # would hold up all that was claimed with it.
            logger.exception("message %r cannot be read now, and comes up again", claimed.id)
            return None
        return message

    def _end_unread(self, store: Store, claimed: Claimed, what: str) -> None:
        try:
            store.settle([(claimed.id, claimed.token, what)])
            if what == RELEASE:
                store.reschedule(time.time_ns() // 1_000_000 + _UNKNOWN_PAUSE_MS, claimed.id)
        except FAULTS as error:
            # Its lease runs out, and it comes up again.
            logger.debug("message %r keeps its lease: %s", claimed.id, error)

    def _room(self, queue: str) -> int:
        """How many due messages this worker may still take from `queue`.

        They have credit of their own, as much again as the prefetch count: an ordinary queue that is always full
        would otherwise leave none for what is due.
        """
        leases = self._leases
        if self._channel.is_leased(queue):
            return _enough(LEASED_QUEUE_CREDIT, leases.count([queue]))
        if "can_consume" in vars(self._channel.qos):
            # worker_disable_prefetch has put its own rule there, which looks at what the worker runs now.
            return int(self._channel.qos.can_consume())
        credit = 2 * self._channel.qos.prefetch_count or _UNLIMITED_CREDIT
        ordinary = (name for name in self._channel.active_queues if not self._channel.is_leased(name))
        return _enough(credit, leases.count(ordinary))

    def _wait_for_redis(self, queue: str, error: BaseException) -> None:
        if self._faults == 0:
            logger.warning(
                "due messages cannot be claimed now, and are claimed later: %s",
                error,
                exc_info=not isinstance(error, FAULTS),
            )
        first, longest = _AWAY_S
        self._claim_at[queue] = time.monotonic() + min(first * 2**self._faults, longest)
        self._faults = min(self._faults + 1, 10)

    def answered_at(self, queue: str) -> float:
        """When Redis last answered a claim for this queue, by the monotonic clock; 0.0 if it never did."""
        return self._answered_at.get(queue, 0.0)

    def has_room(self, queue: str) -> bool:
        """Whether a claim for this queue would take anything; from any thread."""
        return self._room(queue) > 0

    def look_at(self, queue: str) -> None:
        """Let the next claim look at this queue: something may be due sooner than this worker knew."""
        self._claim_at[queue] = 0.0


def _names_a_task(message: dict[str, Any]) -> bool:
    """Whether Celery would find the name of a task in it: in its headers, or in its body in task protocol 1."""
    if "task" in message["headers"]:
        return isinstance(message["headers"]["task"], str)
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return isinstance(json.loads(body)["task"], str)


def _enough(credit: int, held: int) -> int:
    """What is free of a credit; 0 while it is not yet worth a claim."""
    free = credit - held
    return free if free >= max(1, credit // _FREE_PART) else 0
