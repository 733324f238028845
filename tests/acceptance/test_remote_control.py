"""Remote control over what waits, with two workers: each question has one answer, and each id is known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.test_delayed_delivery import Bench
from tests.servers import RedisServer
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Process

ZONE = json.dumps({"timezone": "Asia/Tokyo"})


@pytest.fixture
def bench(run_process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with RedisServer() as server:
        monkeypatch.setenv("TEST_CONF", ZONE)
        bench = Bench(server, run_process, monkeypatch)
        yield bench
        for worker in bench.workers:
            worker.stop()
        bench.redis.close()


def test_of_two_workers_one_shows_what_waits_in_the_app_s_time_zone(bench: Bench):
    for name in ("one", "two"):
        bench.worker("threads", "-n", f"{name}@%h", "--without-gossip")

    printed = bench.call(
        "from datetime import datetime, timedelta, timezone\n"
        "a = note.apply_async((1, 0), countdown=600)\n"
        "b = note.apply_async((2, 0), eta=datetime.now(timezone(timedelta(hours=-5))) + timedelta(hours=1))\n"
        "def ask(what, *ids):\n"
        "    return getattr(app.control.inspect(timeout=4), what)(*ids)\n"
        "for _ in range(3):\n"
        "    answers = ask('scheduled')\n"
        "    entries = [entry for answer in answers.values() for entry in answer]\n"
        "    print('workers', len(answers), 'entries', [e['request']['id'] for e in entries] == [a.id, b.id])\n"
        "print('zones', {e['eta'][-6:] for e in entries})\n"
        "found = [answer for answer in ask('query_task', a.id, 'nobody').values() if answer]\n"
        "print('query', [(list(f) == [a.id], f[a.id][0], f[a.id][1]['args']) for f in found])\n"
        "one = app.control.inspect(timeout=4, destination=list(answers)[:1]).scheduled()\n"
        "print('alone', [len(answer) for answer in one.values()])\n"
    )

    assert printed.count("workers 2 entries True") == 3
    assert "zones {'+09:00'}" in printed
    assert "query [(True, 'scheduled', [1, 0])]" in printed
    assert "alone [2]" in printed


def test_what_is_not_shown_is_said(bench: Bench):
    worker = bench.worker("threads")

    printed = bench.call(
        "with app.producer_or_acquire() as producer, producer.batch():\n"
        "    for n in range(1_003): note.apply_async((n, 0), countdown=600 + n, producer=producer)\n"
        "(answer,) = app.control.inspect(timeout=10).scheduled().values()\n"
        "print(len(answer), answer[999]['request']['args'], answer[-1]['request']['name'])\n"
    )

    assert "1001 [999, 0] (3 more wait in the queue celery; 1,000 are shown)" in printed
    wait_until(lambda: "inspect scheduled shows 1,000 of the 1003 messages" in worker.output)


def test_revoking_says_what_it_has_found(bench: Bench):
    worker = bench.worker("threads")

    printed = bench.call(
        "one = note.apply_async((1, 0), countdown=600)\n"
        "answers = app.control.broadcast('revoke', {'task_id': [one.id, 'nobody']}, reply=True, timeout=5)\n"
        "(said,) = [text for answer in answers for text in answer.values()]\n"
        "print('removed', f'removed from the schedule: {one.id}; not waiting in celery: nobody' in said['ok'])\n"
    )

    assert "removed True" in printed
    wait_until(lambda: "not waiting in celery: nobody" in worker.output)


def test_a_worker_warns_once_of_a_leased_queue_that_it_does_not_consume(bench: Bench):
    worker = bench.worker("threads", "-Q", "other", TEST_LEASED="celery")

    wait_until(lambda: "does not consume the queue celery" in worker.output)
    assert worker.output.count("does not consume the queue") == 1
    assert "add it to -Q (other,celery)" in worker.output
    well = bench.worker("threads", "-n", "well@%h", TEST_LEASED="celery")
    assert "does not consume the queue" not in well.output


def test_a_leased_queue_runs_what_kills_its_worker_as_often_as_any_other(bench: Bench):
    worker = bench.worker("prefork", TEST_LEASED="celery", TEST_LEASE="2")
    bench.call("die.apply_async((1,)); die.apply_async((2,), countdown=0.5)", TEST_LEASED="celery")

    wait_until(lambda: worker.output.count("is dead: its workers were lost too often") == 2, timeout=60)
    assert sorted(bench.said()) == ["begun 1"] * 3 + ["begun 2"] * 3


@pytest.mark.parametrize("prefetch", ["1", "4", "0"])
@pytest.mark.parametrize("options", [(), ("--autoscale", "2,1")], ids=["fixed", "autoscale"])
def test_no_worker_holds_what_another_could_begin(bench: Bench, prefetch: str, options: Any):
    for name in ("one", "two"):
        bench.worker("prefork", "-n", f"{name}@%h", "--without-gossip", *options, TEST_PREFETCH=prefetch)
    bench.call(
        "from datetime import datetime, timedelta, timezone\n"
        "eta = datetime.now(timezone.utc) + timedelta(seconds=1)\n"
        "for n in range(4): place.apply_async((n, 5), eta=eta)"
    )

    # Four tasks, and four processes in all: each begins before any is done.
    said = bench.wait_said(4, timeout=20)
    assert [line.split()[0] for line in said[:4]] == ["begun"] * 4
    assert len({line.split()[2] for line in said[:4]}) == 4
