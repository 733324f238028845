"""Runs each flow up to the kill, and then with another process, or the same parent, to the end of every message."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rebound_celery.embedded import free_port
from rebound_celery.message.address import HttpAddress, KafkaAddress
from rebound_celery.schedule.port import Entry
from rebound_celery.schedule.transport import celery_form as stored
from tests.acceptance.crash_points.case import DEADLINE_S, Case
from tests.acceptance.crash_points.consumer_scenes import (
    NEVER,
    NOTHING,
    call,
    consume,
    consumer_stop,
    deliver_all,
    given_away,
)
from tests.acceptance.crash_points.inject import KillTarget
from tests.scheduling import everything, raw
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.processes import Process

#: A post that has not ended is made again after this time and a few seconds more.
SOON = MappingProxyType({"REBOUND_HTTP_TIMEOUT": "8"})

#: A job waits for an answer as long as a test runs. Without it, a job stores a post as under way after a second, and a
#: busy machine needs longer than that to come to the step.
PATIENT = MappingProxyType({"CRASH_PATIENCE": str(DEADLINE_S)})


# The worker


def schedule(case: Case, count: int = 1, **request: Any) -> None:
    """Schedule `count` messages that are due. `request` are arguments of `schedule_retry`."""
    case.messages = count
    for number in range(count):
        case.rebound.schedule_retry(message_data=f"message-{number}", base_delay=1, **request)
    deliver_all(case)


def deliver(
    case: Case,
    *,
    pool: str = "threads",
    env: Mapping[str, str] = NOTHING,
    of_killed: Mapping[str, str] = NOTHING,
    meanwhile: Callable[[Process], object] = lambda _killed: None,
) -> None:
    """Kill the worker, or its child, while it delivers due messages. The same or another worker delivers the rest.

    `meanwhile` brings the worker to the step. Only the killed worker has the environment `of_killed`.
    """
    pool = case.step.variant or pool
    killed = case.worker(armed=True, pool=pool, **{**env, **of_killed})
    meanwhile(killed)
    case.killed(killed)
    case.receiver.release.set()
    only_a_child = case.step.kill.target is KillTarget.CHILD
    if not only_a_child:
        case.worker(pool=pool, **env)
    case.through()
    assert killed.is_running == only_a_child


def to_kafka(case: Case, count: int = 1, *, worker: Mapping[str, Any] = NOTHING, **request: Any) -> None:
    case.make_topics()
    schedule(case, count, destination=f"kafka://{case.topic}", **request)
    deliver(case, **worker)


def over_http(
    case: Case,
    count: int = 1,
    *,
    receiver: Mapping[str, Any] = NOTHING,
    worker: Mapping[str, Any] = NOTHING,
    **request: Any,
) -> None:
    case.receive(**receiver)
    schedule(case, count, destination=case.receiver.url, **request)
    deliver(case, **worker)


def failing_endpoint(case: Case) -> None:
    """Kill a worker while it counts a failure of an endpoint. What was counted stays, and the post is counted again."""
    over_http(case, receiver={"refused": {2}}, max_retries=1)
    address = HttpAddress(case.receiver.url)
    (health,) = case.store.health([address.parts.endpoint])
    assert health.failures == (1 if case.step.kill.when == "before" else 2)


def under_way(case: Case) -> None:
    """Kill a worker while a post gets no answer. Its job ends before it."""
    over_http(case, receiver={"hanging": 1}, worker={"env": SOON})


def answered_after_the_job(case: Case, refused: Collection[int] = ()) -> None:
    """Let a post be answered when its job has ended, and kill the worker then."""

    def answer(killed: Process) -> None:
        wait_until(lambda: case.receiver.posts, timeout=DEADLINE_S, message=killed.tail)
        wait_until(
            lambda: [token.partition(b":")[0] for token in case.redis.hvals(case.store.keys.leases)] == [b"underway"],
            timeout=DEADLINE_S,
            message=killed.tail,
        )
        case.receiver.release.set()

    over_http(case, receiver={"hanging": 1, "refused": refused}, worker={"env": SOON, "meanwhile": answer})


def with_results(scene: Callable[..., None], **arguments: Any) -> Callable[[Case], None]:
    """Return a scene of one message whose workers have a result backend. The task's id begins with its name."""
    return lambda case: scene(case, id="message-0", worker={"env": {"CRASH_RESULTS": case.url}}, **arguments)


def outage(case: Case) -> None:
    """Kill a worker that cannot reach Kafka."""
    nowhere = f"127.0.0.1:{free_port()}"
    to_kafka(case, worker={"of_killed": {"REBOUND_KAFKA_BROKERS": nowhere, "REBOUND_KAFKA_TIMEOUT": "1"}})


def rejected(case: Case) -> None:
    case.make_topics()
    schedule(case, destination=KafkaAddress(case.topic, partition=77))
    deliver(case)


#: One loss of a worker is one too many.
ONE_LOSS: Mapping[str, Any] = MappingProxyType(
    {"pool": "prefork", "env": {"REBOUND_MAX_WORKER_LOSSES": "1", **PATIENT}}
)


def lost_workers(case: Case, *, of_a_dead_letter: bool = False) -> None:
    """Kill the child while it posts."""
    case.receive(hanging=1)
    url = case.receiver.url

    def lose(killed: Process) -> None:
        wait_until(lambda: case.receiver.posts, timeout=DEADLINE_S, message=killed.tail)
        for child in Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)

    # Without a further retry, the post is the dead letter. Otherwise the lost message goes to the dead set.
    schedule(case, destination=url, **({"max_retries": 0, "dead_destination": url} if of_a_dead_letter else {}))
    deliver(case, **ONE_LOSS, meanwhile=lose)


def lost_workers_seen_by_the_claim(case: Case) -> None:
    """Let so many leases of the message run out that no worker gets it any more. The claim gives it up."""
    schedule(case, destination=case.receiver.url)
    (entry,) = everything(case.store)
    leases = 6
    case.redis.hset(
        case.store.keys.messages, entry.id, raw(entry.stored, lane=entry.lane, rank=entry.priority, losses=leases)
    )
    deliver(case)


def unreadable(case: Case) -> None:
    case.messages = 1
    app = case.rebound.app
    with app.connection_for_write() as connection:
        app.send_task(
            "rebound.deliver", args=["no stored form"], task_id="message", queue="rebound", connection=connection
        )
    deliver(case)


def broken_entry(case: Case) -> None:
    case.messages = 1
    case.store.enqueue([Entry("message", time.time_ns() // 1_000_000, stored.VERSION + b"no message", "", 3)])
    deliver(case)


def worker_stop(case: Case) -> None:
    """Stop a worker while one post is under way and another message waits behind it."""
    case.receive(hanging=1)

    def stop(killed: Process) -> None:
        wait_until(lambda: case.receiver.posts, timeout=DEADLINE_S, message=killed.tail)
        case.rebound.schedule_retry(case.receiver.url, "held", base_delay=1)
        case.messages = 2
        deliver_all(case)
        wait_until(
            lambda: [entry.leased for entry in everything(case.store)] == [True, True],
            timeout=DEADLINE_S,
            message=killed.tail,
        )
        killed.signal(signal.SIGTERM)
        killed.wait_for_output("Warm shutdown", timeout=DEADLINE_S)
        case.receiver.release.set()

    schedule(case, destination=case.receiver.url)
    deliver(case, pool="prefork", env=PATIENT, meanwhile=stop)


PREFORK = MappingProxyType({"pool": "prefork"})

#: flow -> its scene.
SCENES: dict[str, Callable[[Case], None]] = {
    "call": call,
    "calls": partial(call, count=4),
    "record": lambda case: consume(case, "fine"),
    "records": lambda case: consume(case, *(f"fine-{n}" for n in range(6)), of_killed=NEVER),
    "failure": lambda case: consume(case, "once"),
    "failures": lambda case: consume(case, *(f"once-{n}" for n in range(20)), concurrency=4),
    "last failure": lambda case: consume(case, "never", max_retries=0),
    "partitions given away": given_away,
    "consumer stop": consumer_stop,
    "retry": to_kafka,
    "retry in a child": partial(to_kafka, worker=PREFORK),
    "retries": partial(to_kafka, count=5),
    "retries in a child": partial(to_kafka, count=5, worker=PREFORK),
    "retry with a result": with_results(to_kafka),
    "outage": outage,
    "post": over_http,
    "posts": partial(over_http, count=4),
    "refused post": partial(over_http, receiver={"refused": {2}}, worker={"env": PATIENT}),
    "refused post with a result": with_results(over_http, receiver={"refused": {2}}),
    "refused post, one loss is too many": partial(over_http, receiver={"refused": {2}}, worker=ONE_LOSS),
    "refused posts": partial(over_http, count=3, receiver={"refused": {2}}, worker={"env": PATIENT}),
    "renewal": partial(over_http, receiver={"hanging": 1}, worker={"env": PATIENT}),
    "failing endpoint": failing_endpoint,
    "post under way": under_way,
    "answer after the job": answered_after_the_job,
    "refusal after the job": partial(answered_after_the_job, refused={2}),
    "dead letter": partial(to_kafka, max_retries=0),
    "rejected retry": rejected,
    "last refused post": partial(over_http, receiver={"refused": {2}}, max_retries=1),
    "lost workers": lost_workers,
    "lost workers of a dead letter": partial(lost_workers, of_a_dead_letter=True),
    "lost workers, seen by the claim": lost_workers_seen_by_the_claim,
    "unreadable message": unreadable,
    "broken entry": broken_entry,
    "worker stop": worker_stop,
}
