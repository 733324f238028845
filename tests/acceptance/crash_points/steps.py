"""The class of a step, and the flows: each flow is the list of a message's effects, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.acceptance.crash_points.inject import Kill

#: A number, or the least and the largest number.
Times = int | tuple[int, int]

#: The time between two commits of a consumer, in seconds.
COMMIT_INTERVAL_S = 0.5


def least_and_most(times: Times) -> tuple[int, int]:
    return (times, times) if isinstance(times, int) else times


#: A kill can happen between each two neighbours, and the table must have a step for it.
FLOWS: dict[str, tuple[str, ...]] = {
    # Who schedules
    "call": ("start", "send", "answer", "return"),
    "calls": ("start", "store", "return"),
    # The consumer
    "record": ("start", "poll", "handler", "commit", "next poll"),
    "records": ("first handler", "last handler", "commit"),
    "failure": ("handler", "store", "commit", "next poll"),
    "failures": ("handlers", "store", "commit"),
    "last failure": ("handler", "store", "commit", "next poll"),
    "partitions given away": ("handler", "commit", "leave"),
    "consumer stop": ("handler", "commit", "leave"),
    # The worker: to Kafka
    "retry": ("start", "claim", "job", "publish", "confirm", "settle", "next claim"),
    "retry in a child": ("claim", "job", "publish", "confirm", "answer to the parent", "settle", "next claim"),
    "retries": ("publish", "first confirm", "last confirm", "settle"),
    "retries in a child": ("publish", "first confirm", "last confirm", "answer to the parent", "settle"),
    "retry with a result": ("confirm", "tell the result backend", "settle", "next claim"),
    "outage": ("refusal", "store again", "settle", "next claim"),
    # The worker: over HTTP
    "post": ("claim", "post", "answer", "settle", "next claim"),
    "posts": ("first answer", "last answer", "settle"),
    "refused post": ("answer", "store again", "settle", "next claim"),
    "refused post with a result": ("store again", "tell the result backend", "settle", "next claim"),
    "refused post, one loss is too many": ("store again", "settle"),
    "refused posts": ("answers", "store again", "settle"),
    "renewal": ("claim", "renew", "answer"),
    "failing endpoint": ("answer", "report", "keep"),
    "post under way": ("post", "store again", "settle", "answer"),
    "answer after the job": ("answer", "store the outcome", "settle", "next claim"),
    "refusal after the job": ("answer", "report", "store the outcome"),
    # The worker: dead letters
    "dead letter": ("claim", "write", "confirm", "settle", "next claim"),
    "rejected retry": ("refusal", "write", "confirm", "settle", "next claim"),
    "last refused post": ("answer", "keep", "settle", "next claim"),
    "lost workers": ("loss", "ask for the lease", "store", "settle", "next claim"),
    "lost workers of a dead letter": ("loss", "keep", "settle", "next claim"),
    "lost workers, seen by the claim": ("claim", "tell the result backend", "next claim"),
    "unreadable message": ("claim", "keep", "settle", "next claim"),
    "broken entry": ("claim", "set aside", "next claim"),
    "worker stop": ("stop", "release", "exit"),
}

#: From the claim to the settling of a message with any outcome, with the renewals of its lease.
DELIVERY = ("retry", "refused post", "dead letter", "renewal")

#: pool -> flows that are killed at each of their steps on this pool too, as the variant of that name. Without a variant
#: it is the threads pool, and prefork for a stop. A worker with solo claims nothing while it delivers, so it has
#: nothing to give back.
ON_POOLS = {
    "threads": ("worker stop",),
    "solo": DELIVERY,
    "gevent": (*DELIVERY, "worker stop"),
    "eventlet": (*DELIVERY, "worker stop"),
}

#: The same for prefork, whose steps are told apart: they are in two processes. It has more flows of its own.
ON_PREFORK = ("refused post", "dead letter")


@dataclass(frozen=True)
class Step:
    """A step at which a process is killed, and the outcome after the other processes have finished.

    Attributes:
        name: the unique name of the test.
        place: the flow, and the two neighbours in it around the kill: `flow: effect > effect`.
        kill: the exact moment of the kill.
        outcome: for each message of the scene the number of each event, for example `{"handled 1": 2, "record 2": 1}`:
            the handler was called for attempt 1 twice, and Kafka has one record that begins attempt 2. An event that is
            not named must not happen. So no attempt is skipped, and none begins again. `case.Case.counts` lists the
            events.
        variant: a word for the scene if a flow has several, for example the worker's pool.
    """

    name: str
    place: str
    kill: Kill
    outcome: Mapping[str, Times]
    variant: str = ""

    @property
    def flow(self) -> str:
        return self.place.partition(": ")[0]
