"""Measures the cost of producing to Kafka with each client library. Prints one JSON line for each on stdout.

    python benchmarks/kafka_clients.py                        starts an embedded Kafka
    python benchmarks/kafka_clients.py --kafka localhost:9092
    python benchmarks/kafka_clients.py --profile              prints a profile on stderr

As in a worker, one thread delivers 250 messages at a time and waits for their confirmations. `cpu_us` is the processor
time of this process for each record, the library's threads included; `rate` is records a second. `destination` is the
whole Kafka destination, `bare` is the library alone with the same records.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import statistics
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kafka import KafkaProducer

from rebound_celery.destinations import Delivered
from rebound_celery.destinations.kafka import KafkaDestination
from rebound_celery.embedded import EmbeddedKafka, create_topics
from rebound_celery.message import Message, Origin
from rebound_celery.message.address import KafkaAddress
from rebound_celery.message.headers import kafka_headers

BATCH = 250
CLIENTS = ("kafka-python", "confluent")

#: Delivers one batch.
Deliver = Callable[[], object]


def make_messages(topic: str) -> list[Message]:
    origin = Origin(topic, 2, 1_234_567, 1_700_000_000_000)
    return [
        Message(
            id=f"0f9c4a52-7d1b-4c1e-9c63-{n:012}",
            value=bytes(range(200)),
            key=b"order-%d" % n,
            headers=(("trace", b"7"),),
            destination=KafkaAddress(topic),
            attempt=2,
            max_retries=3,
            base_delay=5,
            group="billing",
            origin=origin,
            first_failed_at=1_700_000_000_000,
        )
        for n in range(BATCH)
    ]


def through_destination(client: str, brokers: str, messages: Sequence[Message]) -> tuple[Deliver, Callable[[], None]]:
    destination = KafkaDestination([brokers], {}, 30, client)

    def deliver() -> None:
        assert all(isinstance(outcome, Delivered) for outcome in destination.send(messages))

    return deliver, destination.close


def bare_kafka_python(brokers: str, messages: Sequence[Message]) -> tuple[Deliver, Callable[[], None]]:
    producer = KafkaProducer(bootstrap_servers=brokers, acks="all", enable_idempotence=False, batch_size=128 * 1024)
    records = [(m.target.topic, m.value, m.key, kafka_headers(m)) for m in messages]  # type: ignore[union-attr]

    def deliver() -> None:
        futures = [producer.send(topic, value, key, headers) for topic, value, key, headers in records]
        for future in futures:
            future.get(30)

    return deliver, producer.close


def bare_confluent(brokers: str, messages: Sequence[Message]) -> tuple[Deliver, Callable[[], None]]:
    from confluent_kafka import Producer

    options = {"bootstrap.servers": brokers, "acks": "all", "linger.ms": 0.5, "partitioner": "murmur2_random"}
    producer = Producer({**options, "batch.size": 128 * 1024})
    records = [(m.target.topic, m.value, m.key, kafka_headers(m)) for m in messages]  # type: ignore[union-attr]

    def deliver() -> None:
        done: list[int] = []

        def report(index: int, error: Any, _message: Any) -> None:
            assert error is None
            done.append(index)

        for index, (topic, value, key, headers) in enumerate(records):
            producer.produce(topic, value, key, on_delivery=partial(report, index), headers=headers)
        while len(done) < len(records):
            producer.poll(0.2)

    return deliver, producer.flush


def measure(deliver: Deliver, batches: int, rounds: int) -> dict[str, float]:
    deliver()
    cpu, rates = [], []
    for _ in range(rounds):
        began, cpu_began = time.perf_counter(), time.process_time()
        for _ in range(batches):
            deliver()
        cpu.append((time.process_time() - cpu_began) / batches / BATCH * 1e6)
        rates.append(batches * BATCH / (time.perf_counter() - began))
    return {"cpu_us": round(statistics.median(cpu), 2), "rate": round(statistics.median(rates))}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", help="host:port of a broker; an embedded one is started without it")
    parser.add_argument("--client", choices=CLIENTS, help="measure only this one")
    parser.add_argument("--batches", type=int, default=40, help="batches of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args(arguments)
    bare = {"kafka-python": bare_kafka_python, "confluent": bare_confluent}
    with contextlib.ExitStack() as stack:
        brokers = options.kafka or stack.enter_context(EmbeddedKafka()).address
        for client in CLIENTS if options.client is None else (options.client,):
            topic = f"kafka-clients-{uuid.uuid4().hex[:8]}"
            create_topics(brokers, {topic: 4})
            messages = make_messages(topic)
            line: dict[str, Any] = {"client": client, "batch": BATCH}
            ways = {"destination": partial(through_destination, client), "bare": bare[client]}
            for name, way in ways.items():
                deliver, close = way(brokers, messages)
                line[name] = measure(deliver, options.batches, options.rounds)
                if options.profile and name == "destination":
                    profile = cProfile.Profile()
                    profile.runcall(measure, deliver, options.batches, 1)
                    pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(25)
                close()
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
