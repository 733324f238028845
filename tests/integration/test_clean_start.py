"""A clean start: data that earlier commits stored in Redis is not read and not changed, as CHANGELOG.md says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.schedule.port import open_schedule
from rebound_celery.schedule.store.keys import QueueKeys

CHANGELOG = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()

#: Keys of earlier commits for rebound's queue, and what they held.
OLD_HASHES = {
    "rebound:{rebound}:messages": {"order-7.1": b"\x02 an earlier stored form"},
    "rebound:{rebound}:dead": {"order-8.1": b"worker-lost\n\x02 an earlier stored form"},
    "{rebound}.dead": {"order-9": b"a dead letter"},
}
OLD_ZSETS = {"rebound:{rebound}:waiting:3": {"order-7.1": 1.0}, "{rebound}.dead.index": {"order-9": 1.0}}


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A Redis with what an earlier commit has stored."""
    with redis.Redis.from_url(redis_url) as client:
        for key, fields in OLD_HASHES.items():
            client.hset(key, mapping=fields)
        for key, scores in OLD_ZSETS.items():
            client.zadd(key, scores)
        yield client


def test_what_earlier_commits_stored_is_neither_read_nor_touched(client: redis.Redis, redis_url: str) -> None:
    app = Celery("shop", broker=redis_url)
    Rebound(app)
    before = {key: client.dump(key) for key in [*OLD_HASHES, *OLD_ZSETS]}

    with open_schedule(app, "rebound") as schedule:
        counts = schedule.counts()
        assert (counts.waiting, counts.leased, counts.dead) == (0, 0, 0)
        assert schedule.page().entries == []
        assert schedule.dead().letters == []
        assert schedule.purge() == 0
    app.close()

    assert {key: client.dump(key) for key in [*OLD_HASHES, *OLD_ZSETS]} == before


def test_the_changelog_names_the_old_and_the_new_keys() -> None:
    prefix = QueueKeys("", "queue", (0,)).messages.removesuffix("messages")

    assert f"`{prefix}`" in CHANGELOG
    assert "`rebound:{queue}:`" in CHANGELOG
    assert "`{rebound}.dead`" in CHANGELOG
