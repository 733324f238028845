"""The loops of docs/other_consumers.md run as they are written there: what fails comes back from a worker."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery

from rebound_celery import Rebound
from rebound_celery.embedded import create_topics
from rebound_celery.other_consumers import read_record
from rebound_celery.testing import running
from tests.topics import read_topic
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGE = (Path(__file__).parents[2] / "docs" / "other_consumers.md").read_text("utf-8")
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in PAGE.split("\n## ")[1:]
}


class EndOfLoop(BaseException):
    """Ends a loop that has no end."""


class Attempts:
    """Handles records: the first attempt of each fails, and the loop ends after the second attempt of one of them."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes | None]] = []

    def __call__(self, raw: Any) -> None:
        record = read_record(raw)
        self.seen.append((record.attempt, record.value))
        if record.attempt == 1:
            raise ValueError("no price")
        raise EndOfLoop


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """The module `shop` of the page, on servers of its own with a worker."""
    app = Celery("shop", set_as_current=False)
    rebound = Rebound(app, base_delay=1)
    module: Any = types.ModuleType("shop")
    module.app, module.rebound = app, rebound
    monkeypatch.setitem(sys.modules, "shop", module)
    with running(app, topics={"orders": 1}) as servers:
        yield types.SimpleNamespace(app=app, rebound=rebound, kafka=servers.kafka)


@pytest.fixture
def send(shop: types.SimpleNamespace) -> Callable[..., None]:
    def send(*values: bytes) -> None:
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=shop.kafka)
        for value in values:
            producer.send("orders", value=value, key=b"order-42")
        producer.close()

    return send


def snippet(section: str, kafka: str) -> Any:
    (text,) = SECTIONS[section]
    return compile(text.replace("localhost:9092", kafka), section, "exec")


@pytest.mark.parametrize("client", ["confluent-kafka", "kafka-python"])
def test_a_plain_loop_gets_its_record_again(
    client: str, shop: types.SimpleNamespace, send: Callable[..., None]
) -> None:
    handle = Attempts()
    names: dict[str, Any] = {"handle": handle}
    send(b"{}")

    with pytest.raises(EndOfLoop):
        exec(snippet(client, shop.kafka), names)
    names["consumer"].close()

    assert handle.seen == [(1, b"{}"), (2, b"{}")]


def test_an_aiokafka_loop_gets_its_record_again(shop: types.SimpleNamespace, send: Callable[..., None]) -> None:
    attempts = Attempts()

    async def handle(record: Any) -> None:
        attempts(record)

    send(b"{}")

    with pytest.raises(EndOfLoop):
        exec(snippet("aiokafka", shop.kafka), {"handle": handle})

    assert attempts.seen == [(1, b"{}"), (2, b"{}")]


@pytest.mark.parametrize("client", ["kafka", "confluent"])
def test_faststream_gets_its_record_again(client: str, shop: types.SimpleNamespace, send: Callable[..., None]) -> None:
    """What it cannot decode comes back too, and in the end becomes a dead letter."""
    seen: list[dict[str, Any]] = []

    async def handle(order: dict[str, Any]) -> None:
        seen.append(order)
        if len(seen) == 1:
            raise ValueError("no price")

    names: dict[str, Any] = {"handle": handle}
    (text,) = SECTIONS["FastStream"]
    text = text.replace("localhost:9092", shop.kafka).replace("faststream.kafka", f"faststream.{client}")
    exec(
        compile(
            text.replace('group="billing")', 'group="billing", policy={"max_retries": 1, "base_delay": 1})', 1),
            "FastStream",
            "exec",
        ),
        names,
    )
    create_topics(shop.kafka, {"orders-dlq": 1})

    async def run() -> None:
        async with names["broker"]:
            await names["broker"].start()
            send(b'{"n": 1}', b"no JSON")
            await asyncio.to_thread(wait_until, lambda: len(seen) == 2, timeout=60)
            dead.extend(await asyncio.to_thread(read_topic, shop.kafka, "orders-dlq", 1, 20))

    dead: list[Any] = []
    asyncio.run(run())

    assert seen == [{"n": 1}, {"n": 1}]
    assert [(record.value, read_record(record).attempt) for record in dead] == [(b"no JSON", 2)]


def test_plain_fields_are_stored(shop: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    exec(snippet("Plain fields", shop.kafka), {})

    assert capsys.readouterr().out == "retry kafka:orders 2\n"
    (record,) = wait_until(lambda: read_topic(shop.kafka, "orders", 1, 3), timeout=20)
    assert read_record(record).attempt == 2


def test_what_the_page_says_about_read_record_is_so(capsys: pytest.CaptureFixture[str]) -> None:
    exec(SECTIONS["What happens after a failure"][0], {})

    assert capsys.readouterr().out.startswith("2 billing ")
