"""What operators use of a `Rebound`, and every face shows: what waits, dead letters, lanes, breakers and endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from celery import Celery

from .broker import shown_broker
from .clock import Clock
from .config import Settings
from .dead_letters import Access, DeadLetters, DeadSet
from .delivery.lanes import RatedLanes
from .delivery.plainly import FAULTS
from .delivery.publisher import Publisher
from .delivery.revival import Reviver
from .delivery.steering import Breakers, Lanes
from .endpoints import Endpoints
from .errors import UnreachableError
from .jobs import Jobs
from .message import Message
from .message.encryption import KeyRing
from .pending import Pending, teller_of


class OperatorViews:
    """The views of one Rebound.

    Attributes:
        pending: what waits in the schedule.
        dead_letters: the dead letters in Redis and in Kafka topics.
        jobs: replays of dead letters that workers make.
        dead_set: the dead letters kept in Redis because they had no topic or URL to go to.
        lanes: the lanes of destinations: what waits in each, pauses and rates.
        breakers: the circuit breakers of destinations that are not closed.
        endpoints: the HTTP endpoints that fail or are disabled.
    """

    pending: Pending
    dead_letters: DeadLetters
    jobs: Jobs
    dead_set: DeadSet
    lanes: Lanes
    breakers: Breakers
    endpoints: Endpoints

    def _add_views(
        self,
        app: Celery,
        read_settings: Callable[[], Settings],
        publisher: Publisher,
        lanes: RatedLanes,
        store: Callable[[Sequence[tuple[Message, int]]], None],
        clock: Clock,
    ) -> None:
        """Make the views. Nothing is read or connected before they are used."""

        def queue() -> str:
            return read_settings().queue

        def keys() -> KeyRing:
            return read_settings().encryption_keys

        @contextmanager
        def asking() -> Iterator[None]:
            try:
                yield
            except FAULTS as error:
                raise UnreachableError("Redis", shown_broker(app), error) from error

        revive = Reviver(lanes, keys, clock).revive
        tell = teller_of(app, lambda: publisher.is_replaced)
        self.pending = Pending(app, publisher.open, queue, keys, clock, revoked=tell)
        access = Access(publisher.open, asking, read_settings, clock)
        self.dead_letters = DeadLetters(access, revive)
        self.jobs = Jobs(app, access, self.dead_letters, revive, queue)
        self.dead_set = DeadSet(publisher.open, keys)
        self.lanes = Lanes(publisher.open, clock)
        self.breakers = Breakers(publisher.open, read_settings)
        self.endpoints = Endpoints(publisher.open, store, clock, keys)
